"""A stage reads what it uses of a file of slices, and no more: neither checked, nor mapped, nor held is the rest."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perturbed import bases
from torch import Tensor

from spn.config import InputError, SpnSection, StagePlan, tile
from spn.config.tiling import Order, SliceSelection
from spn.data import resident
from spn.data.hdf5 import SliceFile
from spn.data.layout import SPLITS, Layout, Origin, Split
from spn.data.resident import ResidentSlices
from spn.data.writing import create_slices
from spn.image import split_slices
from spn.models import build_model
from spn.notes import read_seal
from spn.stages import Stage

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
COUNT = 64
"""Images of the training split: a slice of 8x8 pixels takes 12,288 bytes, three pages."""

SMALL = SpnSection(
    family="spn", width=4, heads=1, transformer_layers=1, pixelcnn_width=6, pixelcnn_layers=1, embedder_layers=1
)


class Part:
    """The cells of a stage."""

    def __init__(self, scale_factor: int, slices: SliceSelection, bits: tuple[int, int]) -> None:
        self.scale_factor, self.slices, self.bits = scale_factor, slices, bits
        self.order: Order = "raster"


def plans_of(parts: list[Part], image_bits: int) -> dict[str, StagePlan]:
    """Resolve a chain of parts, by names that say what each is."""
    names = [f"{part.slices}_{part.bits[0]}_{part.bits[1]}_of_{part.scale_factor}" for part in parts]
    return {plan.name: plan for plan in tile("chain", dict(zip(names, parts, strict=True)), image_bits)}


def write_file(path: Path, images: np.ndarray, scale_factor: int, cuts: tuple[int, ...]) -> SliceFile:
    """Write the same images to all splits."""
    counts = dict.fromkeys(SPLITS, len(images))
    with create_slices(path, Layout(scale_factor, cuts, images.shape[1:]), counts, set()) as writer:
        for split in SPLITS:
            writer.append(split, images, None)
        writer.finish(Origin("made", "arrays", "", "", "", 0, 0))
    return SliceFile(path)


IMAGES = np.random.default_rng(1).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)
PLANS = plans_of([Part(8, "first", (0, 3)), Part(8, "rest", (0, 3)), Part(8, "all", (3, 8))], 8)
FIRST, REST, LOW = PLANS
SLICE_BYTES = COUNT * 8 * 8 * 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("whole") / "S8.h5", IMAGES, 8, (0, 3, 8)).path


def offset_of(path: Path, name: str) -> int:
    """Find where a bit range of the training split begins."""
    offset: int = read_seal(path, "slices")["datasets"][f"train/{name}"]["offset"]
    return offset


def mapped_bytes(path: Path) -> int:
    """Count the bytes of a file that this process has mapped into its memory, by the kernel's own list."""
    lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    ranges = [line[0].split("-") for line in lines if line[-1] == str(path)]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


