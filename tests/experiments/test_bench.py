"""The bench measures what it says, on the smallest sizes; figures are never asserted."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.__main__ import main
from experiments.bench import costs as bench_costs
from experiments.bench import gpu as bench_gpu
from experiments.bench.steps import evaluations_of_stretch
from experiments.config.schema import Recipe


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the parts that start processes, which have their own tests."""
    rates = {"resident": 3.0, "mapped": 2.0, "decoded": 1.0, "dataloader": 0.5}
    monkeypatch.setattr(bench_costs, "data_images_per_second", lambda device: rates)
    monkeypatch.setattr(bench_costs, "startup_seconds", lambda: {"list": 0.1, "worker": 1.0})
    monkeypatch.setattr(
        bench_costs, "side_by_side", lambda engine_name: {"workers": 2, "of_one": 1.0, "together": 2.0, "ratio": 2.0}
    )


def test_the_command_writes_every_figure(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--steps", "3", "--repeats", "1", "--grid-cells", "2", "--batch-size", "16"]
    monkeypatch.setattr(sys, "argv", ["experiments", "bench", "vit_micro_p2", "resnet_micro", *options])
    assert main() == 0
    printed = capsys.readouterr().out
    assert "vit_micro_p2" in printed and "not computing" in printed
    values = json.loads((tmp_path / "reports_dir" / "bench" / "bench.json").read_text(encoding="utf-8"))
    row = values["vit_micro_p2"]
    for key in ("bare", "end_to_end", "dataloader", "end_to_end_over_bare", "checkpoint_seconds", "peak_memory_bytes"):
        assert row[key] > 0, key
    assert row["compile_seconds"] is None and row["bare_over_first"] == 1.0
    other = values["resnet_micro"]
    assert other["bare_over_first"] == pytest.approx(other["bare"] / row["bare"])  # of the one pair that there is
    costs = values["costs"]
    assert costs["cell_seconds"] > costs["cell_overhead_seconds"] >= 0 and costs["first_batch_seconds"] > 0
    assert set(costs["data_images_per_second"]) == {"resident", "mapped", "decoded", "dataloader"}
    assert set(costs["augmentation_images_per_second"]) == {"batched", "per_image"}
    assert values["settings"]["batch_size"] == 16 and values["settings"]["compile"] == "off"
    assert not (tmp_path / "runs_dir").exists()  # measured apart from the user's runs


def test_a_stretch_evaluates_as_much_per_image_as_the_recipe() -> None:
    recipe = Recipe(steps=700, batch_size=32, learning_rate=1e-3, evaluations=10)
    assert evaluations_of_stretch(recipe, 700, 32, 148) == (10, 148)
    assert evaluations_of_stretch(recipe, 70, 32, 148) == (1, 148)
    assert evaluations_of_stretch(recipe, 7, 32, 148) == (1, 15)
    assert evaluations_of_stretch(recipe, 70, 8, 148) == (1, 37)  # smaller batches, as many fewer images
    evaluations, images = evaluations_of_stretch(recipe, 100, 32, 148)
    assert evaluations == 2 and images == 106  # 10 × 148 images in 700 steps are 211 in 100


@pytest.mark.parametrize(
    "option",
    [["--precision", "fp8"], ["--compile", "fast"], ["--recipe", "digit"], ["--steps", "0"], ["--repeats", "-1"],
     ["--batch-size", "2000"]],
)  # fmt: skip
def test_wrong_options_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", "bench", *option])
    assert main() == 2
    said = capsys.readouterr().err
    assert option[1] in said or f"'{option[0]}': Input should be" in said


def test_kernels_are_told_apart_by_name() -> None:
    assert bench_gpu.kernel_class("pytorch_flash::flash_fwd_kernel<...>") == "attention"
    assert bench_gpu.kernel_class("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NTT") == "matrix product"
    assert bench_gpu.kernel_class("sm90_xmma_gemm_bf16bf16_bf16f32") == "matrix product"
    assert bench_gpu.kernel_class("cudnn::cnn::wgrad2d_grouped_direct_kernel") == "convolution"
    assert bench_gpu.kernel_class("multi_tensor_apply_kernel<FusedAdamMathFunctor>") == "optimizer"
    assert bench_gpu.kernel_class("triton_poi_fused_gelu_3") == "elementwise and reduction"
    assert bench_gpu.kernel_class("vectorized_layer_norm_kernel") == "normalisation"
    assert bench_gpu.kernel_class("something else") == "other"


def test_every_data_path_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108
    rates = bench_costs.data_images_per_second(torch.device("cpu"), n=6, batch_size=3, steps=2)
    assert list(rates) == ["resident", "mapped", "decoded", "dataloader"] and all(rate > 0 for rate in rates.values())
    (long := tmp_path / ("x" * 90)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))  # where workers could not bind their sockets
    assert list(bench_costs.data_images_per_second(torch.device("cpu"), n=6, batch_size=3, steps=2)) == list(rates)[:3]


def test_workers_that_are_spawned_read_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, and on Linux from Python 3.14 on."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108
    Image.new("RGB", (320, 320)).save(tmp_path / "photo.jpg")
    loader = bench_costs._conventional([tmp_path / "photo.jpg"], 1)
    loader.multiprocessing_context = "spawn"
    assert [batch.shape for batch in loader] == [(1, 3, 224, 224)]


@pytest.mark.slow
def test_processes_are_measured() -> None:
    assert set(bench_costs.startup_seconds(1)) == {"list", "worker"}
    both = bench_costs.side_by_side("local", steps=10)
    assert both["ratio"] == pytest.approx(both["images_per_second_together"] / both["images_per_second_of_one"])
