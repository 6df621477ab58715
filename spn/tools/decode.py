"""Decodes a file of coded pictures into a folder."""

from pathlib import Path, PurePath

from spn.api import load
from spn.api.coding import DECODING_BATCH_SIZE
from spn.api.coding import decode as decode_pictures
from spn.config import InputError
from spn.files import write_bytes
from spn.pipeline.place import choose_device
from spn.report.pictures import draw_picture
from spn.tools.writing import check_output


def decode(
    model: Path,
    file: Path,
    output: Path,
    *,
    chain: str | None = None,
    batch_size: int | None = None,
    threads: int = 1,
) -> Path:
    """Decode pictures into the folder `output` as PNG, once all are decoded; return it.

    Pictures have the names that they were coded with, and are written over no others. Raises InputError, naming the
    file, if it is damaged, or was coded with another model or version.
    """
    choose_device("cpu", threads)
    check_output("--output", output, [], is_folder=True)
    trained = load(model, chain)
    content = read_coded(file)
    try:
        header, pictures = decode_pictures(trained, content, batch_size or DECODING_BATCH_SIZE)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    white = trained.params.data.white_level
    names = header.names or [f"{number:04}" for number in range(len(pictures))]
    contents = {}
    for number, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        shown = picture[..., :1] if number in header.greys else picture
        path = output / f"{PurePath(name).stem}.png"
        contents[path] = draw_picture(shown, white)
        # It may be the very picture that was coded, and hold more than its pixels.
        if path.is_file() and path.read_bytes() != contents[path]:
            raise InputError(f"--output: expected no picture to write over but the same, got another {path}")
    for path, content in contents.items():
        write_bytes(path, content)
    return output


def read_coded(file: Path) -> bytes:
    """Read a file of coded pictures; raise InputError if there is none."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: expected a file of coded pictures: {error.strerror}") from error
