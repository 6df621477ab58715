"""Data sources, one Python file each; by convention their images lie in `sources/`, see its README."""

import importlib
from pathlib import Path

from spn.config import DataSection
from spn.data.sources.source import Item, Resources, Source

__all__ = ["Item", "Resources", "Source", "open_source"]

ALONE = Resources()
"""One process, without a progress bar."""


def open_source(section: DataSection, root: Path, resources: Resources = ALONE) -> Source:
    """Open the source that a `data` section names, with its files below `root`.

    The module is imported by name, so that the digest of a source's code covers no other source. Raises InputError if
    a file is missing, damaged, or does not match the section.
    """
    module = importlib.import_module(f"spn.data.sources.{section.source}")
    source: Source = getattr(module, f"open_{section.source}")(section, root, resources)
    return source
