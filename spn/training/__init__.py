"""Trains one stage: batches, optimiser, EMA of the weights, and the state from which a killed training resumes."""

from spn.training.lock import training_lock
from spn.training.termination import TerminatedError
from spn.training.train import FollowTrial, train_stage, unfollowed
from spn.training.trainer import Observe

__all__ = ["FollowTrial", "Observe", "TerminatedError", "train_stage", "training_lock", "unfollowed"]
