"""Benchmarks: they compare the same thing, count what happens, and run; times are not tested."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import tiny_params, write_params
from model_files import rgb_params, write_model
from torch import nn
from torch.utils.checkpoint import checkpoint

import spn
from benchmarks import codecs, cpu, gpu, papers, results
from benchmarks.common_imagebart import CommonScale, common_scale
from benchmarks.common_snail import CommonPixelSnail
from benchmarks.common_style import CommonDecoder
from benchmarks.kept import Problem, held_bytes, kept_for_backward
from benchmarks.machine import Peaks
from benchmarks.measure import Run, interleaved, spread
from benchmarks.problems import common_image, one_slice
from benchmarks.reference import (
    TINY,
    TINY_BART,
    decoder_shape,
    no_context,
    noise,
    randomised,
    scale_context,
    scale_shape,
)
from benchmarks.same_weights import common_decoder
from benchmarks.sampling import compare_samples, first_pixels, uniforms_of
from benchmarks.table import Row, Target, faster, markdown
from benchmarks.training import bart_difference
from spn.config import SpnSection, load_params
from spn.data.preprocess import write_slices
from spn.data.sources import open_source
from spn.generation import SAMPLERS, choosing
from spn.planning.work import imagined

pytestmark = pytest.mark.slow

ROW = {"group", "name", "unit", "ours", "baseline", "ratio", "target", "note", "met"}


def assert_dependence_before(law: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int, int]) -> None:
    """Check by gradients that nothing sees a pixel after it in raster order."""
    height, width = shape[1:]
    image = torch.randn(1, *shape, requires_grad=True)
    for pixel in range(height * width):
        outputs = law(image).flatten(-2)[..., pixel]
        (gradient,) = torch.autograd.grad(outputs.mul(torch.randn(outputs.shape)).sum(), image)
        assert not gradient.flatten(-2)[..., pixel + 1 :].any()
        assert pixel == 0 or gradient.flatten(-2)[..., :pixel].any()


class TestBaselines:
    @pytest.mark.parametrize("layers", [1, 3])
    def test_common_style_gives_our_laws(self, layers: int) -> None:
        section = TINY.model_copy(update={"pixelcnn_layers": layers, "transformer_layers": 2})
        shape = decoder_shape(4, num_levels=8)
        ours = randomised(section, shape)
        common = common_decoder(ours, CommonDecoder(section, shape))
        levels = noise((2, 4, 4, 3), num_levels=8)
        theirs = common(levels.permute(0, 3, 1, 2)).permute(0, 3, 4, 2, 1).softmax(-1)
        torch.testing.assert_close(theirs, ours(levels, no_context(shape, 2)).probs(), rtol=0, atol=1e-10)

    def test_common_scale_gives_our_laws(self) -> None:
        section, shape = TINY_BART.model_copy(update={"decoder_layers": 2}), scale_shape(3, num_levels=8)
        ours, context = randomised(section, shape), scale_context(shape, 2)
        common = common_scale(ours, CommonScale(section, shape, before=0.8))
        levels, later = noise((2, 3, 3, 1), num_levels=8), context.cells[:, 0]
        theirs = common(levels.flatten(1), later.flatten(1)).softmax(-1)
        torch.testing.assert_close(theirs, ours(levels, context).probs().flatten(1, 3), rtol=0, atol=1e-10)
        assert bart_difference(section) < 1e-10

    def test_snail_sees_no_later_pixel(self) -> None:
        torch.manual_seed(0)
        model = CommonPixelSnail(3, 1, 8, width=4, blocks=2, residuals=1, key_width=2)
        assert_dependence_before(model, (1, 3, 3))

    def test_all_samplers_draw_the_same(self) -> None:
        compare_samples(TINY)

    def test_timed_passes_are_the_walk(self) -> None:
        shape = decoder_shape(3, num_levels=8)
        model = randomised(TINY, shape)
        context, uniforms = no_context(shape, 2), uniforms_of(model, 2)
        walked = SAMPLERS["plain"](model, choosing())(context, uniforms)
        assert torch.equal(torch.stack(first_pixels(model, context, uniforms, 5), dim=1), walked.flatten(1, 2)[:, :5])


class TestCounting:
    @pytest.mark.parametrize(
        "problem",
        [one_slice(TINY, 8, 1), one_slice(TINY, 8, 2), common_image(TINY, 4)],
        ids=["full", "slice", "common"],
    )
    def test_imagined_memory_is_the_real_one(self, problem: Problem) -> None:
        with imagined():
            counted = held_bytes(*problem(3))
        assert counted == held_bytes(*problem(3))

    def test_checkpoint_holds_its_input_alone(self) -> None:
        layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        inputs = torch.zeros(3, 4)

        def loss(is_checkpointed: bool) -> Callable[[], torch.Tensor]:
            return lambda: (
                checkpoint(layers, inputs * 2, use_reentrant=False) if is_checkpointed else layers(inputs * 2)
            ).sum()

        row, result = 4 * 3, 4
        assert held_bytes(layers, loss(is_checkpointed=True)) == 4 * row + result
        assert held_bytes(layers, loss(is_checkpointed=False)) == (4 + 8) * row + result

    def test_materialised_attention_keeps_the_square(self) -> None:
        def growth(problem: Callable[[SpnSection, int], Problem]) -> float:
            small, large = (kept_for_backward(problem(TINY, size), batch=64).per_image for size in (8, 16))
            return large / small

        assert growth(lambda section, size: one_slice(section, size, 1)) == pytest.approx(4, rel=0.03)
        assert growth(common_image) > 4.5


class TestMeasuring:
    def test_runs_take_turns(self) -> None:
        turns: list[str] = []
        runs = {name: lambda name=name: turns.append(name) for name in "AB"}

        def count_turns(run: Run) -> float:
            run()
            return float(len(turns))

        seconds = interleaved(runs, 2, count_turns)
        assert turns == ["A", "B"] * 3
        assert seconds == {"A": [3.0, 5.0], "B": [4.0, 6.0]}

    def test_ratio_is_of_the_pairs(self) -> None:
        row = faster("group", "name", [1.0, 2.0, 4.0], [3.0, 8.0, 4.0], 10, "images/s", target=Target(2.5, 5))
        assert row.ratio == spread([3.0, 4.0, 1.0])
        assert row.ours.median == 5
        assert row.met is True

    def test_target_without_baseline_is_held_against_ours(self) -> None:
        row = Row("group", "step", "us", spread([150.0]), target=Target(200, 100, at_most=True))
        assert row.met is True
        assert "| step | 150 | | us | | ≤ 200 | ≤ 100 | yes |" in " ".join(markdown([row]).split())


def run_tiny(main: Callable[[list[str]], int], arguments: list[str], folder: Path, name: str) -> dict[str, Any]:
    assert main(["--tiny", "--output", str(folder), *arguments]) == 0
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert content["machine"].keys() == {"device", "threads", "torch", "python", "commit"}
    assert content["matmul_peak"].keys() == {"float32", "bfloat16", "float32_routes"}
    assert not content["failed"]
    for row in content["rows"]:
        assert row.keys() == ROW
        assert row["ours"]["low"] <= row["ours"]["median"] <= row["ours"]["high"]
        assert row["ours"]["low"] > 0
        assert (row["met"] is None) == (row["target"] is None)
        assert f"| {row['name']}" in (folder / f"{name}.md").read_text()
    return content


class TestRuns:
    @pytest.mark.parametrize("part", cpu.PARTS)
    def test_cpu_part(self, part: str, tmp_path: Path) -> None:
        content = run_tiny(cpu.main, ["--only", part], tmp_path, "benchmarks")
        assert content["rows"]

    @pytest.mark.parametrize("part", gpu.PARTS)
    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    def test_gpu_part_on_the_cpu(self, part: str, tmp_path: Path) -> None:
        # The checks of shapes cannot be compiled.
        with torch.compiler.set_stance("force_eager"):
            content = run_tiny(gpu.main, ["--device", "cpu", "--only", part], tmp_path, "benchmarks-gpu")
        assert content["rows"]

    def test_codecs_are_compared_on_the_same_pictures(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda name: None)
        model = spn.load(write_model(tmp_path, tiny_params(), "depth"))
        pictures = list(model.sample(4, seed=1))
        header, _, *lines = codecs.table(pictures, [model]).splitlines()
        assert [line.split("|")[1].strip() for line in lines] == ["PNG", "WebP", "spn, depth"]
        names = [name.strip() for name in header.split("|")[2:5]]
        ours = dict(zip(names, (float(cell) for cell in lines[-1].split("|")[2:5]), strict=True))
        assert names == ["single files", "all in one", "with the weights"]
        assert ours["all in one"] < ours["single files"] < ours["with the weights"]
        assert capsys.readouterr().err.startswith("no cjxl and djxl found")
        # The sizes are those of all files, however many of them are decoded.
        fewer = codecs.table(pictures, [model], num_decoded=1).splitlines()[2:]
        assert [line.split("|")[:5] for line in fewer] == [line.split("|")[:5] for line in lines]
        # Pictures of several sizes have no mosaic, so that an archive would be beside nothing.
        mixed = codecs.table([*pictures, np.concatenate(pictures[:2])], [model], num_decoded=1).splitlines()[2:]
        assert [line.split("|")[3].strip() for line in mixed] == [""] * 3

    def test_codecs_without_a_model_code_the_test_images_of_a_file_of_slices(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda name: None)
        raw: dict[str, Any] = rgb_params()
        raw["data"]["bits"] = 8
        raw["stages"] = {"raster": raw["stages"]["raster"] | {"bits": [0, 8]}}
        raw["chains"] = {"raster": {"stages": ["raster"]}}
        params = load_params(write_params(tmp_path, raw))
        slices, array = tmp_path / "S2.h5", tmp_path / "test.npy"
        write_slices(params.data, 2, (0, 8), tmp_path, slices, progress=False)
        np.save(array, np.stack([image for image, _ in open_source(params.data, tmp_path).stream("test")])[:3])
        capsys.readouterr()
        tables = []
        for pictures in (slices, array):
            codecs.main([str(pictures), "--limit", "3"])
            tables.append([line.split("|")[:4] for line in capsys.readouterr().out.splitlines()])
        assert tables[0] == tables[1]
        assert [row[1].strip() for row in tables[0][2:]] == ["PNG", "WebP"]
        with pytest.raises(SystemExit):
            codecs.main([str(tmp_path)])
        assert "MODEL: expected one beside the folder" in capsys.readouterr().err
        grey = load_params(write_params(tmp_path, tiny_params()))
        write_slices(grey.data, 2, (0, 5), tmp_path, slices, progress=False)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            codecs.main([str(slices)])
        assert f"MODEL: expected models of 5 bits for {slices}, got none" in capsys.readouterr().err

    def test_strict_run_fails_on_a_missed_must(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        missed = Row("group", "step", "us", spread([300.0]), target=Target(200, 100, at_most=True))
        monkeypatch.setattr(cpu, "measure", lambda *_: [missed])
        arguments = ["--tiny", "--only", "data", "--output", str(tmp_path)]
        assert cpu.main(arguments) == 0
        assert cpu.main([*arguments, "--strict"]) == 1

    def test_part_that_fails_costs_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fails(*_: object) -> list[Row]:
            raise RuntimeError("out of memory")

        monkeypatch.setitem(gpu.PARTS, "sampling", (fails, 1))
        arguments = ["--tiny", "--device", "cpu", "--only", "sampling", "against_common", "--output", str(tmp_path)]
        assert gpu.main(arguments) == 1
        content = json.loads((tmp_path / "benchmarks-gpu.json").read_text())
        assert content["failed"] == ["sampling: RuntimeError: out of memory"]
        assert content["rows"]
        assert "FAILED: sampling" in capsys.readouterr().out

    def test_part_that_would_run_over_is_left_out(self, tmp_path: Path) -> None:
        arguments = ["--tiny", "--device", "cpu", "--only", "memory", "--seconds", "1", "--output", str(tmp_path)]
        assert gpu.main(arguments) == 1
        assert "left out" in json.loads((tmp_path / "benchmarks-gpu.json").read_text())["failed"][0]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_without_a_gpu_it_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert gpu.main([]) == 2
        assert capsys.readouterr().err == "benchmarks.gpu: expected a CUDA device, got none\n"

    def test_table_is_written_whole(self, tmp_path: Path) -> None:
        results.write(
            "benchmarks", {"device": "machine"}, Peaks(float32=1e9, bfloat16=2e9, float32_routes={}), [], tmp_path
        )
        assert {path.name for path in tmp_path.iterdir()} == {"benchmarks.json", "benchmarks.md"}


class TestPapers:
    def test_every_network_of_a_small_preset_takes_a_step_and_is_evaluated(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page = tmp_path / "papers.md"
        assert papers.main(["photos", "--output", str(page)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 3
        rows = [line for line in page.read_text().splitlines() if line.startswith("| photos")]
        for row, name in zip(rows, ("first_high", "rest_high", "low"), strict=True):
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            assert cells[1] == name
            seconds, loss = float(cells[3]), float(cells[7])
            # Torch alone holds as much as these networks, so peaks are only seen to be there.
            assert float(cells[5]) > 0
            assert seconds >= 0
            assert 0 < loss < 20

    def test_a_first_stage_is_measured_with_all_terms_of_its_loss(self) -> None:
        measured = papers.measure(papers.PRESETS / "imagebart.yaml", "vq")
        assert measured.fits
        assert 0 < measured.evaluated < 2
        assert len(measured.cells()) == len(papers.HEADER) - 2

    def test_a_network_that_does_not_fit_is_left_out_with_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(papers, "available_bytes", lambda: 1 << 20)
        measured = papers.measure(papers.PRESETS / "photos.yaml", "first_high")
        assert not measured.fits
        assert "left out: 0.0 GiB were free" in measured.cells()

    def test_a_loss_that_is_not_finite_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = papers.Measured(1, planned=1, free=2, loss=float("nan"), evaluated=1.0)
        monkeypatch.setattr(papers, "_alone", lambda path, name: broken)
        assert papers.main(["photos"]) == 1

    def test_all_presets_at_the_papers_scale_are_there(self) -> None:
        assert all((papers.PRESETS / f"{preset}.yaml").exists() for preset in papers.PAPERS)
