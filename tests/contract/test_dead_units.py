"""Outputs that see nothing, and gradients that are not finite: neither may stop training without a word."""

import math
from pathlib import Path

import pytest
import torch
from experiment import tiny_params, write_params
from torch import Tensor, nn

from spn.config import FamilySection, ImageBartSection, Params, PixelCnnPpSection, PixelSnailSection, load_params
from spn.data.hdf5 import SliceFile
from spn.data.preprocess import write_slices
from spn.layers.weight_norm import gain, initialised_by_data, normalised
from spn.models import Context, StageShape, build_model
from spn.provenance import stage_recipe
from spn.training.finite import check_finite, gradient_norms, worst_gradient
from spn.training.trainer import Trainer

CPU = torch.device("cpu")


def initialised(layer: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Let a batch initialise a layer; return its gains and biases."""
    with initialised_by_data(layer):
        layer(inputs)
    return gain(layer).detach().flatten(), layer.bias.detach()


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e-3, 1e4])
def test_outputs_without_variance_are_left_alone(constant: float) -> None:
    torch.manual_seed(1)
    gains, biases = initialised(normalised(nn.Linear(16, 64)), torch.full((512, 16), constant))
    assert torch.equal(gains, torch.ones(64))
    assert torch.equal(biases, torch.zeros(64))


def test_rounding_is_no_variance() -> None:
    torch.manual_seed(1)
    inputs = torch.ones(512, 16) + 1e-7 * torch.randn(512, 16)
    gains, biases = initialised(normalised(nn.Linear(16, 64)), inputs)
    assert torch.equal(gains, torch.ones(64))
    assert torch.equal(biases, torch.zeros(64))


def test_an_output_with_variance_is_normalised_beside_one_without() -> None:
    torch.manual_seed(1)
    layer = normalised(nn.Linear(2, 2))
    layer.weight = torch.eye(2)
    inputs = torch.stack((torch.randn(4096), torch.full((4096,), 3.0)), dim=1)
    gains, biases = initialised(layer, inputs)
    assert (gains[1].item(), biases[1].item()) == (1, 0)
    seen = layer(inputs).detach()[:, 0]
    assert seen.mean().abs() < 1e-5
    assert seen.std(correction=0).item() == pytest.approx(1, rel=1e-4)


def test_a_small_variance_is_a_variance() -> None:
    torch.manual_seed(1)
    inputs = 1 + 0.01 * torch.randn(4096, 16)
    layer = normalised(nn.Linear(16, 8))
    initialised(layer, inputs)
    torch.testing.assert_close(layer(inputs).std(0, correction=0), torch.ones(8), atol=1e-2, rtol=0)


SNAIL = PixelSnailSection(family="pixelsnail", width=8, blocks=1, resnets=1, key_width=4, value_width=4, mixtures=2)
PLUS_PLUS = PixelCnnPpSection(family="pixelcnn_pp", filters=8, resnets=1, mixtures=2, dropout=0.0)
BART = ImageBartSection(family="imagebart", width=8, heads=2, decoder_layers=1)
BLIND: dict[str, tuple[FamilySection, int]] = {
    "lowest resolution of one pixel": (PLUS_PLUS, 4),
    "lowest resolution of one pixel, softmax": (PLUS_PLUS.model_copy(update={"law": "softmax"}), 4),
    "one pixel": (PLUS_PLUS.model_copy(update={"downsampling": False}), 1),
    "one pixel, attention": (SNAIL, 1),
    "one pixel, attention, softmax": (SNAIL.model_copy(update={"law": "softmax"}), 1),
    "one pixel, Transformer": (BART, 1),
}
"""Families and sides of slices without context, of which some layers or all see nothing that varies."""


@pytest.mark.parametrize("case", BLIND)
@pytest.mark.slow
def test_networks_whose_layers_see_nothing_learn_the_frequencies(case: str) -> None:
    section, side = BLIND[case]
    torch.manual_seed(1)
    shape = StageShape(side, side, 1, 4, num_cells=0, context_levels=4, num_positions=1)
    model = build_model(section, shape).train()
    shares = torch.tensor([0.6, 0.1, 0.25, 0.05])
    levels = torch.multinomial(shares, 256 * side * side, replacement=True).view(256, side, side, 1)
    context = Context(torch.zeros(256, 0, side, side, 1).long(), torch.zeros(256, 0).bool(), torch.zeros(256).long())
    model.initialise(levels, context)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(120):
        optimiser.zero_grad()
        loss = -model(levels, context).log_prob(levels).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert norm.isfinite()
        optimiser.step()
    drawn = levels.flatten().bincount() / levels.numel()
    entropy = -(drawn * drawn.log()).sum().item()
    assert loss.item() < 1.03 * entropy


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, SliceFile]:
    folder = tmp_path_factory.mktemp("data")
    params = load_params(write_params(folder, tiny_params()))
    write_slices(params.data, 2, (0, 2, 5), folder / "sources", folder / "S2.h5", progress=False)
    return params, SliceFile(folder / "S2.h5")


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 1e25], ids=["inf", "nan", "overflow"])
def test_a_gradient_that_is_not_finite_stops_with_stage_step_and_parameter(
    experiment: tuple[Params, SliceFile], tmp_path: Path, factor: float
) -> None:
    params, file = experiment
    trainer = Trainer(params, "low", file, stage_recipe(params, "low", file.digest), CPU)
    parameter = trainer.model.get_parameter("entry.weight")

    def spoil(gradient: Tensor) -> Tensor:
        # Finite, but too large for the sum of its squares, where the factor is.
        return gradient.sign() * factor if trainer.state.step == 1 else gradient

    parameter.register_hook(spoil)
    with pytest.raises(FloatingPointError) as caught:
        trainer.advance(tmp_path / "state.safetensors", lambda row: None)
    said = str(caught.value)
    assert said.startswith("stage low, step 2: expected a finite gradient, got a norm of ")
    assert said.endswith(" for entry.weight")
    assert said.splitlines() == [said]
    assert not (tmp_path / "state.safetensors").exists()


def with_gradients(**gradients: float) -> nn.Module:
    """Make a network of single numbers with these gradients."""
    model = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in ("frozen", *gradients)})
    for name, gradient in gradients.items():
        model[name].grad = torch.tensor(gradient)
    return model


@pytest.mark.parametrize(
    ("gradients", "worst"),
    [((1.0, 3.0, -2.0), 1), ((1.0, math.inf, math.nan), 1), ((1.0, math.nan, -math.inf), 1), ((1.0, 2.0, math.nan), 2)],
)
def test_the_first_gradient_that_is_not_finite_is_blamed(gradients: tuple[float, ...], worst: int) -> None:
    model = with_gradients(**dict(zip("abc", gradients, strict=True)))
    assert worst_gradient(gradient_norms(model.parameters())).item() == worst


def test_the_first_step_that_is_not_finite_is_named() -> None:
    model, sound, culprit = with_gradients(a=1.0, b=2.0), torch.tensor(1.0), torch.tensor(1.0)
    norms = [torch.tensor(each) for each in (1.0, 1.0, math.inf, math.nan)]
    pending = [(sound, norm, culprit) for norm in norms]
    check_finite("low", model, torch.ones(2), pending[:2], step=9)
    with pytest.raises(FloatingPointError) as told:
        check_finite("low", model, torch.ones(4), pending, step=9)
    assert str(told.value) == "stage low, step 8: expected a finite gradient, got a norm of inf for b"
    with pytest.raises(FloatingPointError) as told:
        check_finite("low", model, torch.tensor([1.0, math.nan, 1.0, 1.0]), pending, step=9)
    assert str(told.value) == "stage low, step 7: expected a finite loss, got nan"
