"""Images in: sources, the HDF5 files of slices made of them, and how these are read."""

from spn.data.hdf5 import SliceFile, read_images, write_images
from spn.data.preprocess import preprocess
from spn.data.sources import SPLITS, Source, Split, open_source

__all__ = ["SPLITS", "SliceFile", "Source", "Split", "open_source", "preprocess", "read_images", "write_images"]