def test_first_high_reads_one_slice_of_the_high_bits_and_nothing_of_the_low_ones(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    path.write_bytes(whole.read_bytes())
    with path.open("rb+") as file:
        for name, kept in (("bits_0_3", SLICE_BYTES), ("bits_3_8", 0)):
            file.seek(offset_of(path, name) + kept)
            file.write(bytes(64 * SLICE_BYTES - kept))
    every = torch.arange(COUNT)
    reader = SliceFile(path).of(PLANS[FIRST])
    read = reader.slices("train", every)
    expected = torch.zeros(COUNT, 8, 8, 8, 8, 3, dtype=torch.uint8)
    expected[:, 0, 0] = torch.from_numpy(IMAGES[:, ::8, ::8]) & 0b11100000
    assert torch.equal(read, expected)
    # A page more, for the part need not begin with one.
    assert SLICE_BYTES <= mapped_bytes(path) <= SLICE_BYTES + 4096
    for stage, name in ((REST, "bits_0_3"), (LOW, "bits_0_3")):
        with pytest.raises(InputError, match=rf"^{path}: .* in its dataset train/{name}: damaged"):
            SliceFile(path).of(PLANS[stage]).slices("train", every)


@pytest.mark.parametrize(
    ("name", "slice_number", "noticed"),
    [("bits_0_3", 0, {FIRST, REST, LOW}), ("bits_0_3", 63, {REST, LOW}), ("bits_3_8", 0, {LOW})],
)
def test_damage_is_noticed_by_the_stages_that_read_it(
    whole: Path, tmp_path: Path, name: str, slice_number: int, noticed: set[str]
) -> None:
    path = tmp_path / "damaged.h5"
    content = bytearray(whole.read_bytes())
    content[offset_of(whole, name) + slice_number * SLICE_BYTES + 5] ^= 1
    path.write_bytes(content)

    def refuses(plan: StagePlan) -> bool:
        try:
            SliceFile(path).of(plan).slices("train", torch.arange(1))
        except InputError:
            return True
        return False

    assert {stage for stage, plan in PLANS.items() if refuses(plan)} == noticed


def test_no_more_is_held_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first slice of two ranges fits in memory that the 64 slices do not fit in."""
    file = write_file(tmp_path / "S8.h5", IMAGES, 8, (0, 3, 8))
    first, rest = plans_of([Part(8, "first", (0, 8)), Part(8, "rest", (0, 8))], 8).values()
    monkeypatch.setattr(resident, "free_bytes", lambda device: SLICE_BYTES / resident.SHARE)
    for plan, is_held in ((first, True), (rest, False)):
        part = file.of(plan)
        expected = part.slices("train", torch.tensor([5, 0]))
        reads = reads_of(part, monkeypatch)
        slices = ResidentSlices(part, CPU)
        for _ in range(3):
            assert torch.equal(slices.slices("train", torch.tensor([5, 0])), expected)
        assert reads == ([SLICE_BYTES] if is_held else [64 * 2 * SLICE_BYTES // COUNT] * 3)


def reads_of(file: SliceFile, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the bytes of all that is read of a file from now on."""
    reads: list[int] = []
    sound = file.levels

    def levels(split: Split, indices: Tensor) -> Tensor:
        found = sound(split, indices)
        reads.append(found.nbytes)
        return found

    monkeypatch.setattr(file, "levels", levels)
    return reads


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Part], int]:
    """Draw any tiling of few slices and bits, in any order, with more than one scale factor too."""
    bits = draw(st.integers(1, 6))
    cuts = (0, *sorted(draw(st.sets(st.integers(1, bits - 1), max_size=2)) if bits > 1 else set()), bits)
    parts: list[Part] = []
    for both in itertools.pairwise(cuts):
        size = draw(st.sampled_from([1, 2, 4]))
        selections: list[list[SliceSelection]] = [["all"], ["first", "rest"]]
        selection = draw(st.sampled_from(selections)) if size > 1 else selections[0]
        parts += [Part(size, slices, both) for slices in selection]
    return draw(st.permutations(parts)), bits


def files_of(folder: Path, plans: list[StagePlan], images: np.ndarray) -> dict[int, SliceFile]:
    """Write a file for each scale factor, cut wherever a stage cuts."""
    cuts: dict[int, set[int]] = {}
    for plan in plans:
        cuts.setdefault(plan.scale_factor, set()).update(plan.cuts)
    return {size: write_file(folder / f"S{size}.h5", images, size, tuple(sorted(cuts[size]))) for size in cuts}


def assert_parts_are_enough(plan: StagePlan, file: SliceFile) -> None:
    """Compare all that a stage makes of what it reads with what it makes of whole images."""
    stage, images = Stage(plan, file.shape), torch.arange(file.num_images("train"))
    parts, whole = file.of(plan).slices("train", images), file.slices("train", images)
    assert torch.equal(ResidentSlices(file.of(plan), CPU).slices("train", images), parts)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_model(SMALL, stage.shape).eval()
    for target in stage.targets:
        position = stage.positions(target, len(images))
        assert torch.equal(stage.target(parts, position), stage.target(whole, position))
        for some, every in zip(given_to(stage, parts, position), given_to(stage, whole, position), strict=True):
            assert torch.equal(some, every)
        with torch.inference_mode():
            nats = [stage.nats(model, slices, position) for slices in (parts, whole)]
        assert torch.equal(*nats)


