"""Schedule, parameter groups, the loop, checkpoints, and going on from them bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.config.schema import Augmentation, Execution, Recipe
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches
from experiments.data.images import Images
from experiments.records.progress import Heartbeat, read_progress
from experiments.training import checkpoint, cost
from experiments.training.fit import Diverged, Interrupted, evaluation_steps, fit
from experiments.training.optim import adamw, learning_rate, weight_decay_groups
from experiments.training.state import Training
from experiments.training.steps import Update, train_steps
from experiments.training.watch import Written
from tests.arithmetic import rounding

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------------------- schedule
def test_learning_rate_at_hand_computed_points() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, steps=101, peak=1.0, floor=0.1, warmup_fraction=0.1)

    # 11 warm-up steps (⌈10.1⌉), then a cosine over the 90 steps up to step 100
    assert rate(0) == pytest.approx(1 / 11)
    assert rate(10) == pytest.approx(1.0)
    assert rate(11) == pytest.approx(1.0)
    # 44.5 of 89 steps would be the middle; step 55 is 44/89: 0.1 + 0.45·(1 + cos(π·44/89))
    assert rate(55) == pytest.approx(0.1 + 0.45 * (1 + np.cos(np.pi * 44 / 89)))
    assert rate(100) == pytest.approx(0.1)


def test_learning_rate_without_warmup_begins_at_the_peak() -> None:
    assert learning_rate(0, steps=10, peak=2.0, floor=0.0, warmup_fraction=0.0) == 2.0


def test_evaluations_are_even_and_end_with_the_run() -> None:
    assert evaluation_steps(100, 4) == [25, 50, 75, 100]
    assert evaluation_steps(10, 3) == [4, 7, 10]


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = nn.Module()
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
    model.pos_embedding = nn.Parameter(torch.zeros(1, 5, 4))
    model.linear, model.norm = nn.Linear(4, 4), nn.LayerNorm(4)
    model.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    decayed, free = weight_decay_groups(model, 0.05)
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]
    assert len(free["params"]) == 5 and free["weight_decay"] == 0.0


# ----------------------------------------------------------------------------------------------------------------- loop
RECIPE = Recipe(steps=12, batch_size=8, learning_rate=1e-2, warmup_fraction=0.25, evaluations=3, label_smoothing=0.1)


class Net(nn.Module):
    """A little of everything that has state: batch norm, dropout, weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def images(n: int, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = (rng.integers(0, 60, (n, 1, 6, 6)) + 80 * labels[:, None, None, None]).astype(np.uint8)
    return Images(pixels, labels.astype(np.int64), np.array([str(i) for i in range(n)]))


class Follower(Written):
    """Stops a run before a step, or dies after the row of one."""

    stop_at: int | None = None
    die_at: int | None = None

    def stop_requested(self) -> bool:
        return self.stop_at is not None and self.heartbeat.step >= self.stop_at

    def evaluated(self, row: dict[str, Any]) -> None:
        super().evaluated(row)
        if row["step"] == self.die_at:
            raise KeyboardInterrupt  # before a checkpoint of it


class Bench:
    """A run's parts around one folder, as `experiments.training.run` puts them together."""

    def __init__(self, folder: Path, recipe: Recipe = RECIPE, average: float | None = None) -> None:
        folder.mkdir(exist_ok=True)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = Net()
        normalise = Normalise([0.5], [0.25], CPU)
        options = Augmentation(crop_padding=1, horizontal_flip=True)
        self.folder, self.recipe = folder, recipe
        self.train = TrainBatches(
            images(20, 0), normalise, batch_size=recipe.batch_size, seed=0, augmentation=options, device=CPU
        )
        self.val = EvaluationBatches(images(9, 1), normalise, device=CPU)
        optimizer = adamw(model, weight_decay=0.05, betas=(0.9, 0.999))
        self.training = Training("run", model, optimizer, cost.Meter(CPU), torch.zeros(()))
        if average is not None:
            self.training.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
        self.warnings = self.training.restore(folder)
        self.start = self.training.step
        self.written = Follower(folder, self.training, recipe)
        self.log, self.heartbeat = self.written.log, self.written.heartbeat

    def fit(self, stop_at: int | None = None, die_at: int | None = None, every: int | None = None) -> None:
        self.written.stop_at, self.written.die_at = stop_at, die_at
        fit(
            self.training,
            self.recipe,
            self.train,
            self.val,
            seed=0,
            folder=self.folder,
            execution=Execution(checkpoint_every_steps=every),
            observer=self.written,
        )

    def rows(self) -> list[dict[str, float]]:
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        timed = {"train_seconds", "evaluation_seconds", "images_per_second"}
        return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_loop_equals_a_loop_written_out(tmp_path: Path) -> None:
    ours, plain = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    loss_sum = torch.zeros((), dtype=torch.float64)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, labels = ours.train(step)
        return pixels.double(), labels

    for bench in (ours, plain):  # training enlarges rounding, which double precision hardly knows
        bench.training.model.double()
    update = Update(lambda step: 1e-3 * (step + 1), clip_grad_norm=0.5, label_smoothing=0.1)
    train_steps(ours.training.model, ours.training.optimizer, batches, range(5), update, loss_sum=loss_sum)
    from experiments.data.seeding import integer_seed

    model, optimizer, total = plain.training.model.train(), plain.training.optimizer, 0.0
    for step in range(5):
        torch.manual_seed(integer_seed(0, "model", step))
        x, y = batches(step)
        loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step + 1)
        optimizer.step()
        total += loss.item()
    # The norm of the gradients adds up in another order, hence not bit by bit; a loss is kept in single precision.
    for mine, theirs in zip(ours.training.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)
    assert abs(loss_sum.item() - total) <= rounding(5, total)


