"""What options may be, and the parser that says so in one line."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

MOST = 2**31 - 1
"""More than any machine can do; NumPy and torch refuse numbers far beyond it in words of their own."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, as all other mistakes are answered."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake, and where to read more; exit with status 2."""
        self.exit(2, f"spn: error: {message}; see {self.prog} --help\n")


def count(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text}")
    if int(text) > MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number of at most {MOST:,}, got {text}")
    return int(text)


def number(text: str) -> int:
    """Read a whole number of at least 0."""
    return 0 if text == "0" else count(text)


def path(text: str) -> Path:
    """Read a path; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return Path(text)


def folder(text: str) -> Path:
    """Read the path of a folder to write to."""
    found = path(text)
    if found.exists() and not found.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, got a file: {text}")
    return found


def file_ending(suffix: str) -> Callable[[str], Path]:
    """Return a reader of the path of a result to write, which replaces no file of another kind, such as a source."""

    def read(text: str) -> Path:
        found = path(text)
        if found.suffix != suffix or found.is_dir():
            raise argparse.ArgumentTypeError(f"expected a file ending in {suffix}, got {text}")
        return found

    return read
