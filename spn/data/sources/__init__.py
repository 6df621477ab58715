"""Where images come from: one file per source; files lie in `sources/` by convention, see its README."""

from pathlib import Path

from spn.config import ArraysData, Cifar10Data, DataSection, DigitsData, FolderData, MnistData, PhotosData
from spn.data.sources.arrays import open_arrays
from spn.data.sources.cifar10 import open_cifar10
from spn.data.sources.digits import open_digits
from spn.data.sources.folder import open_folder
from spn.data.sources.mnist import open_mnist
from spn.data.sources.photos import open_photos
from spn.data.sources.source import Item, Source

__all__ = ["Item", "Source", "open_source"]


def open_source(section: DataSection, root: Path, progress: bool = False) -> Source:
    """Open the source that a `data` section names, with its files below `root`.

    Raises InputError where a file is missing, damaged or not what the section says.
    """
    match section:
        case DigitsData():
            return open_digits(section)
        case PhotosData():
            return open_photos(section)
        case Cifar10Data():
            return open_cifar10(section, root)
        case MnistData():
            return open_mnist(section, root)
        case FolderData():
            return open_folder(section, root, progress)
        case ArraysData():
            return open_arrays(section, root)
