"""The codec, for every family, law and kind of stage: every pixel comes back, from a file as large as promised."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from contract import SMALL, Problem, build_problem, chains, ordered_chains
from families import SECTIONS
from torch import Tensor

from spn.codec.decoder import ImageDecoder
from spn.codec.encoder import Stream, encode_images
from spn.config import FamilySection, InputError
from spn.image import split_slices

CHAINS = chains(2, 4) | ordered_chains(2, 4)
FAMILIES: dict[str, FamilySection] = {"spn": SMALL, **SECTIONS}
COUNT = 5
BITS_OF_A_STREAM = 64
"""The most that a stream may be longer than its frequencies ask for."""

# What the fast tests code: a softmax, and a joint mixture.
FAST = {("spn", "multidimensional"), ("pixelcnn_pp_placed", "depth")}


@cache
def problem_of(family: str, chain: str, num_classes: int = 0) -> Problem:
    return build_problem(CHAINS[chain], (8, 8, 3), 4, FAMILIES[family], num_classes)


def nothing_known(images: Tensor) -> Tensor:
    return torch.zeros(images.shape[:3], dtype=torch.bool)


def encoded(problem: Problem, images: Tensor, known: Tensor, batch_size: int = 3) -> Stream:
    labels = problem.labels(COUNT)
    return encode_images(
        list(problem.parts), images, known, None if labels is None else labels[: len(images)], batch_size
    )


def decoded(problem: Problem, streams: list[Stream], counts: list[int], given: Tensor, known: Tensor) -> Tensor:
    """Decode with nothing but the pixels that are known."""
    decoder = ImageDecoder([each.content for each in streams], [each.offset for each in streams], counts)
    return decoder.run(list(problem.parts), given * known[..., None], known, problem.labels(len(given)))


def nats_of(problem: Problem, images: Tensor) -> float:
    total = 0.0
    for stage, model in problem.parts:
        slices = split_slices(images, stage.plan.scale_factor)
        labels = problem.classes_of(stage, problem.labels(len(images)))
        for position in stage.targets:
            total += float(stage.nats(model, slices, stage.positions(position, len(slices)), labels).sum())
    return total


# Every family in a stage of every kind of context, one in every chain, and one of each network without context.
CASES = dict.fromkeys(
    [(family, "multidimensional") for family in FAMILIES]
    + [("spn_placed", chain) for chain in CHAINS]
    + [(family, "raster") for family in ("gated_pixelcnn_head", "pixelcnn_pp", "pixelsnail", "imagebart")]
    + [("pixelcnn_pp_placed", "depth")]
)


@pytest.mark.parametrize(
    ("family", "chain"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST)) for case in CASES]
)
def test_every_pixel_comes_back(family: str, chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Laws are rounded block by block; those of these pictures are fewer than a block has.
    monkeypatch.setattr("spn.codec.encoder.BLOCK", 7)
    problem = problem_of(family, chain)
    images = problem.images(COUNT)
    known = nothing_known(images)
    stream = encoded(problem, images, known)
    assert torch.equal(decoded(problem, [stream], [COUNT], images, known), images)
    assert stream.nats == pytest.approx(nats_of(problem, images), rel=1e-10)
    # Images of noise lie far out in the tails: rounding shows there, and a frequency of 1 costs less than the law says.
    assert 0.9 < stream.ideal_bits / (stream.nats / math.log(2)) < 1.02
    assert 0 <= 8 * len(stream.content) - stream.ideal_bits <= BITS_OF_A_STREAM


def test_an_encoder_is_the_same_whatever_its_batch() -> None:
    problem = problem_of("spn", "multidimensional")
    images = problem.images(COUNT)
    contents = {encoded(problem, images, nothing_known(images), size).content for size in (1, 4, COUNT)}
    assert len(contents) == 1


def test_several_streams_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of("spn_placed", "depth")
    images = problem.images(COUNT)
    known = nothing_known(images)
    known[1, 2:] = True
    streams = [encoded(problem, images[part], known[part]) for part in (slice(0, 2), slice(2, 3), slice(3, COUNT))]
    monkeypatch.setattr("spn.codec.rounding.GUARD", 2e-6)  # so wide that this stream has an offset of its own
    streams[1] = encoded(problem, images[2:3], known[2:3])
    assert [stream.offset > 0 for stream in streams] == [False, True, False]
    assert torch.equal(decoded(problem, streams, [2, 1, 2], images, known), images)


@pytest.mark.slow
def test_classes_are_conditioned_on() -> None:
    problem = problem_of("spn", "depth", num_classes=3)
    images = problem.images(COUNT)
    stream = encoded(problem, images, nothing_known(images))
    assert torch.equal(decoded(problem, [stream], [COUNT], images, nothing_known(images)), images)
    assert stream.nats == pytest.approx(nats_of(problem, images), rel=1e-10)


def test_known_pixels_cost_nothing_and_are_conditioned_on() -> None:
    problem = problem_of("spn", "multidimensional")
    images = problem.images(COUNT)
    known = nothing_known(images)
    known[0] = True
    known[1, ::2, 3:] = True
    stream = encoded(problem, images, known)
    assert torch.equal(decoded(problem, [stream], [COUNT], images, known), images)
    whole = encoded(problem, images, nothing_known(images))
    assert stream.nats < whole.nats * (1 - float(known.float().mean()) / 2)
    other = images.clone()
    other[0] ^= 1
    assert encoded(problem, other, known).nats == stream.nats
    other[1, 0, 3] ^= 1
    assert encoded(problem, other, known).nats != stream.nats


def test_a_value_at_an_edge_of_rounding_moves_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard so wide that the values rule out most offsets, 0 is none any more."""
    problem = problem_of("spn", "depth")
    images = problem.images(1)
    plain = encoded(problem, images, nothing_known(images))
    assert plain.offset == 0
    monkeypatch.setattr("spn.codec.rounding.GUARD", 1e-5)
    seen: list[int] = []
    stream = encode_images(list(problem.parts), images, nothing_known(images), None, 1, seen.append)
    assert stream.offset > 0
    assert seen == [1, -1, 1]
    assert torch.equal(decoded(problem, [stream], [1], images, nothing_known(images)), images)
    monkeypatch.setattr("spn.codec.rounding.GUARD", 1.0)
    images = problem.images(COUNT)
    with pytest.raises(RuntimeError, match=r"^expected an offset of rounding for every run of sub-pixels, found none"):
        encoded(problem, images, nothing_known(images))


