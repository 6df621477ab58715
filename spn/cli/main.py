"""The parser: verbs, their paths, and options of the machine. All scientific numbers are in params.yaml."""

import argparse
import errno
import os
import signal
import sys
from typing import TypeAlias

from spn import __version__
from spn.cli.model_verbs import add_model_verbs
from spn.cli.processes import start_processes
from spn.cli.run import run_verb
from spn.cli.texts import EXAMPLES, HELP, MORE
from spn.cli.values import Parser, count, file_ending, folder, number, path
from spn.config import InputError
from spn.console.logs import INTERRUPTED
from spn.files import WriteError
from spn.paths import DATA, HANDLE, PARAMS, RESULTS, RUNS, SOURCES

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

NO_MEMORY = "not enough memory for all that was asked for at once"
TOO_LARGE = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "Storage size calculation overflowed")
"""What torch says, in a RuntimeError, of tensors that the CPU, a GPU or no machine can hold."""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; on a user's mistake print one line and return exit status 2."""
    try:
        options = vars(_parser().parse_args(arguments))
        gpus, nodes = options.pop("gpus", 0), options.pop("nodes", 1)
        start_processes(gpus, nodes, sys.argv[1:] if arguments is None else arguments)
        return run_verb(**options)
    except InputError as error:
        print(f"spn: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"spn: error: {INTERRUPTED}", file=sys.stderr)
        return 128 + signal.SIGINT
    except MemoryError as error:
        reason = f": {error}" if str(error) else ""
        print(f"spn: error: {NO_MEMORY}{reason}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not any(words in str(error) for words in TOO_LARGE):
            raise
        print(f"spn: error: {NO_MEMORY}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (FloatingPointError, OSError, WriteError) as error:  # OSError: outside the pipeline's own files
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"spn: error: {error.filename}: expected a shorter name: {error.strerror}", file=sys.stderr)
            return 2
        print(f"spn: error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="spn",
        description="Subscale Pixel Networks with multidimensional upscaling: "
        "sample, upscale, deepen, inpaint, score, encode, decode, info and card take a trained chain; the others are "
        "the verbs of the workflow's rules, and some to use by hand.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    add_model_verbs(lambda name: _verb(commands, name, needs_params=False), _label, _machine)
    _add_data_verbs(commands)
    _add_stage_verbs(commands)
    _add_chain_verbs(commands)
    _add_result_verbs(commands)
    watching = _verb(commands, "watch", needs_params=False)
    watching.add_argument("--once", action="store_true", help="show them once and exit")
    _verb(commands, "schema", needs_params=False)
    return parser


def _add_data_verbs(commands: Commands) -> None:
    preprocess = _verb(commands, "preprocess")
    preprocess.add_argument("--scale-factor", type=count, required=True, help="that of the stages which read the file")
    preprocess.add_argument("--sources", type=path, default=SOURCES, help="where the source files lie")
    preprocess.add_argument(
        "--runs", type=path, default=RUNS, help="folder in which decoded pictures are kept meanwhile"
    )
    preprocess.add_argument("--output", type=file_ending(".h5"), required=True, help="HDF5 file to write")
    preprocess.add_argument(
        "--threads", type=count, default=1, help="processes that decode the pictures of a folder or zip; same file"
    )


def _add_stage_verbs(commands: Commands) -> None:
    train = _verb(commands, "train")
    train.add_argument("stage")
    train.add_argument("--data", type=path, required=True, help="HDF5 file of the stage's scale factor, or of codes")
    _experiment(train)
    train.add_argument("--runs", type=path, default=RUNS, help="folder of the states from which trainings resume")
    train.add_argument("--output", type=folder, required=True, help="folder for checkpoint and history")
    train.add_argument(
        "--compile", dest="compiled", action="store_true", help="compile the network: a minute or more, then faster"
    )
    train.add_argument(
        "--recompute", action="store_true", help="activation checkpointing: less memory, more time, same figures"
    )
    train.add_argument(
        "--micro-batch",
        type=count,
        help="images of a process in memory at once: less memory, the same figures but for rounding and random draws",
    )
    train.add_argument(
        "--nodes", type=count, default=1, help="nodes of the Slurm job; with several, srun starts torchrun on each"
    )
    _machine(train)
    _processes(train)

    evaluate = _verb(commands, "evaluate")
    evaluate.add_argument("stage")
    evaluate.add_argument("--data", type=path, required=True, help="HDF5 file of the stage's scale factor, or of codes")
    evaluate.add_argument("--checkpoint", type=path, required=True)
    evaluate.add_argument("--output", type=folder, required=True, help="folder for metrics.json and nats.npy")
    _machine(evaluate)
    _processes(evaluate)

    codes = _verb(commands, "extract_codes")
    codes.add_argument("first_stage")
    codes.add_argument("--data", type=path, required=True, help="HDF5 file of scale factor 1")
    codes.add_argument("--checkpoint", type=path, required=True)
    codes.add_argument("--output", type=folder, required=True, help="folder for codes.h5, metrics.json and a picture")
    _machine(codes)
    _processes(codes)

    adopt = _verb(commands, "adopt")
    adopt.add_argument("stage", nargs="+")
    adopt.add_argument(
        "--images",
        type=count,
        default=100,
        help="number of test images to evaluate and compare; for a bound at least so many, in whole batches",
    )
    adopt.add_argument("--results", type=path, default=RESULTS)
    _machine(adopt)

    check = _verb(commands, "check")
    check.add_argument("stage", nargs="*", help="stages to check; default: all stages and chains")

    plan = _verb(commands, "plan")
    plan.add_argument("--data", type=path, default=DATA, help="folder of preprocessed files, if there are any")
    plan.add_argument("--recompute", action="store_true", help="plan for training with --recompute")
    plan.add_argument(
        "--gpu", metavar="NAME", help="plan for GPUs by their data sheet, such as H100, not for this machine"
    )
    # Not `gpus`, with which verbs that compute start a process for each.
    plan.add_argument("--gpus", dest="num_gpus", type=count, default=1, help="the number of these GPUs; default: 1")
    plan.add_argument("--json", dest="as_json", action="store_true", help="print every figure as JSON, no tables")
    _machine(plan)


def _add_chain_verbs(commands: Commands) -> None:
    sample = _verb(commands, "sample_stage")
    sample.add_argument("chain")
    sample.add_argument("stage")
    sample.add_argument("--data", type=path, required=True, help="HDF5 file of the stage's scale factor, or of codes")
    sample.add_argument("--checkpoint", type=path, required=True)
    sample.add_argument("--given", type=path, help="samples of the stage before; none for the first stage")
    sample.add_argument("--decoder", type=path, help="checkpoint of the first stage, for a chain that generates codes")
    sample.add_argument(
        "--output", type=folder, required=True, help="folder for samples.h5, samples.png and timing.json"
    )
    _label(
        sample,
        "instead of sampling.class; without either, image i is of class i mod num_classes; use the same for all stages "
        "of a chain",
    )
    sample.add_argument("--exact", action="store_true", help="compute in float64, so that batch sizes cannot matter")
    sample.add_argument(
        "--sampler",
        default="cached",
        help="algorithm, of which all draw the same sample: cached, plain (a whole pass per sub-pixel) or fixed_point "
        "(whole passes until nothing changes)",
    )
    sample.add_argument("--batch-size", type=count, help="images at a time; larger batches are faster, up to a point")
    _machine(sample)
    _processes(sample)

    summarise = _verb(commands, "summarise")
    summarise.add_argument("chain")
    summarise.add_argument("--results", type=path, default=RESULTS)
    summarise.add_argument("--output", type=file_ending(".json"), required=True, help="metrics.json to write")

    mix = _verb(commands, "mix_orders")
    mix.add_argument("chain")
    mix.add_argument("--results", type=path, default=RESULTS)
    mix.add_argument("--output", type=folder, required=True, help="folder for metrics.json and nats.npy")
    _machine(mix)

    export = _verb(commands, "export")
    export.add_argument("chain")
    export.add_argument("--data", type=path, required=True, help="HDF5 file of any scale factor")
    export.add_argument("--results", type=path, default=RESULTS)
    export.add_argument("--output", type=folder, required=True, help="folder for model.safetensors")
    _machine(export)

    complete = _verb(commands, "complete_chain")
    complete.add_argument("chain")
    complete.add_argument("--data", type=path, required=True, help="HDF5 file of any scale factor")
    complete.add_argument("--results", type=path, default=RESULTS)
    complete.add_argument("--output", type=folder, required=True, help="folder for completed.png and metrics.json")
    _machine(complete)

    codec = _verb(commands, "codec")
    codec.add_argument("chain")
    codec.add_argument("--data", type=path, required=True, help="HDF5 file of any scale factor")
    codec.add_argument("--results", type=path, default=RESULTS)
    codec.add_argument("--output", type=file_ending(".json"), required=True, help="rate.json to write")
    codec.add_argument("--threads", type=count, default=1, help="CPU threads; the same bytes with any number")

    record = _verb(commands, "record")
    record.add_argument("chain")
    _experiment(record)
    record.add_argument("--results", type=path, default=RESULTS)
    record.add_argument(
        "--output", type=file_ending(".json"), required=True, help="JSON file to write, with the id of the run"
    )


def _add_result_verbs(commands: Commands) -> None:
    report = _verb(commands, "report")
    report.add_argument("--data", type=path, required=True, help="HDF5 file of any scale factor")
    report.add_argument("--results", type=path, default=RESULTS)
    _machine(report)

    verify = _verb(commands, "verify")
    verify.add_argument("--sources", type=path, default=SOURCES, help="where the source files lie")


def _verb(commands: Commands, name: str, needs_params: bool = True) -> argparse.ArgumentParser:
    """Add a verb, with its help and an example."""
    parser = commands.add_parser(
        name,
        help=HELP[name],
        description="\n\n".join([HELP[name], *([MORE[name]] if name in MORE else [])]),
        epilog=f"example:\n  {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if needs_params:
        parser.add_argument("--params", type=path, default=PARAMS)
    return parser


def _label(parser: argparse.ArgumentParser, instead: str) -> None:
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--class", dest="only", metavar="CLASS", type=int, help=f"the class of all images, {instead}")
    labels.add_argument(
        "--caption", metavar="WORDS", help="the caption of all images, in words of class names, instead of a class"
    )


def _experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experiment",
        type=path,
        default=HANDLE,
        help="JSON file that names the MLflow store and the experiment; if missing, it is written for the store in "
        "MLFLOW_TRACKING_URI, or else for sqlite:///mlflow.db",
    )


def _processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpus",
        type=number,
        default=0,
        help="GPUs of the job; with several, torchrun runs a process on each; figures and samples stay the same",
    )


def _machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda if available")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads; with 1, results repeat bit for bit")
