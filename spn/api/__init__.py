"""A trained chain in a file, and in Python: what `import spn` offers."""

from pathlib import Path

import torch

from spn.api.chain_model import ChainModel
from spn.api.chain_walk import ChainOffer, ChainWalk
from spn.api.folder import find
from spn.api.model_file import load_model

__all__ = ["ChainModel", "ChainOffer", "ChainWalk", "load"]


def load(path: str | Path, chain: str | None = None, device: "str | torch.device" = "cpu") -> ChainModel:
    """Load a trained chain: from a model file, a folder with one, or the `results` of an experiment by its chain.

    The file's probe is computed again, so that a model which loads is right. Raises InputError (a ValueError) with one
    line that names the file, the expected and the actual.
    """
    file = find(Path(path), chain)
    return ChainModel(load_model(file), file).to(device)
