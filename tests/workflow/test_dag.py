"""The real DAG of the default experiment: what each rule waits for."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NODE, EDGE = re.compile(r'^\s*(\d+)\[label = "(\w+)'), re.compile(r"^\s*(\d+) -> (\d+)")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Counter[str]]]:
    """For each rule, the rules of the jobs that each of its jobs waits for."""
    folder = tmp_path_factory.mktemp("dag")
    shutil.copy(ROOT / "params.yaml", folder)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    done = subprocess.run(
        [*command, "--forceall", "--dag", "dot", "--", "reproduce"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rules = {found[1]: found[2] for line in done.stdout.splitlines() if (found := NODE.match(line))}
    jobs: dict[str, Counter[str]] = {job: Counter() for job in rules}
    for line in done.stdout.splitlines():
        if found := EDGE.match(line):
            jobs[found[2]][rules[found[1]]] += 1
    return {rule: [jobs[job] for job in rules if rules[job] == rule] for rule in set(rules.values())}


def test_every_chain_is_recorded_after_what_its_run_shows(before: dict[str, list[Counter[str]]]) -> None:
    assert len(before["record"]) == 5
    for waits in before["record"]:
        assert {"summarise", "export", "sample_stage", "complete_chain"} <= waits.keys()
    assert sum("extract_codes" in waits for waits in before["record"]) == 1  # of the chain of codes


def test_codes_are_waited_for_where_they_are_read(before: dict[str, list[Counter[str]]]) -> None:
    (encode,) = before["extract_codes"]
    assert {"train", "preprocess"} <= encode.keys()
    for rule, count in {"train": 2, "evaluate": 2, "sample_stage": 2, "export": 1, "report": 1}.items():
        assert sum("extract_codes" in waits for waits in before[rule]) == count, rule
    # Of the two stages of codes, weights and the decoder.
    assert sorted(waits["train"] for waits in before["sample_stage"] if "extract_codes" in waits) == [2, 2]
    assert [waits["train"] for waits in before["export"] if "extract_codes" in waits] == [3]


def test_the_report_waits_for_every_picture(before: dict[str, list[Counter[str]]]) -> None:
    (report,) = before["report"]
    assert report["complete_chain"] == 5
    assert report["codec"] == 4
    assert report["summarise"] == 5
