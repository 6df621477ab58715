"""MLflow's record of an experiment: one run for every trained stage, one for every chain, one for every trial.

The first process that records anything creates the experiment, and all use it by its id; nothing here touches MLflow's
global state. What a person finds in the UI:

Metrics, the same names for both kinds of run, so that they share columns
    bits_per_dim            over the whole test split: a chain's total, a stage's share of its chain's total
    bits_per_dim.{stage}    of a chain: the share of each of its stages
    standard_error          of bits_per_dim, over images
    standard_error_of_draws of a bound: of bits_per_dim, over draws of noise; none where a stage has only one draw
    nats, num_images, num_dims, num_parameters
    training_seconds        of all steps, without validations: a chain's is the sum of its stages'
    training_images_per_second, sampling_images_per_second
                            of a chain: images per second through all its stages
    train_bits_per_dim_estimate, validation_bits_per_dim_estimate, ...
                            of a stage: the columns of its history.csv, by training step
    psnr, ssim, codes_used, perplexity
                            of a first stage, whose loss takes the place of bits/dim
    completion.{given}.absolute_error
                            of a chain: the error of what it draws given a half, slice (0,0) or high bits of images
    codec.bits_per_dim, codec.evaluated_bits_per_dim
                            of a chain: the size of a file of coded test images, and their likelihood
    system/...              of a training: CPU, memory and, with nvidia-ml-py, GPUs, every ten seconds
Artefacts, the same names for all chains, because MLflow compares files of the same name
    samples.png             of a chain: the finished samples; samples_1.png, ... are those after each stage
    curves.png              of a chain: the training of its stages
    completed.png           of a chain: what it draws given a part of test images
    params.yaml             of a chain: the file that it was recorded with
    reconstructions.png     of a first stage, and of a chain that generates its codes
    checkpoint.safetensors  of a stage: its weights
Parameters
    of a stage: its recipe under dotted keys, such as training.batch_size
    of a chain: what params.yaml says of its data and stages, such as stages.low.training.batch_size
Data
    name, digest and source; its context is `train` for a stage and `test` for a chain
Tags
    kind                    stage, chain or trial
    estimate                what bits_per_dim is: exact, or an upper bound
    dims                    what a dim of bits_per_dim is: a sub-pixel, or a code of a first stage
    conditioning            what bits_per_dim is conditioned on: each image's class or caption, or none
    split                   the images it was measured on
    chain, stage            of a chain: its name, and its stages; of a stage: the chains with it, and its name
    family, data            the families of the networks, and the name of the data set
    dvc_experiment          the experiment of DVC that first made the run: `dvc exp apply` brings its results
    recipe_digest           of a stage: identifies its run, which a resumed training continues
    chain_digest            of a chain: its name and the recipes of its stages
    stage_run.{stage}       of a chain: the id of the stage's run
    taken                   of a stage with trials: which of them its weights are from
    trial, changes          of a trial: its number from 1, what it changes; shown below the stage's
Description
    the figure, what it was measured on, the share of each stage, and the command that repeats it

A stage's run keeps a copy of the weights, because results/stages/ has only those of the last training. So weights take
twice the space on disk, a few megabytes for each network of the default experiment, and those of stages that were
trained again under other parameters stay until `mlflow gc` removes their deleted runs. Only finished trainings keep
any, and trials none.

MLflow's table shows none of these columns by default, so an experiment has two saved views that do, one of its chains
and one of its stages (`views`).

Training continues while the store is unreachable (`delivery`).

Importing this package takes seconds. It sets two things unless the environment does. MLflow's telemetry is off,
because it reports to a server of its makers, and compute nodes often have no network. A request fails after half a
minute, where MLflow would retry for up to twenty.
"""

import os

# Before the imports, because MLflow reads the first when it is imported. There are no retries, because repeating a
# request to create a run would create a second run if the first had arrived.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from spn.tracking.chain_run import record_chain
from spn.tracking.experiment import DEFAULT_URI, Experiment, default_uri, load_experiment, open_experiment
from spn.tracking.outage import TrackingError
from spn.tracking.stage_run import StageRun, Trial, record_evaluation, record_reconstruction

__all__ = [
    "DEFAULT_URI",
    "Experiment",
    "StageRun",
    "TrackingError",
    "Trial",
    "default_uri",
    "load_experiment",
    "open_experiment",
    "record_chain",
    "record_evaluation",
    "record_reconstruction",
]
