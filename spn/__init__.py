"""Subscale Pixel Networks with multidimensional upscaling (Menick & Kalchbrenner 2018), as an experiment pipeline."""

from typing import TYPE_CHECKING, Any

from spn.loading import keep_sources

if TYPE_CHECKING:
    from spn.api import ChainModel, ChainOffer, ChainWalk, load

__all__ = ["ChainModel", "ChainOffer", "ChainWalk", "load"]
__version__ = "0.1.0"

# Before any other import, so that digests are computed from the loaded source.
keep_sources()


def __getattr__(name: str) -> Any:
    """Import what people use when they use it, because torch takes seconds."""
    if name in __all__:
        from spn import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
