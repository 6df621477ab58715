"""Plants bugs in scales of a diffusion and in inpainting by them, and states which check catches each.

The wrong side of the commitment is planted in `test_first_stage`, a decoder that sees its own target in
`test_planted_family_bugs`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from contract import Part, resolve, scales
from contract.problem import random_model
from experiment import codes_params, write_params
from families import BART, changed
from torch import Tensor

from spn.api.filler import Filler
from spn.cli import main
from spn.config import InputError, Params, load_params
from spn.evaluation.chain_check import check_chain
from spn.evaluation.inpainting import hidden_half
from spn.first_stages import VqAutoencoder
from spn.likelihood import Law
from spn.models import Model
from spn.shapes import Labels, Positions, Slices
from spn.stages import build_stage
from spn.stages.scale import Scale

pytestmark = pytest.mark.slow

RESIDUAL = changed(BART, residual=True)


def check_bound() -> None:
    """`spn check` enumerates all draws: the terms add up to the bound by its definition."""
    chain, noises = scales(1, (1.0, 0.8, 0.4, 0.0))
    plans = resolve(chain, (2, 2, 1), 1, noises=noises).plans
    check_chain("c", plans, 1, dict.fromkeys(chain, RESIDUAL), seed=1)


def random_filler(params: Params) -> Filler:
    """A chain of codes with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first_stage = VqAutoencoder(params.first_stages["vq"], 1, 32).eval().requires_grad_(False)
        first_stage.initialise(torch.randint(32, (4, 8, 8, 1)))
    names = params.chains["latent"].stages
    stages = {name: build_stage(params.stage_plans[name], params.grid(name).shape) for name in names}
    parts = {name: (stage, random_model(RESIDUAL, stage.shape, 1)) for name, stage in stages.items()}
    return Filler(parts, dict.fromkeys(names, 1.0), {}, first_stage, grey=16, seed=1)


def check_hidden_pixels(folder: Path) -> None:
    """What is filled in does not depend on the pixels that are hidden, and known pixels stay."""
    filler, hidden = random_filler(load_params(write_params(folder, codes_params()))), hidden_half("lower", 8, 8)
    images, others = torch.randint(32, (2, 4, 8, 8, 1), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    others = torch.where(hidden[..., None], others, images)
    filled, again = (filler.fill(each, hidden.expand(4, -1, -1), 2, 2, None) for each in (images, others))
    assert torch.equal(filled, again), "a hidden pixel counts"
    assert torch.equal(filled[..., ~hidden, :], images[:, ~hidden].expand(filled.shape[0], -1, -1, -1))


def posterior_of_the_scale_above(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scale, "_kept", property(lambda stage: stage.noise.kept[stage.noise.scale]))


def clean_codes_in_place_of_the_scale_above(patch: pytest.MonkeyPatch) -> None:
    def law(
        self: Scale,
        model: Model,
        slices: Slices,
        position: Positions,
        labels: Labels | None,
        earlier: Tensor,
        later: Tensor,
    ) -> Law:
        return model(earlier, self.context(slices, position, labels))

    patch.setattr(Scale, "_law", law)


def pixels_encoded_before_they_are_hidden(patch: pytest.MonkeyPatch) -> None:
    sound = Filler.fill

    def fill(self: Filler, images: Tensor, hidden: Tensor, draws: int, repeats: int, labels: Tensor | None) -> Tensor:
        assert self.first_stage is not None
        codes = self.first_stage.encode(images.long())
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.first_stage, "encode", lambda levels: codes)
            return sound(self, images, hidden, draws, repeats, labels)

    patch.setattr(Filler, "fill", fill)


@pytest.mark.parametrize("plant", [posterior_of_the_scale_above, clean_codes_in_place_of_the_scale_above])
def test_spn_check_compares_the_bound_with_its_definition(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_bound()
    plant(monkeypatch)
    with pytest.raises(InputError, match=r"^stages.scale\d: expected the bound by its definition, got one that is"):
        check_bound()


def test_pixels_encoded_before_they_are_hidden_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_hidden_pixels(tmp_path)
    pixels_encoded_before_they_are_hidden(monkeypatch)
    with pytest.raises(AssertionError, match="a hidden pixel counts"):
        check_hidden_pixels(tmp_path)


def test_spn_check_says_what_it_checks_of_codes_and_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(tmp_path, codes_params())
    assert main(["check", "--params", str(tmp_path / "params.yaml")]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == [
        *("vq", "raster", "high", "low", "codes2", "codes1"),
        *("chain raster", "chain depth", "chain latent"),
    ]
    assert lines["vq"] == "a first stage, which is no likelihood: nothing to check"
    assert "context reaches 3 of 3 pixels, no blind spot; normalised (all 4096 targets" in lines["codes1"]
    assert lines["chain latent"].startswith("normalised (all 16 images of 2x2x1 with 1 bit sum to 1 ")
    assert lines["chain latent"].endswith(" nats above, all draws of noise enumerated")


@pytest.mark.parametrize("law", ["mixture", "dequantised"])
def test_spn_check_sums_over_draws_beside_other_cells_and_under_any_law(law: str) -> None:
    """Scales of low bits after other stages, and high ones before others."""
    section = changed(BART, law=law)
    for order in ((0, 1), (1, 2)):
        chain, noises = scales(1, (1.0, 0.5, 0.0))
        chain = dict.fromkeys(chain, Part(1, "all", order))
        other = {"other": Part(1, "all", (1 - order[0], 2 - order[0]))}
        plans = resolve(chain | other if order[0] == 0 else other | chain, (2, 2, 1), 2, noises=noises).plans
        line = check_chain("c", plans, 1, dict.fromkeys([*chain, "other"], section), seed=1)
        assert line.startswith("chain c: normalised (all 16 images of 1x2x1 with 2 bits sum to 1 ")
        assert line.endswith("are not compared" if law == "dequantised" else "enumerated")
