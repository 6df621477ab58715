"""The `data` section: a union on `source`, one class per data source, named as its file in `spn/data/sources/`.

The folder of source files is not configured; by convention it is `sources/` (see `spn.data.sources`).
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
"""Suffixes of files that count as pictures, and the only Pillow decoders that may read them."""


NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Names of the classes of digits."""

ClassNames = tuple[Annotated[str, Field(pattern=r"[^\W_]")], ...]
"""Names of classes, each with a letter or a number."""


class Limit(Section):
    """Use only this many images of a split, drawn with `split_seed`; by default all.

    Kept images stay in order, and splits do not depend on the limit. The limit is reported with the figures.
    """

    train: Count | None = None
    """Number of training images to use."""
    validation: Count | None = None
    """Number of validation images to use."""
    test: Count | None = None
    """Number of test images to use."""


class SourceSection(Section):
    """The keys of every data source.

    `bits` is the modelled depth: the most significant bits of 8. `validation` images are taken from the training
    images by a permutation seeded with `split_seed`, and so are `test` images if the source has no test split; if it
    has one, there is no such key. `num_classes` is the number of classes of its labels, 0 if there are none or none are
    stated, and `class_names` are their names, if stated. `licence` is that of the images, if stated.
    """

    if TYPE_CHECKING:  # defined by every source, as fields or as constants
        source: str
        licence: str
        num_classes: int
        class_names: tuple[str, ...]
        release: str

    name: Name
    """Name of the data set: of its folder below data/, its MLflow experiment, and its files in sources/ if any."""
    bits: Annotated[int, Whole, Field(ge=1, le=8)]
    """Modelled depth: the most significant bits of 8."""
    split_seed: Seed = 0
    """Seeds the permutation from which splits are drawn."""
    limit: Limit = Limit()
    """Use only some images of a split."""
    source_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The SHA-256 of the source, as `preprocess` prints it; a source with another digest is refused."""

    @property
    def places(self) -> tuple[str, ...]:
        """Paths of the source's files, below `sources/`; none if the source is bundled."""
        return ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes, in lower case, of the files that are read in the folders of `places`; if empty, all are read."""
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
    class_names: ClassVar[tuple[str, ...]] = NUMERALS
    licence: ClassVar[str] = "CC BY 4.0 (UCI Machine Learning Repository, doi 10.24432/C50P49)"
    source: Literal["digits"]
    """The handwritten digits bundled with scikit-learn."""
    bits: Annotated[Literal[5], Whole]
    """Modelled depth; the digits have 17 grey levels."""
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
        """The level shown as white: the digits use levels 0 to 16 of 32."""
        return 16


class PhotosData(SourceSection):
    """RGB crops of the two photographs bundled with scikit-learn.

    Each photograph is cut into three vertical bands for training, validation and test; `validation` and `test` are
    fractions of its width. Crops of `size` lie on a grid of `stride` inside a band, so splits share no pixel.
    """

    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()
    licence: ClassVar[str] = "CC BY 2.0 (photographs by danielbuechele and vultilion, bundled with scikit-learn)"
    source: Literal["photos"]
    """Crops of the two photographs bundled with scikit-learn."""
    size: Count
    """Height and width of a crop in pixels."""
    stride: Count
    """Pixels from one crop to the next, across and down."""
    validation: Annotated[float, Field(gt=0, lt=0.5)]
    """Fraction of the width of the photographs for the validation split."""
    test: Annotated[float, Field(gt=0, lt=0.5)]
    """Fraction of the width of the photographs for the test split."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, 3

    def band(self, width: int, split: str) -> tuple[int, int]:
        """Return the first and end column of a split; from left to right: train, validation, test."""
        last = width - round(self.test * width)
        middle = last - round(self.validation * width)
        return {"train": (0, middle), "validation": (middle, last), "test": (last, width)}[split]


class Cifar10Data(SourceSection):
    """CIFAR-10 in its official Python files: 32x32 RGB with labels and the official test split."""

    num_classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    licence: ClassVar[str] = "not stated by its authors; cite Krizhevsky 2009"
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
    """MNIST in its official idx files: 28x28 grey with labels and the official test split."""

    num_classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = NUMERALS
    licence: ClassVar[str] = "CC BY-SA 3.0"
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

    Sub-folders `train`, `validation` and `test` are used as splits. If `validation` or `test` is missing, the key of
    that name says how many images to draw from the others. `fit: crop` takes the centre square of `size`;
    `fit: resize` takes the largest centre square and resizes it to `size` with `filter`. Unreadable images, and those
    with a side shorter than `size`, are listed and refused, or with `unreadable: skip` left out and counted in the
    attributes of the HDF5 file.
    """

    source: Literal["folder"]
    """A folder or zip of images."""
    size: Count
    """Height and width of the images in pixels."""
    channels: Annotated[Literal[1, 3], Whole]
    """1 for grey, 3 for RGB; other pictures are converted."""
    fit: Literal["crop", "resize"]
    """Take the centre square of `size`, or resize the largest centre square to it."""
    filter: Filter
    """Pillow's filter for resizing."""
    validation: Count | None = None
    """Images drawn for the validation split, if there is no folder of that name."""
    test: Count | None = None
    """Images drawn for the test split, if there is no folder of that name."""
    num_classes: CountOrZero = 0
    """Number of classes, which are the folders directly below a split's folder, sorted by name; 0 for no classes."""
    class_names: ClassNames = ()
    """Names of the classes, in the order of their folders, for stages that are captioned."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """Whether pictures that are unreadable or too small stop preprocessing, or are left out and counted."""
    release: str = ""
    """The release of the data set, for the report."""
    licence: str = ""
    """The licence of the images, for the model file."""

    @property
    def places(self) -> tuple[str, ...]:
        """A folder or a zip."""
        return self.name, f"{self.name}.zip"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of pictures."""
        return tuple(PICTURE_FORMATS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, self.channels


class ArraysData(SourceSection):
    """`.npy` or `.npz` arrays of uint8 images, the format of down-sampled ImageNet.

    `release` names the release that is measured: "ImageNet 32" and "ImageNet 64" exist in two versions each. Labels are
    stored from 0; `first_label` is the smallest in the files, 1 in the labelled ImageNet release.
    """

    source: Literal["arrays"]
    """Arrays of images, the format of down-sampled ImageNet."""
    size: Count
    """Height and width of the images in pixels."""
    channels: Annotated[Literal[1, 3], Whole]
    """1 for grey, 3 for RGB."""
    validation: Count | None = None
    """Images drawn for the validation split, if it has no file."""
    test: Count | None = None
    """Images drawn for the test split, if it has no file."""
    first_label: Annotated[Literal[0, 1], Whole] = 1
    """The smallest label in the files."""
    num_classes: CountOrZero = 0
    """Number of classes, for stages that are class_conditional; 0 if there are none."""
    class_names: ClassNames = ()
    """Names of the classes, in the order of their labels, for stages that are captioned."""
    release: Annotated[str, Field(min_length=1)]
    """The release of the data set; published figures belong to one release."""
    licence: str = ""
    """The licence of the images, for the model file."""

    @property
    def places(self) -> tuple[str, ...]:
        """A folder."""
        return (self.name,)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of numpy's arrays."""
        return ".npy", ".npz"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.size, self.size, self.channels


if TYPE_CHECKING:
    DataSection: TypeAlias = SourceSection
else:
    DataSection = Annotated[Union[tuple(SourceSection.__subclasses__())], Field(discriminator="source")]  # noqa: UP007
