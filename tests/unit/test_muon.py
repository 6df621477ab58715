"""Muon: matrices take orthogonal steps, and all else takes those of AdamW."""

import numpy as np
import pytest
import torch
from torch import nn

from spn.config import Muon as MuonSection
from spn.laws import build_stacked_head
from spn.layers import GatedResnet, Scale
from spn.training.muon import Muon, hidden_matrices, orthogonal
from spn.training.optimiser import build_optimiser


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_an_orthogonal_matrix_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    found = left.T @ orthogonal(matrix).numpy() @ right.T
    # The published coefficients do not converge to 1: they bring singular values near it, and fast.
    assert np.all(np.abs(np.diag(found) - 1) < 0.35)
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-4
    assert values.max() / values.min() > 2  # so that there was something to do


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_a_gradient_does_not_matter(scale: float) -> None:
    torch.manual_seed(2)
    matrix = torch.randn(16, 20)
    torch.testing.assert_close(orthogonal(scale * matrix), orthogonal(matrix), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-28, 1e-22, 1e-16])
def test_a_gradient_that_has_all_but_vanished_moves_nothing(scale: float) -> None:
    """A branch that the rest of a network does not listen to has such gradients, whose squares are below float32."""
    torch.manual_seed(2)
    assert orthogonal(scale * torch.randn(3, 48, 64)).abs().max() < 1e-3  # which nan is not


def test_a_step_is_that_by_hand() -> None:
    torch.manual_seed(3)
    shapes = [(32, 16), (16, 32), (32, 16)]  # two of one shape, and one of another with as many entries
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    expected = [weight.detach().clone() for weight in weights]
    totals = [torch.zeros(shape) for shape in shapes]
    optimiser = Muon(weights, [], learning_rate=0.1, relative_rate=1.0, momentum=0.9, betas=(0.9, 0.99))
    for _ in range(2):
        for weight, total, by_hand in zip(weights, totals, expected, strict=True):
            weight.grad = torch.randn(weight.shape)
            total.mul_(0.9).add_(weight.grad)
            scale = 2**0.5 if len(weight) == 32 else 1  # with twice as many rows as columns
            by_hand -= 0.1 * scale * orthogonal(weight.grad + 0.9 * total)
        optimiser.step()
    for weight, by_hand in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), by_hand)


def test_a_convolution_is_a_matrix_of_outputs_by_the_rest() -> None:
    torch.manual_seed(4)
    kernel, gradient = torch.randn(16, 8, 2, 3), torch.randn(16, 8, 2, 3)
    ends = []
    for shape in ((16, 8, 2, 3), (16, 48)):
        weight = nn.Parameter(kernel.view(shape).clone())
        weight.grad = gradient.view(shape)
        Muon([weight], [], 0.1, 1.0, 0.9, (0.9, 0.99)).step()
        ends.append(weight.detach().view(16, 48))
    assert torch.equal(*ends)


def test_all_else_takes_the_steps_of_adamw() -> None:
    torch.manual_seed(5)
    first, gradients = torch.randn(7), torch.randn(3, 7)
    ours, theirs = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    optimiser = Muon([nn.Parameter(torch.zeros(16, 16))], [ours], 0.1, 0.2, 0.9, (0.8, 0.95))
    adamw = torch.optim.AdamW([theirs], lr=0.02, betas=(0.8, 0.95), weight_decay=0.0)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimiser.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours.detach(), first)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 32)
        self.conv = nn.Conv2d(4, 16, 3)
        self.narrow = nn.Linear(16, 8)
        self.norm = nn.LayerNorm(16)
        self.resnet = GatedResnet(16, (2, 2), num_beside=16, num_classes=0, dropout=0.0)
        self.masked = build_stacked_head("mixture", 48, 3, Scale(4, 1), 10, masks_channels=True)
        self.head = build_stacked_head("mixture", 48, 3, Scale(4, 1), 10, masks_channels=False)


def test_matrices_are_the_weights_of_maps_with_enough_rows_and_columns_but_for_the_last() -> None:
    model = Network()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    direction = "parametrizations.weight.original1"  # the gains are original0
    assert {names[id(matrix)] for matrix in hidden_matrices(model)} == {
        "conv.weight",
        f"resnet.first.conv.{direction}",
        f"resnet.second.conv.{direction}",
        f"resnet.beside.{direction}",
        *(f"masked.hidden.groups.{group}.weight" for group in range(3)),
    }


def test_every_parameter_is_in_one_group_with_its_rate() -> None:
    model = Network()
    section = MuonSection(name="muon", learning_rate=0.02, others_learning_rate=0.005)
    optimiser = build_optimiser(model, section)
    matrices, others = optimiser.param_groups
    every = [*matrices["params"], *others["params"]]
    assert sorted(map(id, every)) == sorted(map(id, model.parameters()))
    assert (matrices["lr"], others["lr"]) == (0.02, pytest.approx(0.005))
    assert others["relative_rate"] == pytest.approx(0.25)


def test_a_loaded_state_goes_to_the_device_of_the_parameters() -> None:
    """A step on a GPU needs all of it there; a meta tensor is on another device too."""

    def optimiser(device: str) -> Muon:
        torch.manual_seed(5)
        weights = [nn.Parameter(torch.randn(shape, device=device)) for shape in ((16, 16), (3,))]
        return Muon(weights[:1], weights[1:], learning_rate=0.1, relative_rate=0.5, momentum=0.9, betas=(0.9, 0.99))

    saved, loaded = optimiser("cpu"), optimiser("meta")
    for group in saved.param_groups:
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    saved.step()
    state = loaded.state_dict() | {"state": saved.state_dict()["state"]}
    loaded.load_state_dict(state)
    found = {name: value.device.type for each in loaded.state.values() for name, value in each.items()}
    assert found == dict.fromkeys(("momentum", "step", "exp_avg", "exp_avg_sq"), "meta")
