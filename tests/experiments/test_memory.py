"""Gradient accumulation equals the plain batch; out of memory, a step begins again in smaller parts, or ends the cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import vit_scratch
from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.paths import runs_dir
from experiments.grid import driver, worker
from experiments.records.record import read_record
from experiments.training import checkpoint, memory
from experiments.training import run as procedure
from experiments.training.optim import adamw
from experiments.training.steps import Update, train_steps
from tests.arithmetic import rounding

CPU = torch.device("cpu")
DIGITS = load_digits()
TINY = ["recipe.steps=4", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]", "models=[vit_micro_p2]"]
TINY += ["reference=vit_micro_p2"]
ERRORS = {
    "host": MemoryError(),
    "torch on the host": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
}


class Crowded(nn.Module):
    """A model with room for so many images at once; beyond them it raises an error, as often as `times` says."""

    def __init__(self, model: nn.Module, room: int, error: BaseException, *, after: int = 0, times: int = 10**9) -> None:
        super().__init__()
        self.model, self.room, self.error, self.after, self.times = model, room, error, after, times
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.training and len(images) > self.room and self.calls > self.after and self.times > 0:
            self.times -= 1
            raise self.error
        return self.model(images)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return vit_scratch.VisionTransformer(
        image_size=8, patch_size=2, in_channels=1, num_classes=10, dim=32, depth=2, num_heads=2, mlp_ratio=2
    ).double()  # training enlarges rounding: what is the same by algebra stays the same only where there is hardly any


def batches(step: int) -> tuple[Tensor, Tensor]:
    bunch = DIGITS
    index = np.random.default_rng(step % 4).integers(0, 1797, 32)
    pixels = torch.from_numpy(bunch.images[index])[:, None] / 8 - 1
    return pixels, torch.from_numpy(bunch.target[index])


def losses(
    model: nn.Module, parts: Callable[[int], int], steps: int, more: Callable[[BaseException, int], int] | None = None
) -> list[float]:
    """The loss of every step, each taken in so many parts."""
    torch.set_num_threads(1)
    optimizer, curve = adamw(model, weight_decay=0.05, betas=(0.9, 0.999)), []
    for step in range(steps):
        loss = torch.zeros(())
        options: dict[str, Any] = {"more_parts": more} if more else {}
        update = Update(lambda step: 3e-3, label_smoothing=0.1, clip_grad_norm=1.0, micro_batches=parts(step))
        train_steps(model, optimizer, batches, range(step, step + 1), update, loss_sum=loss, **options)
        curve.append(loss.item())
    return curve


@pytest.mark.parametrize("parts", [3, 8])
def test_accumulation_gives_the_loss_curve_of_the_plain_batch(parts: int) -> None:
    plain, cut = losses(vit(), lambda step: 1, 50), losses(vit(), lambda step: parts, 50)
    # The weights agree to some 1e-13. Losses are added up in single precision: a sum of the parts', and one of their sums.
    assert max(abs(a - b) for a, b in zip(plain, cut, strict=True)) <= rounding(parts + 1, max(plain))
    assert plain[-1] < plain[0] - 0.3  # it learnt something that could have differed


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_step_begins_again_from_its_start(error: BaseException) -> None:
    """Memory runs out in the second part of a step, after the first part's gradients were added."""
    whole = vit()
    expected = losses(whole, lambda step: 2 if step < 5 else 4, 8)
    crowded = Crowded(vit(), 8, error, after=2 * 5 + 1, times=1)
    asked = []

    def more(error: BaseException, parts: int) -> int:
        asked.append(parts)
        return 2 * parts

    found = losses(crowded, lambda step: 2 if step <= 5 else 4, 8, more)
    assert asked == [2]
    assert found == expected
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), crowded.model.state_dict().values(), strict=True)
    )


def test_other_errors_are_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        losses(Crowded(vit(), 0, RuntimeError("shapes do not match")), lambda step: 1, 1, lambda error, parts: 2)


