"""Training one stage: batches, optimiser, averaging, and a run that can be killed and resumed."""

from spn.training.train import train

__all__ = ["train"]