def test_fit_learns_and_writes_one_row_per_evaluation(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fit()
    rows = bench.rows()
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [row["samples_seen"] for row in rows] == [32, 64, 96]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert bench.training.val_best["top1"] == max(row["val/top1"] for row in rows)
    assert (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("stop_at", [1, 4, 6, 11])
def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path: Path, stop_at: int) -> None:
    whole = Bench(tmp_path / "whole")
    whole.fit()
    first = Bench(tmp_path / "parts")
    with pytest.raises(Interrupted):
        first.fit(stop_at=stop_at)
    second = Bench(tmp_path / "parts")
    assert second.start == first.training.step > 0
    second.fit()
    assert equal_weights(whole.training.model, second.training.model)
    assert whole.rows() == second.rows()


def test_the_last_checkpoint_needs_no_optimiser(tmp_path: Path) -> None:
    whole = Bench(tmp_path)
    whole.fit(every=5)
    last, _ = checkpoint.load(tmp_path, CPU)
    assert last is not None and last["step"] == RECIPE.steps and last["optimizer"] is None
    previous = torch.load(tmp_path / "previous.pt", weights_only=True)["state"]
    assert previous["step"] == 10 and previous["optimizer"]["state"]
    again = Bench(tmp_path)  # killed before its record was written: nothing is left to train
    assert again.start == RECIPE.steps and not again.warnings
    again.fit()
    assert again.rows() == whole.rows() and equal_weights(whole.training.model, again.training.model)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "whole")
    whole.fit()
    killed = killed_after(tmp_path / "parts", 8, 5)
    assert [row["step"] for row in killed.rows()] == [4, 8]
    again = Bench(tmp_path / "parts")
    assert again.start == 5
    assert again.heartbeat.earlier[-1]["reason"] == "killed"
    again.fit()
    assert again.rows() == whole.rows()
    assert equal_weights(whole.training.model, again.training.model)


def killed_after(folder: Path, step: int, every: int) -> Bench:
    """A run that died right after the row of a step, with checkpoints every so many steps."""
    bench = Bench(folder)
    with pytest.raises(KeyboardInterrupt):
        bench.fit(die_at=step, every=every)
    return bench


def test_a_lost_progress_file_loses_no_attempt_and_no_second(tmp_path: Path) -> None:
    killed_after(tmp_path, 8, 5)
    (tmp_path / "progress.json").unlink()
    again = Bench(tmp_path)
    (before,) = again.heartbeat.earlier
    assert (before["start_step"], before["end_step"], before["reason"]) == (0, 5, "killed")
    assert before["seconds"] > 0
    started = again.heartbeat.started
    again.fit()
    (tmp_path / "progress.json").write_text('{"earlier": 3, "attempt": [], "started": ""}', encoding="utf-8")
    third = Bench(tmp_path).heartbeat
    assert [attempt["start_step"] for attempt in third.earlier] == [0, 5] and third.started == started


def test_of_two_accounts_of_an_attempt_the_longer_counts(tmp_path: Path) -> None:
    killed_after(tmp_path, 8, 5)
    seconds = read_progress(tmp_path)["attempt"] | {"seconds": 1000.0, "end_step": 8}
    (tmp_path / "progress.json").write_text(json.dumps({"attempt": seconds}), encoding="utf-8")
    (before,) = Bench(tmp_path).heartbeat.earlier
    assert before["seconds"] == 1000.0 and before["end_step"] == 8


@pytest.mark.parametrize("damage", ["deleted", "truncated", "a row less", "broken", "changed"])
def test_lost_rows_are_restored_from_the_checkpoint_and_named(tmp_path: Path, damage: str) -> None:
    whole = Bench(tmp_path / "whole")
    whole.fit()
    killed_after(tmp_path / "parts", 12, 9)
    path = tmp_path / "parts" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if damage == "deleted":
        path.unlink()
    else:
        changed = {
            "truncated": lines[0][:30],
            "a row less": lines[1],
            "broken": "{}\n" + "".join(lines),
            "changed": lines[0] + lines[1].replace('"step": 8', '"step": 7'),
        }
        path.write_text(changed[damage], encoding="utf-8")
    again = Bench(tmp_path / "parts")
    assert len(again.log.warnings) == 1 and "restored from the checkpoint" in again.log.warnings[0]
    again.fit()
    assert again.rows() == whole.rows()


