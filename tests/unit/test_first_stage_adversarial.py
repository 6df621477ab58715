"""The adversarial loss: one backward pass for both networks, disjoint gradients, the adaptive weight and its rise."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spn.config.first_stage import AdversarialSection, VqSection
from spn.first_stages import VqAutoencoder
from spn.first_stages.adversarial import Adversary, PatchDiscriminator, adaptive_weight

LEVELS = 16
START, WARMUP = 0.5, 0.2


def build(**changes: Any) -> VqAutoencoder:
    adversarial: dict[str, Any] = {"weight": 0.5, "start": START, "warmup": WARMUP, "width": 4, "layers": 2} | changes
    torch.manual_seed(1)
    section = VqSection(
        downsampling=2, codebook=8, code_width=4, width=6, adversarial=AdversarialSection(**adversarial)
    )
    model = VqAutoencoder(section, 1, LEVELS).double()
    model.initialise(draw_images())
    return model


def draw_images() -> Tensor:
    return torch.randint(LEVELS, (3, 8, 8, 1), generator=torch.Generator().manual_seed(2))


def judge(model: VqAutoencoder) -> PatchDiscriminator:
    assert model.adversary is not None
    return model.adversary.discriminator


def gradients(model: VqAutoencoder) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def terms(model: VqAutoencoder, progress: float) -> dict[str, Tensor]:
    """Return the terms of both networks, which `loss` adds up, for the same reconstruction."""
    values = draw_images().double() * 2 / (LEVELS - 1) - 1
    reconstruction = model.decoder(model.quantiser.eval()(model.encoder(values)).vectors)
    distance = (reconstruction - values).abs().mean((1, 2, 3))
    assert model.adversary is not None
    added = model.adversary.terms(values, reconstruction, distance, model.decoder.last.weight, progress)
    return {"distance": distance, "real": values, "fake": reconstruction, **added}


def test_before_the_start_the_discriminator_neither_acts_nor_trains() -> None:
    model = build()
    loss, figures = model.loss(draw_images(), START - 0.01)
    loss.mean().backward()
    found = gradients(model)
    assert figures["adversarial"] == figures["discriminator"] == 0
    assert all((gradient is None) == name.startswith("adversary.") for name, gradient in found.items())
    alone = build()
    alone.adversary = None
    without, _ = alone.loss(draw_images(), 0.9)
    torch.testing.assert_close(loss, without, rtol=0, atol=0)


def check_disjoint() -> None:
    """Check that the term of each network has gradients in all weights of that network, and in no others."""
    for term, owned in (("adversarial", ("encoder.", "decoder.")), ("discriminator", ("adversary.",))):
        model = build()
        with torch.no_grad():  # no weight is 0, as in fresh residual blocks, and some logits are beyond the hinge
            judge(model).last.bias += 1
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        terms(model, 0.9)[term].sum().backward()
        found = gradients(model)
        touched = {name for name, gradient in found.items() if gradient is not None and gradient.any()}
        assert touched == {name for name in found if name.startswith(owned)}, term


def test_the_gradients_of_both_networks_are_disjoint() -> None:
    check_disjoint()


def test_a_discriminator_that_learns_to_be_deceived_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adversary, "_constant", lambda self, values: self.discriminator(values))
    with pytest.raises(AssertionError, match="adversarial"):
        check_disjoint()


def test_one_backward_pass_is_that_of_each_network_by_itself() -> None:
    model = build()
    model.eval()
    loss, _ = model.loss(draw_images(), 0.9)
    loss.mean().backward()
    together = gradients(model)
    model.zero_grad()
    terms(model, 0.9)["discriminator"].mean().backward()
    for name, gradient in gradients(model).items():
        if name.startswith("adversary."):
            torch.testing.assert_close(together[name], gradient)


def test_the_terms_are_the_hinge_losses_by_hand() -> None:
    model = build()
    with torch.no_grad():
        judge(model).last.weight *= 20  # so that some logits are beyond the hinge
    found = terms(model, 0.9)
    real, fake = judge(model)(found["real"]), judge(model)(found["fake"])
    assert real.shape == (3, 2, 2, 1)
    assert (real > 1).any() or (fake < -1).any()
    hinge = (1 - real).clamp(min=0) + (1 + fake).clamp(min=0)
    torch.testing.assert_close(found["discriminator"], hinge.mean((1, 2, 3)) / 2)
    ratio = adaptive_weight(found["distance"], -fake.mean((1, 2, 3)), model.decoder.last.weight)
    torch.testing.assert_close(found["adversarial"], 0.5 * ratio * -fake.mean((1, 2, 3)))


def test_with_the_adaptive_weight_both_gradients_are_of_one_size() -> None:
    model = build(weight=1.0)
    found, last = terms(model, 1.0), model.decoder.last.weight
    norms = [
        torch.autograd.grad(found[name].mean(), last, retain_graph=True)[0].norm()
        for name in ("distance", "adversarial")
    ]
    torch.testing.assert_close(norms[1], norms[0], rtol=0.05, atol=0)  # but for what is added to the smaller norm
    assert norms[0] > 0


def test_the_adaptive_weight_is_the_bounded_ratio_of_norms() -> None:
    last = nn.Parameter(torch.ones(2, 2, dtype=torch.double))
    assert adaptive_weight(3 * last.sum()[None], 2 * last.sum()[None], last).item() == pytest.approx(1.5, rel=1e-4)
    assert adaptive_weight(3 * last.sum()[None], 0 * last.sum()[None], last).item() == 1e4


def test_the_weight_rises_linearly_after_the_start() -> None:
    model = build()
    at = {step: terms(model, START + step * WARMUP)["adversarial"] for step in (0, 0.25, 0.5, 1, 2)}
    assert not at[0].any()
    torch.testing.assert_close(at[0.25] * 4, at[1])
    torch.testing.assert_close(at[0.5] * 2, at[1])
    torch.testing.assert_close(at[2], at[1])
    sudden = build(warmup=0.0)
    torch.testing.assert_close(terms(sudden, START)["adversarial"], at[1])
    assert terms(model, START)["discriminator"].all()  # it trains before it acts


def test_the_judgement_of_an_image_does_not_depend_on_its_batch() -> None:
    model = build()
    values = terms(model, 0.9)["real"]
    alone = torch.cat([judge(model)(image[None]) for image in values])
    torch.testing.assert_close(judge(model)(values), alone, rtol=1e-12, atol=1e-12)


def test_the_discriminator_learns_to_tell_images_apart() -> None:
    torch.manual_seed(3)
    section = build(width=8).section.adversarial
    assert section is not None
    patches = PatchDiscriminator(section, 1)
    smooth = torch.rand(32, 1, 1, 1).expand(32, 8, 8, 1)
    rough = torch.rand(32, 8, 8, 1)
    optimiser = torch.optim.Adam(patches.parameters(), lr=0.01)
    for _ in range(60):
        loss = (F.relu(1 - patches(smooth)) + F.relu(1 + patches(rough))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert patches(smooth).mean() > 0.5
    assert patches(rough).mean() < -0.5


def test_under_bfloat16_codes_are_chosen_and_losses_added_in_float32() -> None:
    model = build().float().eval()
    outputs = 10 + 0.01 * torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        model.quantiser.codebook[:] = outputs.flatten(0, 2)[:8]
    codes = model.quantiser.nearest(outputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.quantiser.nearest(outputs), codes)
        loss, figures = model.loss(draw_images(), 0.9)
    assert len(codes.unique()) == 8
    assert loss.dtype == torch.float32
    assert {figure.dtype for figure in figures.values()} == {torch.float32}
    loss.mean().backward()
    assert all(gradient is not None for gradient in gradients(model).values())
