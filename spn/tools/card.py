"""Writes a model card, or a folder in the usual layout of model hubs."""

from collections.abc import Iterator
from pathlib import Path

from spn.api import load
from spn.api.folder import check_own, find
from spn.config import InputError
from spn.files import write_text
from spn.tools.writing import check_output


def card(model: Path, output: Path | None = None, *, chain: str | None = None) -> Iterator[str]:
    """Write a model card to a file ending in .md, or the card, the model and config.json into a folder.

    Without `output` the card is yielded. Raises InputError for an `output` with another suffix, that cannot be written,
    or where there is a file that is no card, or another model.
    """
    if output is not None:
        check_output("--output", output, [find(model, chain)], is_folder=not output.suffix)
    trained = load(model, chain)
    if output is None:
        yield trained.card
    elif output.suffix == ".md":
        check_own(output)
        write_text(output, trained.card)
    elif not output.suffix:
        trained.save(output)
    else:
        raise InputError(f"--output: expected a file ending in .md, or a folder without a suffix, got {output}")
