"""Images in: sources, the HDF5 files of slices made of them, and how these are read.

Nothing is imported here, so that whoever reads files of slices does not load every data source.
"""
