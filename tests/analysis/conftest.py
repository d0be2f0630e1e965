"""A synthetic experiment on disk, of which the truth is known: what the analysis must find again."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.config.identity import PROTOCOL, canonical_hash, requested_settings
from experiments.config.loading import varied_settings, with_settings
from experiments.config.schema import DataConfig, Expectation, Experiment, Geometry, ModelConfig, Recipe
from experiments.metrics import classification_metrics
from experiments.records.record import SCHEMA, Attempt, Compute, Record, write_record

N_FULL = 1000
N_TEST = 400
CLASSES = ("cat", "dog", "owl", "<b>&_%")
FRACTIONS = (0.1, 0.3, 1.0)
SEEDS = (0, 1, 2)

# error(n) = full_error · (N_FULL / n) ** 0.5, so that a model with twice the error needs 4 times the images.
FULL_ERROR = {"vit": 0.20, "vit_timm": 0.20, "resnet": 0.10, "convnext": 0.12}
DATA_MULTIPLIER = (0.20 / 0.10) ** 2
SEED_SHIFT = (-0.005, 0.0, 0.005)

MODELS = {
    "vit": ModelConfig(title="ViT (ours)", family="ViT", source="scratch", name="tiny", geometry=Geometry(patch_size=2)),
    "vit_timm": ModelConfig(
        title="ViT (timm)", family="ViT", source="timm", name="vit_tiny", geometry=Geometry(patch_size=2)
    ),
    "resnet": ModelConfig(
        title="ResNet_18 & co", family="ResNet", source="timm", name="resnet18", geometry=Geometry(stem="small")
    ),
    "convnext": ModelConfig(title="ConvNeXt", family="ConvNeXt", source="timm", name="convnext_atto"),
}


def make_experiment(**changes: Any) -> Experiment:
    """The synthetic experiment, with some of its fields changed."""
    values: dict[str, Any] = {
        "name": "synthetic",
        "question": "Does a ViT need more images than a CNN?",
        "models": MODELS,
        "data": {"shapes": DataConfig(title="Shapes", source="digits", image_size=8, channels=1, mean=[0.5], std=[0.5])},
        "recipe_name": "plain",
        "recipe": Recipe(steps=100, batch_size=32, learning_rate=1e-3),
        "train_fractions": list(FRACTIONS),
        "seeds": list(SEEDS),
        "reference": "resnet",
        "track": "identical",
        "expect": [
            Expectation(claim="CNNs reach 85%", models=["resnet", "convnext"], at_least=0.85),
            Expectation(claim="The ViT keeps up with the ResNet", models=["vit"], against="resnet", at_least=-0.01),
        ],
    }
    return Experiment(**(values | changes))


def truth(model: str, fraction: float, seed: int = 1) -> float:
    """Accuracy that the synthetic run is made to have, up to rounding to whole test images."""
    return 1 - FULL_ERROR[model] * (1 / fraction) ** 0.5 + SEED_SHIFT[seed % 3]


def write_run(
    root: Path,
    experiment: Experiment,
    model: str,
    data: str,
    fraction: float,
    seed: int,
    *,
    recipe: Recipe | None = None,
    varied: dict[str, Any] | None = None,
    n_test: int = N_TEST,
    classes: tuple[str, ...] = CLASSES,
) -> dict[str, Any]:
    """Write one run folder and return its cell of the ledger."""
    config = experiment.models[model]
    recipe = recipe or experiment.recipe
    track = (varied or {}).get("track", "identical")
    requested = requested_settings(recipe, experiment.data[data], track=track)
    settings = canonical_hash(requested)
    split = canonical_hash([data, fraction, seed])
    name = f"{model}-{data}-f{fraction:g}-s{seed}"
    run_id = f"{name}-{canonical_hash([settings, split, model, PROTOCOL])[:8]}"
    folder = root / run_id
    folder.mkdir(parents=True)

    # The same images are hard for every model; a little noise of the run's own decides the borderline ones.
    images = np.random.default_rng(7)
    difficulty, labels = images.random(n_test), images.integers(len(classes), size=n_test)
    own = np.random.default_rng([seed, round(1000 * fraction), *model.encode()])
    hardness = difficulty + own.normal(0, 0.05, n_test)
    wrong = np.zeros(n_test, dtype=bool)
    wrong[np.argsort(-hardness)[: round((1 - truth(model, fraction, seed)) * n_test)]] = True
    answers = np.where(wrong, (labels + 1) % len(classes), labels)
    logits = own.normal(0, 0.3, (n_test, len(classes))).clip(-1, 1)
    logits[np.arange(n_test), answers] += 3
    logits = logits.astype(np.float32)
    n = round(N_FULL * fraction)
    val_labels = np.arange(max(n // 10, 4)) % len(classes)
    val_logits = (np.eye(len(classes))[(val_labels + (np.arange(len(val_labels)) % 5 == 0)) % len(classes)] * 3).astype(
        np.float32
    )
    np.savez(
        folder / "predictions.npz",
        logits=logits,
        labels=labels,
        sample_ids=np.arange(n_test) + 5000,
        val_logits=val_logits,
        val_labels=val_labels,
        val_sample_ids=np.random.default_rng([seed, *data.encode()]).permutation(1000)[: len(val_labels)],
        class_names=np.array(classes),
    )
    metrics = {f"test/{name}": value for name, value in classification_metrics(logits, labels).items()}
    metrics |= {f"val/{name}": value for name, value in classification_metrics(val_logits, val_labels).items()}
    geometry = config.geometry.model_dump(exclude_none=True)
    record = Record(
        schema_=SCHEMA,
        run_id=run_id,
        experiment=experiment.name,
        status="done",
        model=model,
        family=config.family,
        source=config.source,
        data=data,
        recipe=experiment.recipe_name,
        track=track,
        settings_hash=settings,
        split_hash=split,
        protocol=PROTOCOL,
        seed=seed,
        train_fraction=fraction,
        varied=varied or {},
        n_classes=len(classes),
        n_train=n - len(val_labels),
        n_val=len(val_labels),
        n_test=n_test,
        steps=recipe.steps,
        samples_seen=recipe.steps * recipe.batch_size,
        metrics={**metrics, "test/top5": None, "val_best/top1": 0.8},
        compute=Compute(
            n_params=1_234_567 * (1 + list(experiment.models).index(model)),
            forward_gmacs=0.0123,
            train_pflops=6e-6 * 0.0123 * recipe.steps * recipe.batch_size,
            images_per_second=1000.0 + seed,
            train_seconds=recipe.steps * recipe.batch_size / (1000.0 + seed),
            device_hours=0.001,
            peak_memory_bytes=3 * 2**29,
        ),
        environment={"git": "abc", "versions": {"torch": "2.11"}, "device": "cpu", "precision": recipe.precision},
        geometry=geometry,
        attempts=[Attempt(start_step=0, end_step=recipe.steps, device="cpu", seconds=3.6, reason="completed")],
        started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:04Z",
    )  # fmt: skip
    cell = {"model": model, "data": data, "train_fraction": fraction, "seed": seed, "varied": varied or {}}
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "experiment": experiment.name, "cell": cell, "requested": requested,
                "model": config.model_dump(), "resolved": {"device": "cpu"},
            },
            sort_keys=False,
        )
    )  # fmt: skip
    steps = [recipe.steps * k // 4 for k in range(1, 5)]
    (folder / "metrics.jsonl").write_text(
        "".join(
            json.dumps(
                {"step": s, "samples_seen": s * 32, "train/loss": 2 - k / 4, "val/loss": 2 - k / 4, "val/top1": k / 5}
            )
            + "\n"
            for k, s in enumerate(steps, 1)
        )
    )
    write_record(folder, record)
    return {"run_id": run_id, **cell, "status": "done", "reason": None}


@dataclass
class SyntheticRuns:
    """An experiment with its run folders and ledger, and the means to spoil them."""

    folder: Path
    experiment: Experiment
    ledger: dict[str, Any]

    def run_id(self, model: str, fraction: float = 1.0, seed: int = 0) -> str:
        return self.cell(model, fraction, seed)["run_id"]

    def cell(self, model: str, fraction: float = 1.0, seed: int = 0) -> dict[str, Any]:
        key = (model, fraction, seed)
        return next(c for c in self.ledger["cells"] if (c["model"], c["train_fraction"], c["seed"]) == key)

    def edit_record(self, run_id: str, /, **changes: Any) -> None:
        """Change fields of one record; a dict value is merged into the one that is there."""
        path = self.folder / run_id / "record.json"
        values = json.loads(path.read_text())
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(value, dict) else value
        path.write_text(json.dumps(values))

    def edit_predictions(self, run_id: str, /, **changes: Any) -> None:
        """Replace arrays of one run's predictions; None removes one."""
        path = self.folder / run_id / "predictions.npz"
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
        np.savez(path, **arrays)

    def lose(self, run_id: str, status: str = "missing", reason: str | None = None) -> None:
        """Take a run away, as the ledger would then say."""
        shutil.rmtree(self.folder / run_id)
        cell = next(c for c in self.ledger["cells"] if c["run_id"] == run_id)
        cell |= {"status": status, "reason": reason}


