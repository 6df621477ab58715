"""Digests of files, in the form that `sha256sum` prints."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing_sha256(digests: Iterable[tuple[str, str]]) -> str:
    """Compute the SHA-256 of the lines that `sha256sum` prints for files with these (name, SHA-256), in this order."""
    listing = hashlib.sha256()
    for name, digest in digests:
        listing.update(f"{digest}  {name}\n".encode(errors="surrogateescape"))  # any name that Linux has
    return listing.hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """Compute the SHA-256 of the lines that `sha256sum` prints for the files in their folder."""
    return listing_sha256((path.name, file_sha256(path)) for path in paths)
