"""What options may be, and the parser that says so in one line."""

import argparse
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, as all other mistakes are answered."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake, and where to read more; exit with status 2."""
        self.exit(2, f"spn: error: {message}; see {self.prog} --help\n")


def count(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text}")
    return int(text)


def number(text: str) -> int:
    """Read a whole number of at least 0."""
    return 0 if text == "0" else count(text)


def path(text: str) -> Path:
    """Read a path; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return Path(text)
