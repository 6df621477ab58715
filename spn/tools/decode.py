"""Decodes a file of coded pictures into a folder."""

from pathlib import Path, PurePath

from spn.api import load
from spn.api.coding import DECODING_BATCH_SIZE
from spn.api.coding import decode as decode_pictures
from spn.codec.container import unpack_header
from spn.config import InputError
from spn.files import write_bytes
from spn.pipeline.place import choose_device
from spn.report.pictures import draw_picture


def decode(
    model: Path,
    file: Path,
    output: Path,
    *,
    chain: str | None = None,
    batch_size: int | None = None,
    threads: int = 1,
) -> Path:
    """Decode pictures into the folder `output` as PNG, all or none; return it.

    Pictures have the names that they were coded with. Raises InputError, naming the file, if it is damaged, or was
    coded with another model or version.
    """
    choose_device("cpu", threads)
    trained = load(model, chain)
    content = read_coded(file)
    try:
        header, _ = unpack_header(content)
        names = [_stem(name) for name in header.names or [f"{number:04}.png" for number in range(len(header.sizes))]]
        if len({*names}) < len(names):
            raise InputError("expected pictures whose names differ without their suffixes, got some of one name")
        _, pictures = decode_pictures(trained, content, batch_size or DECODING_BATCH_SIZE)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    white = trained.params.data.white_level
    for number, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        shown = picture[..., :1] if number in header.greys else picture
        write_bytes(output / f"{name}.png", draw_picture(shown, white))
    return output


def read_coded(file: Path) -> bytes:
    """Read a file of coded pictures; raise InputError if there is none."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: expected a file of coded pictures: {error.strerror}") from error


def _stem(name: str) -> str:
    """Return the name of a picture without its suffix; raise InputError for one that leads out of a folder."""
    if not isinstance(name, str) or PurePath(name).name != name or not PurePath(name).stem.strip("."):
        raise InputError(f"expected names of files without folders, got {name!r}")
    return PurePath(name).stem
