"""Runs one verb: loads the parameters, calls the function of that name, and prints what it returns."""

import importlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spn.cli.model_verbs import TOOLS
from spn.config import load_params, params_schema
from spn.console import watch


def run_verb(verb: str, params: Path | None = None, **options: Any) -> int:
    """Run a verb with the options of the command line; return the exit status."""
    if verb == "watch":
        watch(**options)
        return 0
    if verb == "schema":
        print(json.dumps(params_schema(), indent=2))
        return 0
    # Imported here, because torch and mlflow take seconds, and some verbs need neither.
    if verb in TOOLS:
        return _print(getattr(importlib.import_module(f"spn.tools.{verb}"), verb)(**options))
    assert params is not None
    loaded = load_params(params)
    if verb in ("record", "verify"):
        options["params_file"] = params
    function = getattr(importlib.import_module(f"spn.pipeline.{verb}"), verb)
    if verb == "train":
        return _train(function, loaded, options)
    made = function(loaded, **options)
    _print(made)
    if verb == "evaluate" and made is not None:
        from spn.report.tables import metrics_line

        print(metrics_line(made))
    return 0


def _print(made: Any) -> int:
    """Print the lines that a verb yields or lists; others return what they have written."""
    if isinstance(made, Iterator | list):
        for line in made:
            print(line)
    return 0


def _train(function: Any, params: Any, options: dict[str, Any]) -> int:
    from spn.training import TerminatedError

    try:
        function(params, **options)
    except TerminatedError as stopped:
        print(f"spn: {stopped}; the same command continues from there", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0
