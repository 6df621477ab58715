"""Runs `spn plan` in a separate process beside the workflow, and keeps its result for the same params.yaml."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from spn.console.estimate import Seconds
from spn.console.logs import error_in, last_word


class NoPlanError(Exception):
    """`spn plan` failed; the message says why."""


class Plan:
    """The plan for the params.yaml of a folder; it is kept in logs/plan.json."""

    def __init__(self, root: Path) -> None:
        self._root, self._kept = root, root / "logs" / "plan.json"
        self._params = hashlib.sha256((root / "params.yaml").read_bytes()).hexdigest()
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_started(self) -> bool:
        """Tell whether `spn plan` was started by this run."""
        return self._process is not None

    def start(self) -> None:
        """Start `spn plan`; it takes ten seconds or so."""
        command = [sys.executable, "-m", "spn", "plan", "--json"]
        self._process = subprocess.Popen(
            command,
            cwd=self._root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> None:
        """End `spn plan`, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def seconds(self) -> Seconds | None:
        """Return the seconds by stage and rule, None while not yet known; raise NoPlanError if `spn plan` failed."""
        if self._process is None:
            return self._read()
        if self._process.poll() is None:
            return None
        output, errors = self._process.communicate()
        if self._process.returncode:
            lines = [line for line in errors.splitlines() if line.strip()]
            raise NoPlanError(error_in(lines) or last_word(lines))
        stages = {name: stage["seconds"] for name, stage in json.loads(output)["stages"].items()}
        self._kept.parent.mkdir(exist_ok=True)
        self._kept.write_text(json.dumps({"params_sha256": self._params, "stages": stages}, indent=2) + "\n")
        return stages

    def _read(self) -> Seconds | None:
        """Read the plan that an earlier run kept, if it is for the same params.yaml."""
        try:
            kept = json.loads(self._kept.read_text())
            return kept["stages"] if kept["params_sha256"] == self._params else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing or damaged: it is made again
