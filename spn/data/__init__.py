"""Images in: sources, the HDF5 files of slices made of them, and how these are read.

Nothing is imported here, so that the code digest of a training, which reads `hdf5`, does not cover every data source.
"""
