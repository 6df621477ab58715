"""The tour runs as it stands, with the model that is shipped beside it, and shows pictures."""

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from workspace import ROOT

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
