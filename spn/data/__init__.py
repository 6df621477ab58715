"""Data: sources of images, and HDF5 files of their slices, written and read.

Nothing is imported here, so that reading files of slices does not load every data source.
"""
