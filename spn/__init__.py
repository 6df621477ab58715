"""Subscale Pixel Networks with multidimensional upscaling (Menick & Kalchbrenner 2018), as an experiment pipeline."""

from spn.loading import keep_sources

__version__ = "0.1.0"

# Before anything else is imported, so that what a digest is taken of is what was loaded.
keep_sources()
