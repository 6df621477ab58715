"""The figure of the scales of layers: what it shows is what passes, in the order of the layers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.reference import trainer
from benchmarks.scales import Scales, draw, scales_of
from spn.config import SpnSection

SECTION = SpnSection(family="spn", width=8, heads=1, transformer_layers=1, pixelcnn_width=6, pixelcnn_layers=2)


@pytest.fixture
def scales(tmp_path: Path) -> Scales:
    return scales_of(trainer(tmp_path, SECTION, size=4, scale_factor=2, batch_size=4))


def test_every_layer_is_there_once_in_the_order_in_which_it_runs(scales: Scales) -> None:
    names = list(scales.outputs)
    assert names[0] == "embedder.convs.entry"
    assert (
        names.index("entry") < names.index("transformer.blocks.0.attention.out") < names.index("pixelcnn.layers.0.out")
    )
    assert list(scales.gradients) == names
    assert all(scale > 0 for scale in scales.outputs.values())


def test_maps_that_training_merges_are_there_by_themselves(tmp_path: Path) -> None:
    training = trainer(tmp_path, SECTION, size=4, scale_factor=2, batch_size=32)
    names = list(scales_of(training).outputs)
    for layer in (0, 1):
        assert {f"pixelcnn.layers.{layer}.{each}" for each in ("vertical.conv", "link", "vertical_condition")} <= {
            *names
        }
        assert training.model.get_submodule(f"pixelcnn.layers.{layer}").merges_link


def test_scales_are_standard_deviations_of_outputs_and_of_gradients(tmp_path: Path, scales: Scales) -> None:
    training = trainer(tmp_path, SECTION, size=4, scale_factor=2, batch_size=4)
    slices, position, labels = training._batch(0)
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    training.model.get_submodule("entry").register_forward_hook(keep)
    num_sub_pixels = 2 * 2 * 3  # of a slice
    (training.stage.nats(training.model, slices, position, labels) / num_sub_pixels).sum().backward()
    (output,) = kept
    assert output.grad is not None
    assert scales.outputs["entry"] == pytest.approx(float(output.detach().std()))
    assert scales.gradients["entry"] == pytest.approx(float(output.grad.std()))


def test_measuring_leaves_no_gradient_behind_and_the_picture_is_a_png(tmp_path: Path, scales: Scales) -> None:
    training = trainer(tmp_path, SECTION, size=4, scale_factor=2, batch_size=4)
    scales_of(training)
    assert all(parameter.grad is None for parameter in training.model.parameters())
    draw({"stage": {0: scales, 1: scales}}, tmp_path / "scales.png")
    assert (tmp_path / "scales.png").read_bytes().startswith(b"\x89PNG")
