"""MLflow's record of an experiment: one run for every trained stage, one for every chain.

An experiment of MLflow is created once, by a rule of its own, and then used by its id; nothing here touches MLflow's
global state. What a person finds in the UI:

Metrics, the same names for both kinds of run, so that they share columns
    bits_per_dim            exact, over the whole test split: a chain's total, a stage's share of its chain's total
    bits_per_dim.{stage}    of a chain: the share of each of its stages
    standard_error          of bits_per_dim, over images
    nats, num_images, num_dims, num_parameters
    train_bits_per_dim, validation_bits_per_dim, learning_rate, images_per_second, gradient_norm
                            of a stage: the curves, by training step
Parameters
    the recipe of a stage under its dotted keys, as in params.yaml: training.batch_size
Tags
    kind                    stage or chain
    recipe_digest           of a stage: what identifies its run, also when a killed training continues
    chain_digest            of a chain: its name and the recipes of its stages
    stage_run.{stage}       of a chain: the id of the stage's run
    checkpoint              of a stage: where its weights are

The experiment opens with a view named `comparison`, whose columns are chosen for comparing; see `comparison_url`.

Importing this package takes a second or two, so that only what records imports it. It switches MLflow's telemetry off
unless the environment says otherwise: a figure is nobody's business before it is published, and a compute node
without a network should not wait for one.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, so it comes first

from spn.tracking.chain_run import record_chain
from spn.tracking.experiment import DEFAULT_URI, Experiment, create_experiment
from spn.tracking.stage_run import StageFacts, StageRun, record_evaluation

__all__ = [
    "DEFAULT_URI",
    "Experiment",
    "StageFacts",
    "StageRun",
    "create_experiment",
    "record_chain",
    "record_evaluation",
]
