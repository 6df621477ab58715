"""A lossless code for images from the laws of a chain, decoded the same on every machine."""