# ------------------------------------------------------------------------------------------------------------- as a cell
def cells(*more: str) -> tuple[list[Cell], Path]:
    experiment = loading.load_experiment("smoke", loading.parse_overrides([*TINY, *more]))
    return driver.plan(experiment), runs_dir() / experiment.name


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every model that a run builds have room for so many images."""
    real = procedure.build_model

    def with_room(room: int) -> None:
        def build(cell: Cell, n_classes: int) -> tuple[nn.Module, dict[str, Any]]:
            model, geometry = real(cell, n_classes)

            def limited(module: nn.Module, inputs: tuple[Tensor]) -> None:
                if inputs[0].device.type != "meta" and len(inputs[0]) > room:
                    raise MemoryError

            model.register_forward_pre_hook(limited)
            return model, geometry

        monkeypatch.setattr(procedure, "build_model", build)

    return with_room


def test_on_oom_split_goes_on_in_parts_and_says_it_once(tmp_path: Path, crowd: Callable[..., None]) -> None:
    crowd(10)  # batches of 32: 2 parts of 16 do not fit, 4 of 8 do; nor do the evaluations of up to 500
    planned, folder = cells("on_oom=split")
    outcome = worker.work(planned[0], folder)
    assert outcome.status == "done", outcome.message
    assert len(outcome.says) == 1
    assert "vit_micro_p2: out of memory" in outcome.says[0] and "`micro_batch_size=8`" in outcome.says[0]
    run_folder = folder / str(planned[0].run_id)
    assert read_record(run_folder / "record.json").compute.micro_batches == 4
    state, _ = checkpoint.load(run_folder, CPU)
    assert state is not None and state["micro_batches"] == 4

    crowd(1000)
    again, folder = cells("micro_batch_size=8", "recipe.steps=4")
    assert again[0].run_id == planned[0].run_id  # a setting of execution names no other run
    weights = (run_folder / "model.safetensors").read_bytes()
    (run_folder / "record.json").unlink()
    (run_folder / "last.pt").unlink()
    assert worker.work(again[0], folder).status == "done"
    assert (run_folder / "model.safetensors").read_bytes() == weights


def test_a_resumed_run_keeps_its_parts(tmp_path: Path, crowd: Callable[..., None]) -> None:
    crowd(16)
    planned, folder = cells("on_oom=split")
    assert worker.work(planned[0], folder).status == "done"
    (folder / str(planned[0].run_id) / "record.json").unlink()
    crowd(1000)
    outcome = worker.work(planned[0], folder)
    assert outcome.says == ()
    assert read_record(folder / str(planned[0].run_id) / "record.json").compute.micro_batches == 2


@pytest.mark.parametrize(
    ("arguments", "room", "words"),
    [
        (["on_oom=split"], 0, ["in 32 parts", "not even a single image fits"]),
        (["on_oom=fail"], 16, ["batches of 32", "with `on_oom=split` it is trained in parts"]),
        (
            ["on_oom=split", "models=[resnet_micro]", "reference=resnet_micro"],
            16,
            ["resnet_micro: out of memory", "refused", "batch statistics", "lower `recipe.batch_size`"],
        ),
    ],
)
def test_what_cannot_be_split_fails_with_advice(
    tmp_path: Path, crowd: Callable[..., None], arguments: list[str], room: int, words: list[str]
) -> None:
    crowd(room)
    planned, folder = cells(*arguments)
    outcome = worker.work(planned[0], folder)
    assert outcome.status == "failed"
    for word in words:
        assert word in outcome.message
    record = json.loads((folder / str(planned[0].run_id) / "record.json").read_text(encoding="utf-8"))
    assert record["failure"]["kind"] == "OutOfMemory" and record["metrics"] == {}


def test_parts_are_refused_before_anything_runs_for_batch_statistics() -> None:
    planned, _ = cells("micro_batch_size=8", "models=[resnet_micro,vit_micro_p2]")
    (fault,) = worker.check(planned)
    assert "`micro_batch_size`: resnet_micro normalises by the statistics of its batch" in fault
    assert worker.check(cells("micro_batch_size=32", "models=[resnet_micro,vit_micro_p2]")[0]) == []


def test_frozen_norms_have_no_batch_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert memory.has_batch_statistics(model)
    assert not memory.has_batch_statistics(model.eval())
    assert memory.has_batch_statistics(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)).eval())


def test_a_full_allocator_of_this_torch_is_recognised() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)


def test_deterministic_changes_no_bit_on_a_cpu_and_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for wanted in ("true", "false"):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / wanted))
        planned, folder = cells(f"deterministic={wanted}", "models=[vit_micro_p2,resnet_micro]")
        for cell in planned:
            assert worker.work(cell, folder).status == "done"
            run_folder = folder / str(cell.run_id)
            assert read_record(run_folder / "record.json").environment["deterministic"] is (wanted == "true")
            weights.append((run_folder / "model.safetensors").read_bytes())
        assert torch.are_deterministic_algorithms_enabled() is (wanted == "true")
    assert weights[:2] == weights[2:]
