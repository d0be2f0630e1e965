"""A finished run as a model that can be used: found by folder or id, built, and given its final weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.config.errors import ConfigError, reason
from experiments.config.schema import DataConfig, ModelConfig
from experiments.data.batches import normalised
from experiments.data.decoding import decode, in_threads
from experiments.records.folder import find_run
from experiments.records.record import (
    CONFIG_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    WEIGHTS_FILE,
    Record,
    RecordError,
    read_record,
)
from experiments.training import models, pretrained

BATCH_SIZE = 64
"""Photos that a model sees at once."""


@dataclass(frozen=True)
class Trained:
    """A trained classifier and the form in which it takes images."""

    folder: Path
    record: Record
    model: nn.Module
    """In evaluation mode, on the CPU; for a run on frozen features the model inside."""
    data: DataConfig
    """Size, channels and normalisation of images."""
    class_names: tuple[str, ...]

    def batches(self, paths: list[Path]) -> Iterator[Tensor]:
        """Read photos as the run's own images were read: B × C × size × size, normalised, `BATCH_SIZE` at a time.

        Raises
        ------
        ConfigError
            Naming every file that is missing or no image.
        """
        pixels = in_threads(lambda at: decode(paths[at], self.data.stored_size, self.data.channels), len(paths))
        normalise = normalised(self.data, torch.device("cpu"))
        for start in range(0, len(paths), BATCH_SIZE):
            yield normalise(torch.from_numpy(np.stack(pixels[start : start + BATCH_SIZE])))


def load_run(run: Path) -> Trained:
    """Load a finished run, by its folder or its id below `RUNS_DIR`.

    Raises
    ------
    ConfigError
        If there is no such run, it did not end well, or a file of it is missing or damaged.
    """
    folder = find_run(run)
    try:
        record = read_record(folder / RECORD_FILE)
    except RecordError as error:
        raise ConfigError(str(error)) from error
    if record.status != "done":
        raise ConfigError(f"{folder}: the run failed, so there is no model to use. Run it again first.")
    about = _config(folder / CONFIG_FILE)
    # The final weights replace whatever the run started from.
    config = about[0].model_copy(update={"init": "from_scratch", "weights": None, "layout": None})
    names = _class_names(folder / PREDICTIONS_FILE, record)
    model, _ = models.build(
        record.model, config, image_size=about[1].image_size, in_channels=about[1].channels, num_classes=len(names)
    )
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing, so there is no model to use. Published records hold none: run it yourself.")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"{path}: not the weights of this run ({reason(error)}). Delete its folder and run it again."
        ) from error
    return Trained(folder, record, pretrained.unwrapped(model).eval(), about[1], names)


def _config(path: Path) -> tuple[ModelConfig, DataConfig]:
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return ModelConfig.model_validate(values["model"]), DataConfig.model_validate(values["data"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: not the configuration of a run ({reason(error)}). Restore it, or run it again."
        ) from error


def _class_names(path: Path, record: Record) -> tuple[str, ...]:
    """The classes in the order of the logits; their numbers where the predictions are not there."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return tuple(str(name) for name in stored["class_names"])
    except Exception:  # a damaged archive raises nearly anything, and the names alone are lost
        return tuple(str(index) for index in range(record.n_classes or 0))
