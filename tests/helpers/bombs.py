"""Source files made to take memory, time or other files; run by test_hostile, in a process whose memory is measured.

Prints a line of JSON for each: the status and the last line of `preprocess`, and the most memory taken so far.
"""

import contextlib
import gzip
import io
import json
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from experiment import raster_params, write_params
from PIL import Image

MEGABYTE = 1 << 20
ZEROES = bytes(MEGABYTE)

Write = Callable[[Path], object]


def png(width: int = 8, height: int = 8) -> bytes:
    """Encode a small picture, and let it claim any size."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    header = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return content.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + content.getvalue()[33:]


def zip_of(path: Path, members: dict[str, bytes], **changes: Any) -> None:
    """Write an archive, in which the last member's entry is changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for key, value in changes.items():
            setattr(archive.infolist()[-1], key, value)


def deflated_zeroes(megabytes: int) -> bytes:
    """Deflate zeroes, a thousand to one, without doing it for each megabyte."""
    machine = zlib.compressobj(wbits=-15)
    block = machine.compress(ZEROES) + machine.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + zlib.compressobj(wbits=-15).flush()


def bomb_zip(path: Path, name: str, megabytes: int, claimed: int, start: bytes = b"") -> None:
    """Write an archive of one member that holds `start` and megabytes of zeroes, and claims any number of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = zlib.compressobj(wbits=-15)
    content = machine.compress(start) + machine.flush(zlib.Z_FULL_FLUSH) + deflated_zeroes(megabytes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, content)
        archive.infolist()[0].compress_type = zipfile.ZIP_DEFLATED
        archive.infolist()[0].file_size = claimed
    written = bytearray(path.read_bytes())
    written[8:10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    path.write_bytes(written)


def gz_zeroes(megabytes: int) -> bytes:
    return gzip.compress(ZEROES, mtime=0) * megabytes


def npy_header(shape: tuple[int, ...], length: int | None = None) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    if length is None:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + header


def mnist(images: bytes, labels: bytes) -> Write:
    """Return good test files and these training files."""

    def write(root: Path) -> None:
        (root / "mnist").mkdir()
        good = {"images-idx3": idx((3, 28, 28), bytes(3 * 784)), "labels-idx1": idx((3,), bytes(3))}
        for part, files in (("train", {"images-idx3": images, "labels-idx1": labels}), ("t10k", good)):
            for kind, content in files.items():
                (root / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(content)

    return write


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    magic = 0x0801 if len(shape) == 1 else 0x0803
    return gzip.compress(np.array([magic, *shape], ">u4").tobytes() + content, mtime=0)


def tar_of(*members: bytes) -> Write:
    return lambda root: (root / "cifar-10-python.tar.gz").write_bytes(b"".join(members))


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Pack a member's header by itself; gzip files may follow one another."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return gzip.compress(member.tobuf(tarfile.GNU_FORMAT), mtime=0)


def link(root: Path) -> None:
    (root / "secret.png").write_bytes(png())
    zip_of(root / "set.zip", {"a.png": png(), "b.png": str(root / "secret.png").encode()})
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        info = zipfile.ZipInfo("b.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, str(root / "secret.png"))


def overlapping(root: Path) -> None:
    """List one member many times, so that it is inflated many times."""
    bomb_zip(root / "set.zip", "a.png", 100, 100 * MEGABYTE)
    with zipfile.ZipFile(root / "set.zip", "a") as archive:
        archive.NameToInfo.clear()
        archive.filelist *= 1000
        archive._didModify = True  # type: ignore[attr-defined]


FOLDER = {"source": "folder", "size": 8, "channels": 3, "fit": "crop", "filter": "box", "validation": 1, "test": 1}
ARRAYS = {"source": "arrays", "size": 8, "channels": 1, "release": "made", "validation": 1, "test": 1}
MNIST = {"source": "mnist", "validation": 1}
CIFAR = {"source": "cifar10", "validation": 1}
PICTURES = {f"{index}.png": png() for index in range(5)}
PAX, LONG = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME

BOMBS: dict[str, tuple[dict[str, Any], Write]] = {
    "zip, parent folder": (FOLDER, lambda root: zip_of(root / "set.zip", PICTURES | {"../../out.png": png()})),
    "zip, absolute name": (FOLDER, lambda root: zip_of(root / "set.zip", PICTURES | {f"{root}/out.png": png()})),
    "zip, link": (FOLDER, link),
    "zip, exabytes claimed": (
        FOLDER,
        lambda root: zip_of(root / "set.zip", {"a.png": png()}, file_size=1 << 60),
    ),
    "zip, a gigabyte in 100 bytes": (FOLDER, lambda root: bomb_zip(root / "set.zip", "a.png", 1000, 100)),
    "zip, a thousand to one": (FOLDER, lambda root: bomb_zip(root / "set.zip", "a.png", 200, 200 * MEGABYTE)),
    "zip, overlapping members": (FOLDER, overlapping),
    "zip, many members": (
        FOLDER,
        lambda root: zip_of(root / "set.zip", {f"{index}.png": b"" for index in range(20_000)}),
    ),
    "png, 100,000 x 100,000": (FOLDER, lambda root: zip_of(root / "set.zip", {"a.png": png(100_000, 100_000)})),
    "npz, rows claimed": (
        ARRAYS,
        lambda root: zip_of(
            root / "set" / "train.npz",
            {"data.npy": npy_header((10**12, 64))},
            file_size=1 << 50,
        ),
    ),
    "npz, rows below zero": (
        ARRAYS,
        lambda root: zip_of(root / "set" / "train.npz", {"data.npy": npy_header((-5, 64))}),
    ),
    "npz, long header": (
        ARRAYS,
        lambda root: bomb_zip(
            root / "set" / "train.npz",
            "data.npy",
            1000,
            1001 * MEGABYTE,
            npy_header((2, 64), 1000 * MEGABYTE),
        ),
    ),
    "gz, zeroes": (MNIST, mnist(idx((3, 28, 28), bytes(3 * 784)), gz_zeroes(3000))),
    "gz, zeroes after labels": (
        MNIST,
        mnist(idx((3, 28, 28), bytes(3 * 784)), idx((3,), bytes(3)) + gz_zeroes(3000)),
    ),
    "gz, zeroes after images": (
        MNIST,
        mnist(idx((3, 28, 28), bytes(3 * 784)) + gz_zeroes(3000), idx((3,), bytes(3))),
    ),
    "tar, exabytes claimed": (CIFAR, tar_of(tar_header("cifar-10-batches-py/data_batch_1", 1 << 60), gz_zeroes(1))),
    "tar, long pax header": (CIFAR, tar_of(tar_header("x", 2000 * MEGABYTE, PAX), gz_zeroes(2000))),
    "tar, long name": (CIFAR, tar_of(tar_header("x", 2000 * MEGABYTE, LONG), gz_zeroes(2000))),
    "tar, large member": (CIFAR, tar_of(tar_header("x", 20_000 * MEGABYTE), gz_zeroes(20_000))),
    "tar, many members": (CIFAR, tar_of(tar_header("x", 0) * 200)),
    "tar, pax headers in a row": (CIFAR, tar_of(tar_header("x", 0, PAX) * 3000)),
}


def peak_megabytes() -> float:
    """Read the most memory this process has taken."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def files_in(folder: Path) -> list[Path]:
    """List everything but locks, which are empty."""
    return sorted(path for path in folder.rglob("*") if path.suffix != ".lock")


def run(folder: Path) -> None:
    from spn.cli import main

    for number, (name, (keys, write)) in enumerate(BOMBS.items()):
        root = folder / str(number)
        root.mkdir()
        write(root)
        params = raster_params({"name": "set", "bits": 5, **keys})
        path, errors = write_params(root, params), io.StringIO()
        arguments = [
            "preprocess",
            "--params",
            path,
            "--scale-factor",
            "1",
            "--sources",
            root,
            "--runs",
            root,
            "--output",
            root / "out.h5",
        ]
        before = files_in(folder.parent)
        with contextlib.redirect_stderr(errors):
            status = main([str(argument) for argument in arguments])
        said = [line for line in errors.getvalue().splitlines() if line.startswith("spn: error: ")]
        done = {"name": name, "status": status, "said": said, "megabytes": peak_megabytes()}
        print(json.dumps(done | {"written": files_in(folder.parent) != before}), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
