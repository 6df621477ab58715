"""Subscale Pixel Networks with multidimensional upscaling (Menick & Kalchbrenner 2018), as an experiment pipeline."""

from spn.loading import keep_sources

__version__ = "0.1.0"

# Before any other import, so that digests are computed from the loaded source.
keep_sources()
