"""PixelCNN++: what its paper and official code say of sizes and of the first pass over data."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spn.config import PixelCnnPpSection, TrainingSection
from spn.layers.weight_norm import fold_weight_norm, gain, initialised_by_data, normalised
from spn.models import Context, Model, StageShape, build_model, num_parameters
from spn.training.optimiser import build_optimiser, learning_rate

CIFAR = StageShape(32, 32, 3, 256, num_cells=0, context_levels=256, num_positions=1)
SMALL = PixelCnnPpSection(family="pixelcnn_pp", filters=8, resnets=1, mixtures=2)


@pytest.mark.parametrize(
    ("resnets", "filters", "expected"), [(5, 160, 53_659_080), (1, 32, 578_760), (2, 64, 3_874_632)]
)
def test_it_has_the_published_number_of_parameters(resnets: int, filters: int, expected: int) -> None:
    assert num_parameters(PixelCnnPpSection(family="pixelcnn_pp", filters=filters, resnets=resnets), CIFAR) == expected


def problem(section: PixelCnnPpSection = SMALL) -> tuple[Model, Tensor, Context]:
    torch.manual_seed(1)
    model = build_model(section, StageShape(8, 8, 3, 256, num_cells=0, context_levels=256, num_positions=1)).double()
    levels = torch.randint(256, (16, 8, 8, 3))
    empty = Context(torch.zeros(16, 0, 8, 8, 3).long(), torch.zeros(16, 0).bool(), torch.zeros(16).long())
    return model, levels, empty


def normalised_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if parametrize.is_parametrized(module)]


def moments(layer: nn.Module, outputs: Tensor) -> tuple[Tensor, Tensor]:
    dims = tuple(range(outputs.ndim - 1)) if isinstance(layer, nn.Linear) else (0, 2, 3)
    return outputs.mean(dims), outputs.std(dims, correction=0)


def test_data_dependent_initialisation_gives_each_layer_zero_mean_and_its_scale() -> None:
    model, levels, context = problem(SMALL.model_copy(update={"dropout": 0.0}))
    model.initialise(levels, context)
    seen: dict[nn.Module, Tensor] = {}
    for layer in normalised_layers(model):
        layer.register_forward_hook(lambda layer, inputs, outputs: seen.update({layer: outputs}))
    model(levels, context)
    assert len(seen) == len(normalised_layers(model)) > 40
    kinds = {type(layer).__name__ for layer in seen}
    assert kinds == {f"Parametrized{kind}" for kind in ("Conv2d", "_Doubling", "_OfStreams", "_PlanarLinear")}
    for layer, outputs in seen.items():
        mean, spread = moments(layer, outputs)
        scale = initial_scale(layer).expand_as(spread).double()
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
        torch.testing.assert_close(spread, scale, atol=1e-6, rtol=1e-4)
    assert sorted({initial_scale(layer).item() for layer in seen}) == pytest.approx([0.1, 1.0])


def initial_scale(layer: nn.Module) -> Tensor:
    assert isinstance(layer.initial_scale, Tensor)
    return layer.initial_scale


def test_dropout_is_on_while_data_initialise() -> None:
    gains = []
    for dropout in (0.0, 0.5):
        model, levels, context = problem(SMALL.model_copy(update={"dropout": dropout}))
        torch.manual_seed(2)
        model.initialise(levels, context)
        gains.append(torch.cat([gain(each).flatten() for each in normalised_layers(model)]))
    without, with_dropout = gains
    assert not torch.allclose(without, with_dropout)


def test_a_transposed_convolution_has_a_gain_for_each_output() -> None:
    layer = normalised(nn.ConvTranspose2d(3, 5, 2, stride=2))
    assert gain(layer).numel() == 5
    norms = layer.weight.detach().transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(5))


def test_a_pass_afterwards_leaves_what_was_initialised() -> None:
    layer = normalised(nn.Linear(4, 3))
    with initialised_by_data(layer):
        layer(torch.randn(64, 4))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(64, 4))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_plain_copy_leaves_the_model_as_it_is() -> None:
    model, levels, context = problem()
    model.eval()
    expected = model(levels, context).probs()
    copied = fold_weight_norm(model)
    assert not normalised_layers(copied)
    torch.testing.assert_close(copied(levels, context).probs(), expected)
    torch.testing.assert_close(model(levels, context).probs(), expected)
    assert len(normalised_layers(model)) > 40


def test_weight_decay_spares_gains_and_biases() -> None:
    model, _, _ = problem()
    section = {"name": "adamw", "learning_rate": 1e-3, "betas": (0.95, 0.9995), "weight_decay": 0.1}
    training = training_section(optimiser=section)
    decayed, spared = build_optimiser(model, training.optimiser).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(each)].rsplit(".", 1)[1] for each in decayed["params"]} == {"original1"}
    assert {names[id(each)].rsplit(".", 1)[1] for each in spared["params"]} == {"original0", "bias"}


def training_section(**changes: object) -> TrainingSection:
    content = {
        "steps": 10,
        "batch_size": 4,
        "optimiser": {"name": "adamw", "learning_rate": 0.001},
        "warmup_steps": 2,
        "schedule": "exponential",
        "ema_decay": 0.9995,
        "validate_every": 10,
    }
    return TrainingSection.model_validate(content | changes)


def test_the_exponential_schedule_multiplies_at_every_step() -> None:
    section = training_section(decay=0.9)
    rates = [learning_rate(section, step) for step in range(2, 6)]
    assert rates == pytest.approx([0.001, 0.0009, 0.00081, 0.000729])
