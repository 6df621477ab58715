"""What is known of chains, read back from results/.

How fast a chain was sampled is in files of its own, because the metrics.json are versioned: made again from the same
weights, they are the same.
"""

from pathlib import Path
from typing import Any

from spn.cli.options import stages_of
from spn.config import Params
from spn.files import read_json


def metrics_of_chain(params: Params, chain: str, results: Path) -> dict[str, Any]:
    """Read a chain's metrics.json, and its throughput of sampling from the timing.json of its stages."""
    from spn.evaluation.speed import sampling_speed

    folder = results / "chains" / chain
    timings = [read_json(folder / stage / "timing.json") for stage in stages_of(params, chain)]
    return read_json(folder / "metrics.json") | sampling_speed(timings)


def metrics_of_chains(params: Params, results: Path) -> dict[str, Any]:
    """Read the same of every chain, by its name."""
    return {chain: metrics_of_chain(params, chain, results) for chain in params.chains}
