"""What `spn sample_stage` hands on to the sampler, the settings of just this stage, and the times that it writes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from experiment import tiny_params, write_params
from fabricated import write_notes
from torch import nn

from spn.config import load_params
from spn.files import json_digest, write_json
from spn.pipeline import sample_stage as module
from spn.pipeline.reading import _timing
from spn.pipeline.sample_stage import sample_stage


@pytest.mark.parametrize(("stage", "temperature"), [("high", 0.9), ("low", 0.4)])
def test_a_stage_is_sampled_at_its_own_settings(
    stage: str, temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_params()
    raw["chains"]["depth"] |= {"temperature": {"high": 0.9, "low": 0.4}, "top_k": {"low": 2}}
    raw["sampling"] |= {"num_images": 3, "seed": 7}
    params = load_params(write_params(tmp_path, raw))
    handed: dict[str, Any] = {}

    def noted(trained: object, model: object, before: object, **settings: Any) -> None:
        handed.update(settings)
        raise InterruptedError

    monkeypatch.setattr(module, "load_verb", lambda verb, section: None)
    monkeypatch.setattr(
        module, "open_slices", lambda params, name, path: (params, SimpleNamespace(digest="", notes={}))
    )
    monkeypatch.setattr(module, "check_given", lambda *arguments: None)
    monkeypatch.setattr(module, "weights_digest", lambda path: "")
    monkeypatch.setattr(module, "load_trained", lambda *arguments: (None, nn.Identity()))
    monkeypatch.setattr(module, "sample_chain_stage", noted)
    with pytest.raises(InterruptedError):
        sample_stage(params, "depth", stage, Path("data.h5"), Path("weights"), tmp_path, batch_size=2, device="cpu")
    labels = handed.pop("labels")
    assert labels is None
    top_k = 2 if stage == "low" else None
    own = {"temperature": temperature, "top_k": top_k}
    assert handed == {"num_images": 3, "seed": 7, "batch_size": 2, "sampler": "cached"} | own


def test_times_count_only_beside_the_samples_that_they_are_of(tmp_path: Path) -> None:
    """`dvc checkout` brings back samples, but not how long they took."""
    samples = tmp_path / "samples.h5"
    made: dict[str, Any] = {"recipe": {"stage": "low"}, "trained": {"low": "1"}}
    write_notes(str(samples), made)
    write_json(tmp_path / "timing.json", {"seconds": 1.0, "images": 2, "samples": json_digest(made)})
    assert _timing(samples)["seconds"] == 1.0
    write_notes(str(samples), made | {"trained": {"low": "2"}})
    assert _timing(samples) == {}
