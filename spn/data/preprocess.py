"""Turns the images of a source into an HDF5 file of slices, with one batch in memory at a time."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from spn.config import DataSection, InputError
from spn.data.layout import SPLITS, Layout, Origin, Split
from spn.data.sources import Item, Resources, Source, open_source
from spn.data.sources.source import shown
from spn.data.sources.spool import Kept
from spn.data.writing import SliceWriter, create_slices
from spn.notes import RECIPE
from spn.provenance import Recipe, source_state

BATCH_SIZE = 256
ORDER: tuple[Split, ...] = ("test", "train", "validation")
"""The test split comes first, so that finding duplicates needs only its digests in memory."""

Images = UInt8[np.ndarray, "image height width channel"]


class DuplicateCount:
    """Counts the test images that equal an image of another split; pass the test images first."""

    def __init__(self) -> None:
        self.count = 0
        self._unmatched: Counter[bytes] = Counter()

    def update(self, split: Split, images: Images) -> None:
        """Add some images."""
        digests = (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
        if split == "test":
            self._unmatched.update(digests)
        else:
            self.count += sum(self._unmatched.pop(digest, 0) for digest in digests)


def write_slices(
    section: DataSection,
    scale_factor: int,
    cuts: tuple[int, ...],
    root: Path,
    output: Path,
    progress: bool = True,
    recipe: Recipe | None = None,
    processes: int = 1,
    kept: Kept | None = None,
) -> None:
    """Write the images of a `data` section to `output`, in slices and bit ranges; print one line that counts them.

    The source's files lie below `root`. Raises InputError, and writes nothing, if a file is missing, damaged or changed
    meanwhile, or if the source has not the stated digest. The line has the digest, so that it can be stated, and names
    the first skipped files; stderr gets a line for each. `recipe` is noted in the file; the workflow makes a file
    without one again. `processes` decode pictures; their number does not change the file. If these are `kept`, another
    call goes on from them.
    """
    layout = Layout(scale_factor, cuts, section.shape)
    assert layout.bits == section.bits
    state = source_state(section, root)
    kept = None if kept is None else kept.of(state)
    source = open_source(section, root, Resources(processes, _existing_folder(output), progress, kept))
    _check_digest(section, source, root)
    counts = {split: source.count(split) for split in SPLITS}
    labelled = {split for split in SPLITS if source.labelled(split)}
    with create_slices(output, layout, counts, labelled) as writer:
        duplicates = _write(source, writer, section.name, progress)
        if source_state(section, root) != state:
            raise InputError(f"{root / section.name}: the source changed while it was read; run the same command again")
        writer.finish(
            Origin(
                dataset=section.name,
                source=section.source,
                release=source.release,
                source_digest=source.digest,
                limit=section.limit.model_dump_json(),
                skipped=len(source.skipped),
                duplicates=duplicates,
            ),
            {RECIPE: recipe, "source_state": state},
        )
    for name, reason in source.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    images = ", ".join(f"{count} {split}" for split, count in counts.items())
    skipped = f"{len(source.skipped)} skipped{': ' if source.skipped else ''}{shown(source.skipped)}"
    print(
        f"{output}: {images} images; {duplicates} of test also in train or validation; {skipped}; "
        f"source_digest {source.digest}"
    )


def _existing_folder(output: Path) -> Path:
    """Find the folder of a file, or the first folder above it that exists."""
    return next(folder for folder in output.absolute().parents if folder.is_dir())


def _check_digest(section: DataSection, source: Source, root: Path) -> None:
    """Raise InputError unless the source has the stated digest, if one is stated."""
    if section.source_digest in (None, source.digest):
        return
    places = [str(root / place) for place in section.places if (root / place).exists()]
    raise InputError(
        f"{', '.join(places) or section.source}: expected a source of SHA-256 {section.source_digest}, as "
        f"data.source_digest says, got {source.digest}: damaged, or of another release"
    )


def _write(source: Source, writer: SliceWriter, name: str, progress: bool) -> int:
    """Write all images; return how many test images are in another split too."""
    duplicates = DuplicateCount()
    total = sum(map(source.count, SPLITS))
    with tqdm(total=total, desc=f"preprocess {name}", unit="image", disable=not progress) as bar:
        for split in ORDER:
            for images, labels in _batches(source.stream(split)):
                writer.append(split, images, labels)
                duplicates.update(split, images)
                bar.update(len(images))
    return duplicates.count


def _batches(stream: Iterable[Item]) -> Iterator[tuple[Images, list[int] | None]]:
    items = iter(stream)
    while batch := list(islice(items, BATCH_SIZE)):
        labels = [label for _, label in batch if label is not None]
        yield np.stack([image for image, _ in batch]), labels or None
