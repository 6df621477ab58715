"""The VQ auto-encoder: its section, codes and images, gradients of the quantiser, and restarts of unused codes."""

import copy
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from spn.config.first_stage import VqSection
from spn.first_stages import VqAutoencoder, quantiser
from spn.first_stages.quantiser import Quantised, Quantiser
from spn.layers.residual import ConvStack

LEVELS = 8


def section(**changes: Any) -> VqSection:
    return VqSection(**{"downsampling": 2, "codebook": 8, "code_width": 4, "width": 6} | changes)


def build(**changes: Any) -> VqAutoencoder:
    """Build an auto-encoder of two channels in float64."""
    torch.manual_seed(1)
    return VqAutoencoder(section(**changes), 2, LEVELS).double()


def draw_images(count: int = 5) -> Tensor:
    return torch.randint(LEVELS, (count, 4, 6, 2), generator=torch.Generator().manual_seed(2))


def scaled(images: Tensor) -> Tensor:
    return images.double() * 2 / (LEVELS - 1) - 1


def draw_outputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.double)


# Its section.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook": 1024}, "expected a power of two from 2 to 256, the most levels that files hold, got 1024"),
        ({"codebook": 1}, "expected a power of two from 2 to 256, the most levels that files hold, got 1"),
        ({"downsampling": 3}, "expected a power of two from 1 to 64, got 3"),
    ],
)
def test_what_is_no_power_of_two_is_told_in_one_line(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        section(**changes)
    (problem,) = raised.value.errors()
    assert problem["loc"] == tuple(changes)
    assert problem["msg"] == f"Value error, {message}"


@pytest.mark.parametrize("power", [2, 4, 8, 16, 32, 64, 128, 256])
def test_every_power_of_two_that_the_schema_lists_is_accepted(power: int) -> None:
    assert section(codebook=power).codebook == power
    assert power in VqSection.model_json_schema()["properties"]["codebook"]["enum"]


def test_what_does_not_fit_the_images_is_named() -> None:
    assert section(downsampling=4).problem(8, 12) is None
    expected = "downsampling: expected a divisor of the images' 8x12 pixels, got 8"
    assert section(downsampling=8).problem(8, 12) == expected
    adversarial = {"adversarial": {"layers": 3}}
    assert section(**adversarial).problem(8, 12) is None
    expected = "adversarial.layers: expected at most 2 for images of 6x12 pixels, got 3"
    assert section(**adversarial).problem(6, 12) == expected


# Codes and images.


@pytest.mark.parametrize("downsampling", [1, 2, 4, 8])
def test_images_become_grids_of_codes_and_any_codes_become_images(downsampling: int) -> None:
    model = build(downsampling=downsampling)
    images = torch.randint(LEVELS, (3, 8, 16, 2))
    codes = model.encode(images)
    assert codes.shape == (3, 8 // downsampling, 16 // downsampling)
    assert codes.min() >= 0
    assert codes.max() < 8
    for any_codes in (codes, torch.arange(8).repeat(3, 1)[:, None]):
        decoded = model.decode(any_codes)
        assert decoded.dtype == torch.uint8
        assert decoded.shape == (3, any_codes.shape[1] * downsampling, any_codes.shape[2] * downsampling, 2)
        assert decoded.max() < LEVELS
        assert torch.equal(decoded, model.decode(any_codes))


def test_levels_are_the_nearest_to_the_output_and_confined() -> None:
    model = build(downsampling=1)
    outputs = torch.tensor([-3.0, -1.0, -0.9, 1 / 7 + 0.01, 1 / 7 - 0.01, 0.9, 1.0, 3.0], dtype=torch.double)
    model.decoder.forward = lambda vectors: outputs[:, None, None, None]  # type: ignore[method-assign]
    assert model.decode(torch.zeros(8, 1, 1, dtype=torch.long)).flatten().tolist() == [0, 0, 0, 4, 4, 7, 7, 7]


def test_channels_double_twice() -> None:
    model = build(downsampling=16, width=6)
    encoder, decoder = (
        [cast(ConvStack, stack).norm.normalized_shape[0] for stack in stacks]
        for stacks in (model.encoder.stacks, model.decoder.stacks)
    )
    assert encoder == [6, 12, 24, 24, 24]
    assert decoder == encoder[::-1]


def test_every_code_and_every_pixel_matters() -> None:
    """An image determines its codes wherever it changes, and codes their image."""
    model, images = build(downsampling=2, codebook=256), draw_images(1)
    outputs = model.encoder(scaled(images))
    others = images.clone()
    others[0, 3, 5] = LEVELS - 1 - others[0, 3, 5]
    changed = (model.encoder(scaled(others)) != outputs).any(-1)[0]
    assert changed[1, 2]
    codes = torch.zeros(1, 2, 3, dtype=torch.long)
    values = model.decoder(model.quantiser.lookup(codes))
    codes[0, 1, 2] = 200
    assert (model.decoder(model.quantiser.lookup(codes)) != values)[0, 2:, 4:].all()


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, images = build(), draw_images()
    model.initialise(images)
    model.eval()
    alone = torch.cat([model.encode(image[None]) for image in images])
    assert torch.equal(model.encode(images), alone)
    losses = model.loss(images, 0.5)[0]
    apart = torch.cat([model.loss(image[None], 0.5)[0] for image in images])
    torch.testing.assert_close(losses, apart, rtol=1e-12, atol=0)


def test_training_tells_as_many_levels_apart_as_there_are_codes() -> None:
    torch.manual_seed(4)
    model = VqAutoencoder(section(downsampling=1, codebook=4, width=8, restart_after=5), 1, 256)
    levels = torch.tensor([0, 40, 90, 255])
    images = levels[torch.randint(4, (64, 2, 2, 1))]
    model.initialise(images)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(80):
        loss, _ = model.loss(images, step / 80)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    codes = model.encode(images)
    assert torch.equal(codes.unique(), torch.arange(4))
    error = (model.decode(codes).double() - images).abs().mean()
    assert error < 0.4 * (images.double() - images.median()).abs().mean()  # which is the least for a single code


# The quantiser's codes and gradients.


def test_codes_are_the_nearest_and_the_lowest_of_several() -> None:
    layer = Quantiser(16, 3, 10).double()
    outputs = draw_outputs(4, 5, 6, 3)
    by_hand = (outputs[..., None, :] - layer.codebook).square().sum(-1).argmin(-1)
    assert torch.equal(layer.nearest(outputs), by_hand)
    assert len(by_hand.unique()) > 4
    with torch.no_grad():
        layer.codebook[:] = torch.tensor([[5.0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 0, 0]] * 4)
    at_both = torch.tensor([[[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]]], dtype=torch.double)
    assert layer.nearest(at_both).flatten().tolist() == [1, 2]


def check_sides_of_commitment(weight: float = 0.25) -> None:
    """Check what moves outputs and what moves codes, against differences in the formulas of the paper."""
    layer = Quantiser(8, 3, 10).double().eval()
    outputs = draw_outputs(2, 2, 3, 3).requires_grad_()
    slope = draw_outputs(2, 2, 3, 3).cos()
    quantised = layer(outputs)
    loss = (slope * quantised.vectors).sum() + (quantised.codebook + weight * quantised.commitment).sum()
    to_outputs, to_codes = torch.autograd.grad(loss, (outputs, layer.codebook))

    clean, codes = outputs.detach(), quantised.codes
    numbers = clean[0].numel()

    def commitment(moved: Tensor) -> float:
        return weight * (moved - layer.codebook[codes]).square().sum().item() / numbers

    def codebook(moved: Tensor) -> float:
        return (clean - moved[codes]).square().sum().item() / numbers

    torch.testing.assert_close(to_outputs, slope + differences(commitment, clean), rtol=0, atol=1e-7)
    torch.testing.assert_close(to_codes, differences(codebook, layer.codebook.detach()), rtol=0, atol=1e-7)


def differences(function: Callable[[Tensor], float], point: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient of a function by central differences."""
    gradient = torch.zeros_like(point)
    for index in range(point.numel()):
        move = torch.zeros_like(point).flatten()
        move[index] = step
        move = move.view_as(point)
        gradient.view(-1)[index] = (function(point + move) - function(point - move)) / (2 * step)
    return gradient


def test_commitment_moves_outputs_and_the_codebook_loss_moves_codes() -> None:
    check_sides_of_commitment()


def test_gradients_go_straight_through_and_vectors_are_codes() -> None:
    layer = Quantiser(8, 3, 10).double().eval()
    outputs = draw_outputs(2, 2, 3, 3).requires_grad_()
    quantised = layer(outputs)
    torch.testing.assert_close(quantised.vectors, layer.codebook[quantised.codes], rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(quantised.vectors.square().sum(), outputs)
    torch.testing.assert_close(gradient, 2 * quantised.vectors.detach())


def swapped(sound: Callable[[Quantiser, Tensor], Quantised]) -> Callable[[Quantiser, Tensor], Quantised]:
    """Put the weight on the wrong side, as the published quantiser did."""

    def wrong(self: Quantiser, outputs: Tensor) -> Quantised:
        quantised = sound(self, outputs)
        return quantised._replace(codebook=quantised.commitment, commitment=quantised.codebook)

    return wrong


def test_a_weight_on_the_wrong_side_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantiser, "forward", swapped(Quantiser.forward))
    with pytest.raises(AssertionError):
        check_sides_of_commitment()
    check_sides_of_commitment(weight=1.0)  # where both sides weigh the same


def check_the_weight_spares_codes() -> None:
    """Check that the section's weight changes the encoder's gradient and not the codebook's."""
    gradients = []
    for commitment in (0.25, 2.0):
        model = build(commitment=commitment)
        model.initialise(draw_images())
        model.loss(draw_images(7), 0.5)[0].mean().backward()
        codes, outputs = model.quantiser.codebook.grad, model.encoder.last.weight.grad
        assert codes is not None
        assert outputs is not None
        gradients.append((codes, outputs))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_the_loss_weighs_the_commitment(monkeypatch: pytest.MonkeyPatch) -> None:
    check_the_weight_spares_codes()
    monkeypatch.setattr(Quantiser, "forward", swapped(Quantiser.forward))
    with pytest.raises(AssertionError):
        check_the_weight_spares_codes()


def test_the_loss_is_the_sum_of_its_terms_by_hand() -> None:
    model, images = build(commitment=0.5), draw_images()
    model.initialise(images)
    loss, figures = model.loss(images, 0.0)
    values = scaled(images)
    outputs = model.encoder(values)
    vectors = model.quantiser.codebook[model.encode(images)]
    gap = (outputs - vectors).square().mean((1, 2, 3))
    distance = (model.decoder(vectors) - values).abs().mean((1, 2, 3))
    torch.testing.assert_close(loss, distance + 1.5 * gap, rtol=1e-12, atol=0)
    terms = {"reconstruction": distance.mean(), "codebook": gap.mean(), "commitment": 0.5 * gap.mean()}
    assert {*figures} == {*terms, "codes_used"}
    for name, term in terms.items():
        torch.testing.assert_close(figures[name], term.detach(), rtol=1e-12, atol=0)
        assert not figures[name].requires_grad
    assert figures["codes_used"] == len(model.encode(images).unique()) / 8


# The first codebook, and restarts.


def test_the_first_codes_are_outputs_of_the_first_batch_and_none_twice() -> None:
    model, images = build(), draw_images()
    model.quantiser.idle += 3
    model.initialise(images)
    outputs = model.encoder(scaled(images)).detach().flatten(0, 2)
    which = torch.cdist(model.quantiser.codebook.detach(), outputs).min(1)
    assert which.values.max() < 1e-6
    assert len(which.indices.unique()) == 8
    assert model.quantiser.idle.eq(0).all()
    few = Quantiser(8, 3, 10).double()
    few.initialise(draw_outputs(1, 1, 2, 3))
    assert len(few.codebook.detach().unique(dim=0)) == 2


FAR = 1e6


def check_restart() -> None:
    """Check that a code that no output is near restarts after just so many steps, and others stay."""
    layer = Quantiser(4, 3, restart_after=3).double()
    outputs = draw_outputs(2, 4, 4, 3)
    layer.initialise(outputs)
    with torch.no_grad():
        layer.codebook[2] = FAR
    before = layer.codebook.detach().clone()
    for step in range(3):
        layer(outputs)
        assert torch.equal(layer.codebook, before)
        assert layer.idle.tolist() == [0, 0, step + 1, 0]
    quantised = layer(outputs)
    moved = layer.codebook.detach()
    assert (moved[2] == outputs.flatten(0, 2)).all(-1).any()
    assert torch.equal(moved[[0, 1, 3]], before[[0, 1, 3]])
    assert (quantised.codes == 2).any()  # used at once
    assert layer.idle.tolist() == [0, 0, 0, 0]


def test_an_unused_code_restarts_at_an_output() -> None:
    check_restart()


def never_idle(self: Quantiser, codes: Tensor) -> None:
    self.idle.zero_()


def always_idle(self: Quantiser, codes: Tensor) -> None:
    self.idle.add_(1)


@pytest.mark.parametrize("bug", [never_idle, always_idle])
def test_miscounted_use_is_noticed(bug: Callable[[Quantiser, Tensor], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantiser, "_note", bug)
    with pytest.raises(AssertionError):
        check_restart()


def test_evaluation_restarts_and_counts_nothing() -> None:
    layer = Quantiser(4, 3, restart_after=1).double().eval()
    layer.idle += 5
    before = copy.deepcopy(layer.state_dict())
    layer(draw_outputs(2, 4, 4, 3))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def train(model: VqAutoencoder, steps: range) -> dict[str, Tensor]:
    """Train with restarts at nearly every step, seeded by the step, and return the weights and buffers."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        torch.manual_seed(step)
        loss, _ = model.loss(draw_images(1), step / 10)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    return copy.deepcopy(model.state_dict())


def test_the_same_seeds_make_the_same_weights_and_a_state_goes_on() -> None:
    make = {"codebook": 32, "restart_after": 2}
    whole = train(build(**make), range(6))
    begun = train(build(**make), range(3))
    resumed = build(**make)
    resumed.load_state_dict(begun)
    ended = train(resumed, range(3, 6))
    assert whole.keys() == ended.keys()
    assert all(torch.equal(whole[name], ended[name]) for name in whole)
    begun["quantiser.idle"].zero_()  # such as a state without it
    resumed.load_state_dict(begun)
    assert not torch.equal(train(resumed, range(3, 6))["quantiser.codebook"], whole["quantiser.codebook"])


def test_processes_with_other_images_keep_the_same_codebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for two processes: a code is used if either uses it, and restarts at an output of either."""
    here, meeting, sent = threading.local(), threading.Barrier(2), [torch.empty(0)] * 2

    def mean(values: Tensor) -> Tensor:
        sent[here.rank] = values
        meeting.wait(10)
        average = (sent[0] + sent[1]) / 2
        meeting.wait(10)
        return average

    def collect(mine: list[Tensor]) -> list[Tensor]:
        sent[here.rank] = mine[0]
        meeting.wait(10)
        shares = list(sent)
        meeting.wait(10)
        return shares

    monkeypatch.setattr(quantiser, "mean", mean)
    monkeypatch.setattr(quantiser, "collect", collect)
    monkeypatch.setattr(quantiser, "num_processes", lambda: 2)
    monkeypatch.setattr(quantiser, "is_first", lambda: here.rank == 0)
    layers = [Quantiser(4, 3, restart_after=2).double() for _ in range(2)]
    codes = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [FAR, 0, 0]], dtype=torch.double)
    outputs = [codes[None, None, :1] + 0.1, codes[None, None, 1:2] + 0.2]

    def run(rank: int) -> None:
        here.rank = rank
        layers[rank].load_state_dict({"codebook": codes, "idle": torch.zeros(4, dtype=torch.long)})
        for _ in range(3):
            layers[rank](outputs[rank])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(layers[0].codebook, layers[1].codebook)
    both = torch.cat((outputs[0][0, 0], outputs[1][0, 0]))
    moved = layers[0].codebook.detach()
    torch.testing.assert_close(moved[:2], codes[:2])
    assert any(torch.equal(moved[2:], drawn) for drawn in (both, both.flip(0)))
    for layer in layers:
        # Codes 0 and 1 lost their outputs to codes 2 and 3, which restarted there.
        assert layer.idle.tolist() == [1, 1, 0, 0]