def test_whole_rows_are_not_named(tmp_path: Path) -> None:
    killed_after(tmp_path, 12, 9)
    assert Bench(tmp_path).log.warnings == []


def test_advice_on_a_diverged_loss_fits_the_recipe() -> None:
    assert "set `recipe.clip_grad_norm`" in str(Diverged(3, clipped=False))
    assert "lower `recipe.clip_grad_norm`" in str(Diverged(3))


def test_diverging_loss_ends_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with torch.no_grad():
        bench.training.model.layers[0].weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite at step 4") as caught:
        bench.fit()
    assert caught.value.step == 4
    assert bench.rows() == []  # no number was made from it


# ----------------------------------------------------------------------------------------------------------- checkpoints
STATE = {"run_id": "r", "step": 3, "weights": {"a": torch.arange(4.0)}, "groups": [{"betas": (0.9, 0.999), "x": None}]}


def test_checkpoint_round_trip_keeps_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, STATE)
    checkpoint.save(tmp_path, STATE | {"step": 4})
    state, warnings = checkpoint.load(tmp_path, CPU)
    assert state is not None and state["step"] == 4 and not warnings
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])
    assert (tmp_path / checkpoint.PREVIOUS_FILE).exists()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "pickle", "other schema"])
def test_damaged_checkpoint_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, STATE)
    checkpoint.save(tmp_path, STATE | {"step": 4})
    path = tmp_path / "last.pt"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        where = bytes(content).index(torch.arange(4.0).numpy().tobytes())
        content[where + 5] ^= 1
        path.write_bytes(content)
    elif damage == "pickle":
        import os
        import pickle

        class Bomb:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "pwned"),)

        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"schema": 99, "state": {}}, path)
    state, warnings = checkpoint.load(tmp_path, CPU)
    assert state is not None and state["step"] == 3
    assert len(warnings) == 1 and "last.pt" in warnings[0]
    assert not (tmp_path / "pwned").exists()


def test_a_folder_in_the_place_of_a_checkpoint_is_moved_aside(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, STATE)
    checkpoint.save(tmp_path, STATE | {"step": 4})
    (tmp_path / "last.pt").unlink()
    (tmp_path / "last.pt").mkdir()
    (tmp_path / "last.pt" / "note").write_text("mine", encoding="utf-8")
    state, warnings = checkpoint.load(tmp_path, CPU)
    assert state is not None and state["step"] == 3
    assert "was a folder" in warnings[0]
    assert [path.read_text() for path in tmp_path.glob("last.pt.aside-*/note")] == ["mine"]
    checkpoint.save(tmp_path, STATE)


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, CPU) == (None, [])
    (tmp_path / "last.pt").write_bytes(b"broken")
    state, warnings = checkpoint.load(tmp_path, CPU)
    assert state is None and "last.pt: cannot be read" in warnings[0]
    assert warnings[1:] == [f"{tmp_path}: no whole checkpoint is left; starting from step 0."]


def test_heartbeat_reports_progress(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, device="cpu", steps=10, batch_size=4, start_step=2)
    heartbeat.work_begins()
    heartbeat.work_ends(7)
    attempts = heartbeat.end("completed")
    assert attempts[-1]["start_step"] == 2 and attempts[-1]["end_step"] == 7
    assert read_progress(tmp_path)["step"] == 7


# -------------------------------------------------------------------------------------------------------- averaged weights
def test_the_average_is_evaluated_and_goes_on_bit_by_bit(tmp_path: Path) -> None:
    plain, whole = Bench(tmp_path / "plain"), Bench(tmp_path / "whole", average=0.5)
    plain.fit()
    mean: dict[str, torch.Tensor] = {}

    def follow() -> None:
        for name, tensor in whole.training.model.named_parameters():
            mean[name] = tensor.detach().clone() if name not in mean else mean[name] * 0.5 + tensor.detach() * 0.5
        Training.step_taken(whole.training)

    whole.training.step_taken = follow  # type: ignore[method-assign]
    whole.fit()
    assert equal_weights(plain.training.model, whole.training.model)  # training itself does not know of it
    for name, tensor in whole.training.evaluated.named_parameters():
        assert torch.allclose(tensor, mean[name], atol=1e-6)
    assert [row["val/loss"] for row in plain.rows()] != [row["val/loss"] for row in whole.rows()]

    first = Bench(tmp_path / "parts", average=0.5)
    with pytest.raises(Interrupted):
        first.fit(stop_at=6)
    second = Bench(tmp_path / "parts", average=0.5)
    second.fit()
    assert equal_weights(whole.training.evaluated, second.training.evaluated) and whole.rows() == second.rows()
