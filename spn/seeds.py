"""Seeds as functions of keys, so that everything random has its own generator."""

import hashlib

import torch


def derive_seed(*key: int | str) -> int:
    """Hash a key to a seed of 63 bits."""
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def seeded(*key: int | str) -> torch.Generator:
    """Make a CPU generator seeded by a key."""
    return torch.Generator().manual_seed(derive_seed(*key))
