"""The command line: it parses options, and calls the verbs of rules (`spn.pipeline`) or of people (`spn.tools`)."""

from spn.cli.main import main

__all__ = ["main"]
