"""Where recorded chains are seen in MLflow, for the terminal."""

from collections.abc import Mapping
from typing import Any


def link_lines(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell how to see these chains, by what `record` wrote of each; nothing if there are none."""
    if not records:
        return []
    record = next(iter(records.values()))
    command = record["ui_command"]
    pages = {"all chains": record["experiment_page"]} | {chain: each["page"] for chain, each in records.items()}
    width = max(map(len, pages))
    return [
        "in MLflow:" if command is None else f"in MLflow, while `{command}` runs in this folder:",
        *(f"  {name:{width}}  {page}" for name, page in pages.items()),
    ]
