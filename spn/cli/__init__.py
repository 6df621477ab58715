"""The command line: one verb per rule of the workflow. It parses options and calls `spn.pipeline`."""

from spn.cli.main import main

__all__ = ["main"]
