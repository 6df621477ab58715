"""Subscale Pixel Networks with multidimensional upscaling (Menick & Kalchbrenner 2018), as an experiment pipeline."""

__version__ = "0.1.0"