def write_experiment(root: Path, experiment: Experiment) -> SyntheticRuns:
    """Write every cell of an experiment, setting by setting."""
    settings = [(*with_settings(experiment, varied), varied) for varied in varied_settings(experiment)]
    cells = [
        write_run(
            root, experiment.model_copy(update={"data": changed}), model, data, fraction, seed, recipe=recipe, varied=varied
        )
        for recipe, changed, varied in settings
        for data in experiment.data
        for model in experiment.models
        for fraction in experiment.train_fractions
        for seed in experiment.seeds
    ]
    counts = {"expected": len(cells), "done": len(cells), "failed": 0, "running": 0, "missing": 0}
    return SyntheticRuns(root, experiment, {"experiment": experiment.name, "counts": counts, "cells": cells, "other": []})


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRuns:
    return write_experiment(tmp_path_factory.mktemp("template") / "synthetic", make_experiment())


@pytest.fixture
def synthetic_runs(_template: SyntheticRuns, tmp_path: Path) -> SyntheticRuns:
    """36 runs: 4 models × 3 fractions × 3 seeds; a copy that the test may spoil."""
    folder = tmp_path / "runs" / "synthetic"
    shutil.copytree(_template.folder, folder)
    return SyntheticRuns(folder, _template.experiment, json.loads(json.dumps(_template.ledger)))
