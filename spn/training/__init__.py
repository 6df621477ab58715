"""Training one stage: batches, optimiser, averaging, and a run that can be killed and resumed."""

from spn.training.lock import training_lock
from spn.training.termination import TerminatedError
from spn.training.train import train_stage

__all__ = ["TerminatedError", "train_stage", "training_lock"]
