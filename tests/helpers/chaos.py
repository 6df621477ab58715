"""Kills the whole workflow at random, with an edit between any two kills, and compares what it ends with.

`python tests/helpers/chaos.py --rounds 30 --seed N` prints what happened in each round, and ends with status 1 if
anything disagreed. A round begins with an empty folder. Several times the workflow is started, by Snakemake or by DVC,
and killed at a moment of its own; params.yaml, the sources or the code are edited between the kills, some of them
while it runs. Then everything is set to one of a few final states, the workflow is run to its end, and the results
must be those of a run of that state which nothing disturbed. At any moment, status 0 must mean that `spn verify`
agrees.
"""

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaos_kills import WAYS, kill
from chaos_results import differing, results, undisturbed
from chaos_states import CHAIN, FINAL, NUM_POSITIONS, STAGES, State, set_up, turn
from workspace import SECONDS, Workspace, fresh

TOOLS = {
    "snakemake": ("snakemake", "--cores", "2", "--rerun-incomplete", "reproduce"),
    "dvc": ("dvc", "repro"),
}
KILLS = (2, 3)
"""The fewest and the most of a round."""
PLACES = (
    "logs/preprocess",
    "mlflow",
    *(f"logs/{rule}/{stage}.log" for rule in ("train", "evaluate") for stage in STAGES),
    *(f"logs/sample_stage/{CHAIN}/{stage}.log" for stage in STAGES),
    *(f"logs/{rule}/{CHAIN}.log" for rule in ("summarise", "export", "record")),
    "logs/report.log",
    "logs/reproduce.log",
)
"""What appears, or is written again, when a job starts."""


@dataclass
class Round:
    """One round: what was done, and what disagreed."""

    workspace: Workspace
    chance: random.Random
    state: State
    done: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def edit(self) -> None:
        """Turn one knob."""
        knob = self.chance.choice(sorted(NUM_POSITIONS))
        self.turn(knob, self.chance.choice([n for n in range(NUM_POSITIONS[knob]) if n != self.state[knob]]))

    def turn(self, knob: str, position: int) -> None:
        """Turn one knob to a position."""
        self.state = self.state | {knob: position}
        turn(self.workspace, self.state, knob)
        self.done.append(f"{knob}={position}")

    def disturb(self) -> None:
        """Start the workflow, kill it at a moment, perhaps with an edit shortly before."""
        tool, way = self.chance.choice(sorted(TOOLS)), self.chance.choice(WAYS)
        place, delay = self.chance.choice((*PLACES, "")), self.chance.uniform(0, 4)
        self.unlock()
        started = time.time()
        process = self.start(tool)
        reached = self.wait(process, place, started) and self.sleep(process, delay if place else 5 * delay)
        verifying, disturbed = False, False
        if self.chance.random() < 0.3:
            disturbed = True
            verifying = self.is_new("logs/reproduce.log", started)
            self.edit()
            self.sleep(process, self.chance.uniform(0, 4))
        if reached and process.poll() is None:
            disturbed = True
            self.done.append(f"{tool} {place or 'start'}+{delay:.1f}s {kill(process, way, self.chance)}")
        status = self.end(process)
        self.done[-1] += f" -> {status}"
        if status == 0 and not verifying:
            self.verify(f"{tool} ended with 0")
        if status and not disturbed:
            self.wrong.append(f"{tool} ended with {status}, though nothing was killed or edited meanwhile")

    def start(self, tool: str) -> "subprocess.Popen[bytes]":
        """Start a tool in a session of its own, as from a terminal."""
        with (self.workspace.folder / "said").open("ab") as said:
            return subprocess.Popen(
                TOOLS[tool],
                cwd=self.workspace.folder,
                env=self.workspace.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def end(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait until a tool has ended, and give its status."""
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"{process.args!r} did not end")
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def is_new(self, place: str, since: float) -> bool:
        """Tell whether a file or folder was written since a moment."""
        path = self.workspace.folder / place
        return path.exists() and path.stat().st_mtime >= since

    def wait(self, process: "subprocess.Popen[bytes]", place: str, since: float) -> bool:
        """Wait until a job starts; return False if the tool ends without it."""
        while place and not self.is_new(place, since):
            if process.poll() is not None:
                self.done.append(f"{_name(process)} ended before {place}")
                return False
            time.sleep(0.05)
        return True

    def sleep(self, process: "subprocess.Popen[bytes]", seconds: float) -> bool:
        """Wait for some seconds; return False if the tool ends meanwhile."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        self.done.append(f"{_name(process)} ended by itself")
        return False

    def unlock(self) -> None:
        """Do what Snakemake advises after it was killed."""
        if any((self.workspace.folder / ".snakemake/locks").glob("*")):
            self.succeed("unlocking", "snakemake", "--unlock")

    def verify(self, what: str) -> None:
        """Have `spn verify` agree."""
        self.succeed(f"verify, as {what}", "spn", "verify")

    def succeed(self, what: str, *command: str) -> set[str]:
        """Run a command, which must end well, and return the jobs that ran."""
        try:
            return self.workspace.run(*command).ran
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.wrong.append(f"{what}: {error}")
            return set()


def run_round(folder: Path, seed: int, number: int) -> Round:
    """Run one round, which follows from the seed and its number but for the moments."""
    # Tools ignore Ctrl-C where their parent does, as in a shell's background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(f"{seed}/{number}")
    workspace = fresh(folder / f"round-{seed}-{number}")
    this = Round(workspace, chance, chance.choice(FINAL))
    set_up(workspace, this.state)
    workspace.run("git", "init", "--quiet")
    for _ in range(chance.randint(*KILLS)):
        this.disturb()
        this.edit()
    final, tool = chance.randrange(len(FINAL)), sorted(TOOLS)[number % len(TOOLS)]
    for knob, position in FINAL[final].items():
        if this.state[knob] != position:
            this.turn(knob, position)
    this.done.append(f"{tool} to state {final}")
    this.unlock()
    this.succeed("the last run", *TOOLS[tool])
    this.verify("the last run ended")
    made = results(workspace)
    this.wrong += differing(made, results(undisturbed(folder, final)))
    again = this.succeed("a further run", *TOOLS[tool])
    if again - {"reproduce"} or results(workspace) != made:
        this.wrong.append(f"a further run made {sorted(again)}")
    return this


def _name(process: "subprocess.Popen[bytes]") -> str:
    """Return the first two words of a tool's command."""
    assert isinstance(process.args, tuple)
    return " ".join(process.args[:2])


def main() -> int:
    """Run rounds and print each."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to repeat one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the workspaces are kept; absent: a temporary one")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for number in range(arguments.first, arguments.first + arguments.rounds):
            started = time.monotonic()
            this = run_round(folder, arguments.seed, number)
            wrong += bool(this.wrong)
            seconds = time.monotonic() - started
            print(f"{number} | {'; '.join(this.done)} | {this.wrong or 'as undisturbed'} | {seconds:.0f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
