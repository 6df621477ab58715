"""The whole workflow killed at random, with edits between the kills: rounds of tests/helpers/chaos.py."""

from pathlib import Path

import pytest
from chaos import run_round

ROUNDS, SEED = 2, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where rounds share the undisturbed runs with which they are compared."""
    return tmp_path_factory.mktemp("chaos")


@pytest.mark.slow
@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_whatever_is_killed_and_edited_the_results_are_those_of_an_undisturbed_run(folder: Path, number: int) -> None:
    this = run_round(folder, SEED, number)
    assert not this.wrong, "\n".join([*this.done, *this.wrong])