@pytest.mark.parametrize("run", [7, 192])
def test_each_run_of_a_stream_has_its_own_offset(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a large picture has some: with so wide a guard, none suits all values, and one suits those of a run."""
    problem = problem_of("spn_placed", "depth")
    images = problem.images(COUNT)
    known = nothing_known(images)
    known[1, 2:] = True
    parts = (slice(0, 3), slice(3, COUNT))
    # In the same batches, because on some processors others round otherwise.
    whole = [encoded(problem, images[part], known[part], batch_size=2) for part in parts]
    monkeypatch.setattr("spn.codec.rounding.GUARD", 3e-7)
    with pytest.raises(RuntimeError, match=r"^expected an offset of rounding for every run"):
        encoded(problem, images[parts[0]], known[parts[0]])
    monkeypatch.setattr("spn.codec.rounding.RUN", run)
    streams = [encoded(problem, images[part], known[part], batch_size=2) for part in parts]
    assert torch.equal(decoded(problem, streams, [3, 2], images, known), images)
    # Each further run costs the byte of its offset.
    for before, after, count in zip(whole, streams, (3, 2), strict=True):
        runs = math.ceil(8 * 8 * 3 * 2 / max(1, run // count))
        rest = 8 * len(after.content) - after.ideal_bits - 8 * (runs - 1)
        assert -1 <= rest <= BITS_OF_A_STREAM
        assert after.nats == before.nats


@pytest.mark.parametrize("planted", ["another offset", "a flipped bit"])
def test_what_is_decoded_otherwise_is_no_picture(planted: str) -> None:
    """Nothing in a stream says that it is wrong; the checksum of its pixels does (`spn.api.coding`)."""
    problem = problem_of("spn", "depth")
    images = problem.images(COUNT)
    stream = encoded(problem, images, nothing_known(images))
    content, offset = np.frombuffer(stream.content, dtype=np.uint8).copy(), stream.offset
    if planted == "a flipped bit":
        content[len(content) // 2] ^= 4
    offset += 9 * (planted == "another offset")
    decoder = ImageDecoder([content.tobytes()], [offset], [COUNT])
    try:
        found = decoder.run(list(problem.parts), images * 0, nothing_known(images), None)
    except InputError:
        return
    assert not torch.equal(found, images)
