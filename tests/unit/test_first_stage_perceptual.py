"""The perceptual loss of a first stage: of features, weights that the user brings, what is refused."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from spn.config import InputError
from spn.config.first_stage import PerceptualSection, VqSection
from spn.first_stages import VqAutoencoder
from spn.first_stages.perceptual import BLOCKS, Perceptual

WIDTHS = (3, 4, 5)
"""Of the first convolutions; all others are as wide as the last."""


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PerceptualSection:
    """Write a narrow VGG16 with random weights to sources/, with a layer that is not read."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(1)
    tensors = {"classifier.0.weight": torch.zeros(2)}
    numbers = [number for block in BLOCKS for number in block]
    for place, number in enumerate(numbers):
        num_in, width = (WIDTHS[min(each, len(WIDTHS) - 1)] for each in (place, place + 1))
        shape = (width, num_in, 3, 3)
        tensors[f"features.{number}.weight"] = torch.randn(shape, generator=generator) * (2 / (9 * num_in)) ** 0.5
        tensors[f"features.{number}.bias"] = torch.randn(width, generator=generator) * 0.1
    path = tmp_path / "sources" / "vgg16.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    return PerceptualSection(weights=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def images(channels: int = 3, seed: int = 2) -> Tensor:
    return torch.rand(2, 16, 16, channels, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_distance_is_that_of_features(section: PerceptualSection) -> None:
    perceptual, values = Perceptual(section), images()
    assert torch.equal(perceptual.distance(values, values), torch.zeros(2))
    near, far = (perceptual.distance(values, values + scale * images(seed=3)) for scale in (0.01, 0.5))
    assert (near > 0).all()
    assert (near < far).all()
    # Each image has its own distance, whatever the batch.
    torch.testing.assert_close(
        perceptual.distance(values[1:], images(seed=3)[1:]), perceptual.distance(values, images(seed=3))[1:]
    )


def test_the_distance_is_that_by_hand(section: PerceptualSection) -> None:
    """Of VGG16's own normalisation of RGB in [0, 1], and of its last output before each pooling, of unit length."""
    weights = load_file(Path("sources", section.weights))

    def features(values: Tensor) -> list[Tensor]:
        mean, deviation = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        now, found = ((values.permute(0, 3, 1, 2) + 1) / 2 - mean) / deviation, list[Tensor]()
        for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            now = F.max_pool2d(now, 2) if found else now
            for number in block:
                weight, bias = (weights[f"features.{number}.{part}"] for part in ("weight", "bias"))
                now = F.conv2d(now, weight, bias, padding=1).relu()
            found.append(now / now.norm(dim=1, keepdim=True).clamp(min=1e-12))
        return found

    one, other = images(), images(seed=3)
    differences = (each - its for each, its in zip(features(one), features(other), strict=True))
    expected = sum((each.square().sum(1).mean((1, 2)) for each in differences), torch.zeros(2))
    torch.testing.assert_close(Perceptual(section).distance(one, other), expected)


def test_grey_images_are_seen_as_rgb(section: PerceptualSection) -> None:
    perceptual = Perceptual(section)
    grey, other = images(1), images(1, seed=3)
    torch.testing.assert_close(
        perceptual.distance(grey, other), perceptual.distance(grey.expand(-1, -1, -1, 3), other.expand(-1, -1, -1, 3))
    )


def test_it_is_a_term_of_the_loss_and_no_part_of_the_checkpoint(section: PerceptualSection) -> None:
    levels = torch.randint(32, (2, 16, 16, 1), generator=torch.Generator().manual_seed(4))
    with_it, without = (
        VqSection(downsampling=2, codebook=8, width=4, perceptual=perceptual) for perceptual in (section, None)
    )
    torch.manual_seed(0)
    plain = VqAutoencoder(without, 1, 32)
    model = VqAutoencoder(with_it, 1, 32)
    model.load_state_dict(plain.state_dict())
    model.initialise(levels)
    plain.load_state_dict(model.state_dict())
    (loss, figures), (expected, _) = (each.eval().loss(levels, 0.0) for each in (model, plain))
    assert figures["perceptual"] > 0
    torch.testing.assert_close(loss.mean(), expected.mean() + figures["perceptual"])
    loss.mean().backward()
    expected.mean().backward()
    gradient, before = (next(each.decoder.parameters()).grad for each in (model, plain))
    assert gradient is not None
    assert before is not None
    assert not torch.equal(gradient, before)


def test_other_weights_are_refused(section: PerceptualSection) -> None:
    path = Path("sources", section.weights)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(
        InputError, match=f"{path}: expected a file of SHA-256 {section.sha256}, as params.yaml says, got"
    ):
        Perceptual(section).distance(images(), images())
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: expected the weights of the perceptual loss: No such file"):
        Perceptual(section).distance(images(), images())
    torch.save({"features.0.weight": torch.zeros(1)}, path)  # as torchvision has it
    changed = section.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(InputError, match=f"{path}: expected a safetensors file, got another: "):
        Perceptual(changed).distance(images(), images())
    save_file({"features.0.weight": torch.zeros(1)}, path)
    changed = section.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(InputError, match=r"expected VGG16's features.0.bias, found features.0.weight and others"):
        Perceptual(changed).distance(images(), images())
