"""Files written by renaming, so that a killed process leaves none by halves."""

import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text like `write_bytes`."""
    write_bytes(path, content.encode())
