"""What every training loads, for the server that the tests fork trainings from: once, and not for each of them."""

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - which a client imports when it is made
import torch._dynamo  # noqa: F401 - which an optimiser imports when it is made

import spn.evaluation.evaluate
import spn.report
import spn.tracking
import spn.training  # noqa: F401
from spn.provenance.code import code_digest

code_digest("training/step.py:Learner", kind="cells", family="spn", law="softmax")
