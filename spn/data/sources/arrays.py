"""`.npy` and `.npz` arrays of uint8 images, the format of the down-sampled ImageNet releases.

Rows are read one after the other, so that neither a compressed `.npz` nor a large `.npy` is ever in memory as a whole.
"""

import io
import re
import tokenize
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64
from numpy.lib import format as npy_format

from spn.config import ArraysData, InputError
from spn.data.digest import files_sha256
from spn.data.layout import Split
from spn.data.sources.files import BOUNDED_METHODS, DAMAGED_ZIP, DEFLATE_RATIO, missing_file, read_exactly
from spn.data.sources.source import SOURCE_BITS, Item, Pool, Resources, Source, draw_parts
from spn.files import check_file

PREFIXES: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
IMAGES, LABELS = "data", "labels"
"""Keys of an `.npz`."""

DAMAGED = (*DAMAGED_ZIP, TypeError, SyntaxError, MemoryError, OverflowError, tokenize.TokenError)
"""Errors of zipfile and numpy for files of another kind."""

MAX_HEADER_BYTES = 1 << 14
"""More than numpy accepts; a header states its own length, which may be anything."""


@dataclass(frozen=True)
class Header:
    """The header of an array, and the position of its first byte."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int


@dataclass(frozen=True)
class ArrayFile:
    """One file of images, [N, H, W, C] or, plane after plane, [N, C*H*W]; labels from 0, if it has any."""

    path: Path
    header: Header
    labels: Int64[np.ndarray, " image"] | None

    @property
    def count(self) -> int:
        """Number of images."""
        return self.header.shape[0]


class ArrayPool(Pool):
    """The images of some files, one after the other."""

    def __init__(self, files: list[ArrayFile], shape: tuple[int, int, int]) -> None:
        self.files = files
        self.shape = shape
        labelled = {file.labels is not None: file.path for file in files}
        if len(labelled) > 1:
            raise InputError(
                f"{labelled[False]}: expected labels, as {labelled[True].name} of the same split has, found none"
            )

    @property
    def labelled(self) -> bool:
        """Whether every file has labels."""
        return all(file.labels is not None for file in self.files)

    def __len__(self) -> int:
        return sum(file.count for file in self.files)

    def stream(self, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        """Return the images at `indices`."""
        first = 0
        for file in self.files:
            inside = indices[(indices >= first) & (indices < first + file.count)] - first
            first += file.count
            if len(inside):
                yield from self._stream_file(file, inside)

    def _stream_file(self, file: ArrayFile, indices: Int64[np.ndarray, " image"]) -> Iterator[Item]:
        height, width, channels = self.shape
        size = height * width * channels
        with _open_array(file.path, IMAGES) as (content, _):
            for index in indices.tolist():
                row = read_exactly(content, size, file.path, file.header.start + index * size)
                image = np.frombuffer(row, dtype=np.uint8)
                if len(file.header.shape) == 2:
                    image = image.reshape(channels, height, width).transpose(1, 2, 0)
                yield image.reshape(self.shape), None if file.labels is None else int(file.labels[index])


def open_arrays(section: ArraysData, root: Path, resources: Resources) -> Source:
    """Open the files of `{name}/`; without a test file, val is the test split, as is custom for ImageNet."""
    folder = root / section.places[0]
    groups = _group(folder)
    if "train" not in groups:
        raise missing_file(folder / "train.npz", "train*.npz or train*.npy", "URL")
    if "test" not in groups and "validation" in groups:
        groups["test"] = groups.pop("validation")
    pools = {
        split: ArrayPool([_open_file(path, section) for path in paths], section.shape)
        for split, paths in groups.items()
    }
    return Source(
        release=section.release,
        digest=files_sha256(path for split in sorted(groups) for path in groups[split]),
        parts=draw_parts(section, pools, {"validation": section.validation, "test": section.test}, str(folder)),
        drop_bits=SOURCE_BITS - section.bits,
    )


def _group(folder: Path) -> dict[Split, list[Path]]:
    """Sort the array files of a folder by split, batch 2 before batch 10."""
    groups: dict[Split, list[Path]] = {}
    paths = [path for suffix in ("npy", "npz") for path in folder.glob(f"*.{suffix}")]
    for path in sorted(paths, key=_natural_order):
        for prefix, split in PREFIXES.items():
            if path.name.startswith(prefix):
                groups.setdefault(split, []).append(path)
                break
        else:
            raise InputError(f"{path}: expected a name that starts with train, val or test")
    return groups


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(number or 0), text) for text, number in re.findall(r"(\D*)(\d*)", path.name)]


def _open_file(path: Path, section: ArraysData) -> ArrayFile:
    check_file(path)
    header = _read_header(path, IMAGES)
    height, width, channels = section.shape
    fits = header.shape[1:] in {(height, width, channels), (channels * height * width,)}
    if header.dtype != np.uint8 or not fits:
        raise InputError(
            f"{path}: expected uint8 of shape [N, {height}, {width}, {channels}] or [N, {channels * height * width}], "
            f"got {header.dtype} of shape {list(header.shape)}"
        )
    labels = _read_labels(path, header.shape[0], section.first_label) if _has_labels(path) else None
    return ArrayFile(path, header, labels)


def _has_labels(path: Path) -> bool:
    if path.suffix == ".npy":
        return False
    with zipfile.ZipFile(path) as archive:
        return f"{LABELS}.npy" in archive.namelist()


def _read_labels(path: Path, count: int, first_label: int) -> Int64[np.ndarray, " image"]:
    header = _read_header(path, LABELS)
    if header.dtype.kind not in "iu" or header.shape != (count,):
        raise InputError(f"{path}: expected {count} whole numbers as labels, got {header.dtype} {list(header.shape)}")
    with _open_array(path, LABELS) as (file, _):
        content = read_exactly(file, count * header.dtype.itemsize, path, header.start)
    labels = np.frombuffer(content, dtype=header.dtype).astype(np.int64)
    if labels.min(initial=first_label) < first_label:
        raise InputError(f"data.first_label: expected the smallest label of {path}, {labels.min()}, got {first_label}")
    return labels - first_label


@contextmanager
def _open_array(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open the array of an `.npy`, or the array `key` of an `.npz`; yield its bytes and their number."""
    if path.suffix == ".npy":
        with path.open("rb") as file:
            yield file, path.stat().st_size
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
            info = archive.getinfo(f"{key}.npy")
            if info.compress_type not in BOUNDED_METHODS:
                raise ValueError(f"compression by method {info.compress_type}, not by deflate")
            if info.file_size > DEFLATE_RATIO * path.stat().st_size:
                raise ValueError(f"{info.file_size} bytes, more than a file of its size can hold")
            yield member, info.file_size


def _read_header(path: Path, key: str) -> Header:
    """Read an array's header, without unpickling; raise InputError if the array is not complete."""
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    try:
        with _open_array(path, key) as (file, size), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers written by Python 2
            head = io.BytesIO(file.read(MAX_HEADER_BYTES))
            shape, is_fortran, dtype = readers[npy_format.read_magic(head)](head)
            start = head.tell()
    except DAMAGED as error:
        raise InputError(f"{path}: expected a numpy array {key}, got: {' '.join(str(error).split())}") from error
    num_bytes = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if is_fortran or dtype.hasobject or not shape or min(shape) < 0 or size < num_bytes:
        raise InputError(f"{path}: expected an array {key} of {num_bytes} bytes in C order, got {size} bytes")
    return Header(shape, dtype, start)
