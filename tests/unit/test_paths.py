"""Where `runs/` and the MLflow store lie: in the experiment's folder, for temporary workspaces too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = """
from spn.paths import DATABASE, HANDLE, RECORDS, RESULTS, RUNS, database_path
print(RUNS, DATABASE, HANDLE, RECORDS, RESULTS)
print(*map(database_path, ("sqlite:///mlflow.db", "sqlite:////mlflow.db", "http://127.0.0.1:5000")))
"""


@pytest.mark.parametrize(
    ("place", "variables", "home"),
    [
        (".", {}, ""),
        (".", {"DVC_ROOT": "{repository}"}, ""),  # `dvc repro`
        ("experiments/compare", {"DVC_ROOT": "{repository}"}, ""),
        (".dvc/tmp/exps/tmp1", {"DVC_ROOT": "{repository}"}, "{repository}/"),
        (".dvc/tmp/exps/standalone/tmp1", {"DVC_ROOT": "{repository}"}, "{repository}/"),
        (".dvc/tmp/exps/tmp1/flowers", {"DVC_ROOT": "{repository}"}, "{repository}/flowers/"),
        (".dvc/tmp/exps/tmp1", {}, ""),
        (".", {"DVC_ROOT": "/elsewhere"}, ""),
    ],
)
def test_a_temporary_workspace_uses_what_outlives_it(
    place: str, variables: dict[str, str], home: str, tmp_path: Path
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for workspace in (tmp_path, *tmp_path.rglob("tmp1")):
        (workspace / ".dvc").mkdir(exist_ok=True)
    given = {name: value.format(repository=tmp_path) for name, value in variables.items()}
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=folder,
        env=environment | given | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    home = home.format(repository=tmp_path)
    assert shown == [
        *(f"{home}{name}" for name in ("runs", "mlflow.db", "mlflow/experiment.json")),
        *("mlflow/chains", "results"),
        *(f"{home}mlflow.db", "/mlflow.db", "None"),
    ]
