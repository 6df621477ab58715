"""The command line: one verb per rule of the workflow. Parse paths, load, call, save; no science."""

from spn.cli.main import main

__all__ = ["main"]
