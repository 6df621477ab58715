"""`spn watch`: a line for each running job, with the latest state of its progress bar."""

import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from spn.console.running import Job, read_running

EVERY = 1.0
"""Seconds between two looks."""

NOTHING = "nothing runs here; snakemake --cores all reproduce makes missing results"


def watch(once: bool = False) -> None:
    """Show the progress of every job that runs in this folder, until nothing runs, or until Ctrl-C."""
    root, shown = Path.cwd(), ""
    with suppress(KeyboardInterrupt):
        while (running := read_running(root)) is not None:
            text = _block(*running, root)
            if text != shown:
                print(_over(shown) + text, flush=True)
                shown = text
            if once:
                return
            time.sleep(EVERY)
        print(NOTHING if not shown else "nothing runs any more")


def _block(line: str, jobs: list[Job], root: Path) -> str:
    """Lay out the line that sums up the run and a line for each job, cut to the width of the terminal."""
    width = max((len(job.name) for job in jobs), default=0)
    lines = [f"{job.name:<{width}}  {(job.lines(root) or ['waiting'])[-1]}" for job in jobs]
    columns = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else None
    return "\n".join(each[:columns] for each in [line, *lines])


def _over(shown: str) -> str:
    """Return the escape codes that overwrite what is shown; a blank line where the output is no terminal."""
    if not shown:
        return ""
    return f"\033[{shown.count(chr(10)) + 1}A\033[J" if sys.stdout.isatty() else "\n"
