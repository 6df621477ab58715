"""The `data` section: a union on `source`, one class per data source, named as its file in `spn/data/sources/`.

Where the files of a source lie is not configuration: by convention it is `sources/`, see `spn.data.sources`.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, Union

from pydantic import Field

from spn.config.section import Count, CountOrZero, Name, Section, Seed, Whole

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's resampling filters."""

PICTURE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Which files count as pictures, and the only decoders of Pillow that may read them."""


class Limit(Section):
    """Use only so many images of a split, drawn with `split_seed`; absent: all of them.

    The images kept stay in their order, and which images belong to which split does not depend on the limit. It is
    recorded beside the figures.
    """

    train: Count | None = None
    """Images used of the training split."""
    validation: Count | None = None
    """Images used of the validation split."""
    test: Count | None = None
    """Images used of the test split."""


class SourceSection(Section):
    """What every data source states.

    `bits` is the depth modelled; sources of 8 bits keep their `bits` most significant ones. `validation` images are
    taken out of the training images by a permutation seeded with `split_seed`, and so are `test` images where the
    source has no test split of its own. Where it has one, no count is stated. Every source has `num_classes`, the
    number of classes its labels tell apart; 0 where there are none, or none are stated.
    """

    if TYPE_CHECKING:  # stated by every source, as fields or as constants
        source: str
        num_classes: int
        release: str

    name: Name
    """What the data set is called: its folder below data/, its experiment in MLflow, and where files are read, they."""
    bits: Annotated[int, Whole, Field(ge=1, le=8)]
    """Depth that is modelled; sources of 8 bits keep their most significant ones."""
    split_seed: Seed = 0
    """Seeds the permutation that splits are drawn with."""
    limit: Limit = Limit()
    """Use only so many images of a split."""
    source_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The SHA-256 of the source that `preprocess` prints; where it is stated, a source of other bytes is refused."""

    @property
    def places(self) -> tuple[str, ...]:
        """Where the source's files may lie, below `sources/`; none for what is bundled."""
        return ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The only files that are read in the folders of `places`, by their suffix in lower case; none: all are."""
        return ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    @property
    def white_level(self) -> int:
        """The level shown as white."""
        return (1 << self.bits) - 1


class DigitsData(SourceSection):
    """The 1,797 handwritten digits bundled with scikit-learn: 8x8, 17 grey levels, kept exactly in 5 bits."""

    num_classes: ClassVar[int] = 10
    source: Literal["digits"]
    """The handwritten digits bundled with scikit-learn."""
    bits: Annotated[Literal[5], Whole]
    """Depth that is modelled; the digits have 17 grey levels."""
    validation: Count
    """Images drawn for the validation split."""
    test: Count
    """Images drawn for the test split."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return 8, 8, 1

    @property
    def white_level(self) -> int:
        """The level shown as white: the digits leave the upper half of their 5 bits almost unused."""
        return 16


class PhotosData(SourceSection):
    """RGB crops of the two photographs bundled with scikit-learn.

    Each photograph is cut in three vertical bands, train, validation and test; `validation` and `test` are the
    fractions of its width. Crops of `size` lie on a grid of `stride` inside a band, so splits share no pixel.
    """

    num_classes: ClassVar[int] = 0
    source: Literal["photos"]
    """Crops of the two photographs bundled with scikit-learn."""
    size: Count
    """Height and width of a crop in pixels."""
    stride: Count
    """Pixels from one crop to the next, across and down."""
    validation: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the width of the photographs that is the validation split."""
    test: Annotated[float, Field(gt=0, lt=0.5)]
    """Share of the width of the photographs that is the test split."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, 3

    def band(self, width: int, split: str) -> tuple[int, int]:
        """Return first and end column of a split: train, validation and test lie from left to right."""
        last = width - round(self.test * width)
        middle = last - round(self.validation * width)
        return {"train": (0, middle), "validation": (middle, last), "test": (last, width)}[split]


