"""Trains one stage: batches, optimiser, EMA of the weights, and the state from which a killed training resumes."""

from spn.training.lock import training_lock
from spn.training.termination import TerminatedError
from spn.training.train import train_stage

__all__ = ["TerminatedError", "train_stage", "training_lock"]
