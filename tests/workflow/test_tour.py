"""The tour runs as it stands, with the model that is shipped beside it, and shows pictures."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from workspace import ROOT

import spn

TOUR = ROOT / "examples/tour.ipynb"
KEPT = ROOT / "test-output"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_every_cell_runs_and_shows_what_it_showed() -> None:
    notebook = nbformat.read(TOUR, as_version=4)  # type: ignore[no-untyped-call]
    before = [texts(cell) for cell in notebook.cells]
    place = {"metadata": {"path": str(TOUR.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    KEPT.mkdir(exist_ok=True)
    nbformat.write(notebook, KEPT / TOUR.name)  # type: ignore[no-untyped-call]
    assert sum(is_picture(output) for cell in notebook.cells for output in cell.get("outputs", ())) >= 10
    assert [texts(cell) for cell in notebook.cells] == before


def is_picture(output: Any) -> bool:
    return "image/png" in output.get("data", {})


def texts(cell: Any) -> list[str]:
    """Return what a cell printed; progress bars, on stderr, have times."""
    return [output.text for output in cell.get("outputs", ()) if output.get("name") == "stdout"]


def test_the_shipped_model_is_what_its_card_says() -> None:
    """A file of an earlier commit still means the same under this code: loading computes its probe again."""
    path = Path(TOUR.parent / "digits.safetensors")
    assert path.stat().st_size < 1_000_000
    model = spn.load(path)
    assert (model.chain, list(model.stages)) == ("multidimensional", ["first_high", "rest_high", "low"])
    assert model.notes["figures"]["num_images"] == 360
    assert model.notes["figures"]["estimate"] == "exact"