class Cifar10Data(SourceSection):
    """CIFAR-10 in its official python files; 32x32 RGB with labels and the official test split."""

    num_classes: ClassVar[int] = 10
    source: Literal["cifar10"]
    """CIFAR-10."""
    validation: Count
    """Images drawn from the 50,000 training images for the validation split."""

    @property
    def places(self) -> tuple[str, ...]:
        """The archive, and the folder it unpacks to."""
        return "cifar-10-python.tar.gz", "cifar-10-batches-py"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return 32, 32, 3


class MnistData(SourceSection):
    """MNIST in its official idx files; 28x28 grey with labels and the official test split."""

    num_classes: ClassVar[int] = 10
    source: Literal["mnist"]
    """MNIST."""
    validation: Count
    """Images drawn from the 60,000 training images for the validation split."""

    @property
    def places(self) -> tuple[str, ...]:
        """Images and labels of the training split, then of the test split."""
        return tuple(
            f"mnist/{part}-{kind}.gz"
            for part in ("train", "t10k")
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return 28, 28, 1


class FolderData(SourceSection):
    """A folder or zip of images.

    Sub-folders `train`, `validation` and `test` are taken as they are; for those that are not there, `validation` and
    `test` count the images drawn from the others. `fit: crop` takes the centre square of `size`; `fit: resize` takes
    the largest centre square and resizes it to `size` with the named `filter`. Images that cannot be read, or have a
    side shorter than `size`, are all listed and refused, unless `unreadable: skip`, which counts them in the
    attributes of the HDF5 file.
    """

    source: Literal["folder"]
    """A folder or zip of images."""
    size: Count
    """Height and width of the images in pixels."""
    channels: Annotated[Literal[1, 3], Whole]
    """1 for grey, 3 for RGB; pictures of the other kind are converted."""
    fit: Literal["crop", "resize"]
    """Take the centre square of `size`, or resize the largest centre square to it."""
    filter: Filter
    """Pillow's filter for resizing."""
    validation: Count | None = None
    """Images drawn for the validation split, where there is no folder of that name."""
    test: Count | None = None
    """Images drawn for the test split, where there is no folder of that name."""
    num_classes: CountOrZero = 0
    """Classes, which are the folders directly below a split's, in the order of their names; 0: folders are none."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """Whether pictures that cannot be read, or are too small, stop everything or are left out and counted."""
    release: str = ""
    """Which release of the data set this is, for the report."""

    @property
    def places(self) -> tuple[str, ...]:
        """A folder, or a zip."""
        return self.name, f"{self.name}.zip"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those of pictures."""
        return tuple(PICTURE_FORMATS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, self.channels


class ArraysData(SourceSection):
    """`.npy` or `.npz` arrays of uint8 images, as the down-sampled ImageNet releases use.

    `release` says which release was measured: two different "ImageNet 32" and "ImageNet 64" exist. Labels are stored
    from 0; `first_label` is the smallest in the files, 1 in the labelled ImageNet release.
    """

    source: Literal["arrays"]
    """Arrays of images, as down-sampled ImageNet is published."""
    size: Count
    """Height and width of the images in pixels."""
    channels: Annotated[Literal[1, 3], Whole]
    """1 for grey, 3 for RGB."""
    validation: Count | None = None
    """Images drawn for the validation split, where it has no file."""
    test: Count | None = None
    """Images drawn for the test split, where it has no file."""
    first_label: Annotated[Literal[0, 1], Whole] = 1
    """The smallest label in the files."""
    num_classes: CountOrZero = 0
    """Classes of the labels, for stages that are class_conditional; 0 where there are none."""
    release: Annotated[str, Field(min_length=1)]
    """Which release of the data set this is; published figures belong to one of them."""

    @property
    def places(self) -> tuple[str, ...]:
        """A folder."""
        return (self.name,)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those of numpy's arrays."""
        return ".npy", ".npz"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, self.channels


if TYPE_CHECKING:
    DataSection: TypeAlias = SourceSection
else:
    DataSection = Annotated[Union[tuple(SourceSection.__subclasses__())], Field(discriminator="source")]  # noqa: UP007