def given_to(stage: Stage, slices: Tensor, position: Tensor) -> Iterator[Tensor]:
    """List what a model is given of images."""
    context = stage.context(slices, position)
    yield from (context.cells, context.present)
    if context.high is not None:
        yield context.high


@settings(max_examples=10, deadline=None)
@given(chain=chains(), seed=st.integers(0, 99))
def test_what_is_read_is_enough_for_every_stage(
    tmp_path_factory: pytest.TempPathFactory, chain: tuple[list[Part], int], seed: int
) -> None:
    parts, bits = chain
    images = np.random.default_rng(seed).integers(0, 1 << bits, (3, 8, 8, 1), dtype=np.uint8)
    plans = [*plans_of(parts, bits).values()]
    files = files_of(tmp_path_factory.mktemp("files"), plans, images)
    for plan in plans:
        assert_parts_are_enough(plan, files[plan.scale_factor])


@settings(max_examples=40, deadline=None)
@given(chain=chains())
def test_a_stage_reads_just_the_bits_that_change_its_target_or_context(chain: tuple[list[Part], int]) -> None:
    """Each bit of each slice is flipped by itself, in an image of its own."""
    parts, bits = chain
    for plan in plans_of(parts, bits).values():
        size, stage = plan.scale_factor, Stage(plan, (8, 8, 1))
        cells = [*itertools.product(range(size), range(size), range(bits))]
        flipped = torch.zeros(1 + len(cells), size, size, 8 // size, 8 // size, 1, dtype=torch.uint8)
        for image, (m, n, bit) in enumerate(cells, start=1):
            flipped[image, m, n] = 1 << bit
        seen = torch.zeros(len(cells), dtype=torch.bool)
        for target in stage.targets:
            position = stage.positions(target, len(flipped))
            for made in (stage.target(flipped, position), *given_to(stage, flipped, position)):
                seen |= (made[1:] != made[:1]).flatten(1).any(1)
        assert [bool(plan.reads[m][n] >> bit & 1) for m, n, bit in cells] == seen.tolist()


def test_what_is_read_is_enough_for_every_shipped_stage(tmp_path: Path) -> None:
    seen: set[StagePlan] = set()
    for number, params in enumerate(bases().values()):
        largest = max(params.cuts)
        bits = params.data.bits
        images = np.random.default_rng(1).integers(0, 1 << bits, (2, 2 * largest, 2 * largest, 1), dtype=np.uint8)
        for size, cuts in params.cuts.items():
            file = write_file(tmp_path / f"{number}_S{size}.h5", images, size, cuts)
            plans = {
                plan
                for name, plan in params.stage_plans.items()
                if plan.scale_factor == size and not plan.num_classes and params.stages[name].codes is None
            }
            for plan in plans - seen:
                assert_parts_are_enough(plan, file)
            seen |= plans
    assert len(seen) > 5


def test_slices_of_another_scale_factor_or_depth_are_refused(tmp_path: Path) -> None:
    plan = PLANS[FIRST]
    for size, bits in ((4, 8), (8, 5)):
        file = write_file(tmp_path / "other.h5", IMAGES[:2] >> (8 - bits), size, (0, bits))
        expected = f"expected slices under S=8 of 8 bits for stage {FIRST}, got S={size} and {bits} bits"
        with pytest.raises(InputError, match=rf"^{file.path}: {expected}$"):
            file.of(plan)


def test_whole_images_are_read_without_a_stage(whole: Path) -> None:
    slices = SliceFile(whole).slices("validation", torch.arange(COUNT))
    assert np.array_equal(slices.numpy(), split_slices(IMAGES, 8))
