"""Where a model starts from other than random weights, and linear classifiers on frozen features."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import requests
import torch
import yaml
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

import baselines.pretrained
import vit_scratch.weights
from experiments.config.errors import ConfigError
from experiments.config.paths import data_dir, in_data_dir, runs_dir
from experiments.config.schema import DataConfig, ModelConfig
from experiments.data.download import innermost
from experiments.records.record import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE, read_record, write_whole

HUB = "timm:"
"""What a name of timm's begins with, where a file could stand."""
RUN = "run:"
"""What a run of this harness begins with there: ``run:<experiment>/<model>``, or its id in place of the model."""


def run_folder(weights: str) -> Path:
    """The one finished run that ``run:<experiment>/<model or run id>`` names.

    Raises
    ------
    ValueError
        If there is none with weights, or several. The message says what to run or to write.
    """
    experiment, _, name = weights.removeprefix(RUN).partition("/")
    folders = (path.parent for path in (runs_dir() / experiment).glob(f"{name}*/{WEIGHTS_FILE}"))
    ended = sorted(folder for folder in folders if (folder / RECORD_FILE).is_file())
    of_model = (folder for folder in ended if folder.name.startswith(f"{name}-"))  # or of one whose name begins so
    found = [folder for folder in ended if folder.name == name]
    found += [folder for folder in of_model if read_record(folder / RECORD_FILE).model == name]
    if not found:
        raise ValueError(
            f"no finished run {name} with weights in {runs_dir() / experiment}. "
            f"Run it first: make experiment NAME={experiment}"
        )
    if len(found) > 1:
        ids = ", ".join(folder.name for folder in found[:6])
        raise ValueError(f"{weights} names {len(found)} runs; write the id of one in place of {name}: {ids}")
    return found[0]


def cost_of(config: ModelConfig) -> dict[str, float]:
    """What the run that a model starts from cost, with all that it was built on: fields of a record's ``compute``."""
    if not (config.weights or "").startswith(RUN):
        return {}
    compute = read_record(run_folder(str(config.weights)) / RECORD_FILE).compute
    kinds = {"pflops": "train_pflops", "device_hours": "device_hours"}
    return {
        f"pretraining_{kind}": sum(getattr(compute, key) or 0 for key in (own, f"tuning_{kind}", f"pretraining_{kind}"))
        for kind, own in kinds.items()
    }


def other_pixels(name: str, config: ModelConfig, data: DataConfig) -> list[str]:
    """That the run which a model starts from saw its pixels at other places than `data` has them: at most one sentence."""
    if not (config.weights or "").startswith(RUN):
        return []
    about = yaml.safe_load((run_folder(str(config.weights)) / CONFIG_FILE).read_text(encoding="utf-8"))["data"]
    before, here = (
        "pixels as they are" if seed is None else f"`permute_pixels: {seed}` at {size} pixels"
        for seed, size in ((about.get("permute_pixels"), about["image_size"]), (data.permute_pixels, data.image_size))
    )
    fault = (
        f"configs/models/{name}.yaml: `weights`: {config.weights} was trained on {before} and {data.title} has {here}, so "
        "that what it learned of places does not hold. Train it on the same order of pixels."
    )
    return [fault] if before != here else []


def start(model: nn.Module, name: str, config: ModelConfig, head: Collection[str]) -> dict[str, Any]:
    """Put a config's weights into a model, all but the head, which begins with zeros.

    Parameters
    ----------
    model : nn.Module
        As `experiments.training.models.build` made it; changed in place.
    name : str
        Stem of the model's file, for messages.
    head : collection of str
        Names of the parameters that begin with zeros: those of the layers that give the logits.

    Returns
    -------
    dict
        For the record's geometry: which weights, with the SHA-256 of a file, so that a file that was exchanged between runs
        of one table is seen; and what was resampled.

    Raises
    ------
    ConfigError
        If the weights are not there or do not fit. The message says which file belongs where.
    """
    weights = str(config.weights)
    source, resampled = f"configs/models/{name}.yaml: `weights`", list[str]()
    try:
        if weights.startswith(RUN):
            path = run_folder(weights) / WEIGHTS_FILE
        else:
            path = published(weights.removeprefix(HUB)) if weights.startswith(HUB) else in_data_dir(weights)
        label = _label(path, path.parent.name if weights.startswith(RUN) else path.name, source)
        if config.source == "scratch" and not weights.startswith(RUN):
            vit_scratch.weights.load(model, path, config.layout or "timm", head="keep")  # type: ignore[arg-type]
        else:
            resampled = baselines.pretrained.load(model, baselines.pretrained.read(path), str(path), head=head)
    except ValueError as error:
        raise ConfigError(f"{source}: {str(error).rstrip('.')}.") from error
    with torch.no_grad():
        for parameter in head:
            model.get_parameter(parameter).zero_()
    facts = {"init": "pretrained", "weights": label}
    return facts | {"resampled": ", ".join(resampled)} if resampled else facts


def _label(path: Path, name: str, source: str) -> str:
    if not path.is_file():
        raise ConfigError(
            f"{source}: no file {path}. Put the weights there, or name another file below {data_dir()} or timm:<name>."
        )
    with open(path, "rb") as file:
        return f"{name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def published(name: str) -> Path:
    """The weights that timm publishes under a name, as a file below `DATA_DIR`, downloaded where it is not there yet.

    Raises
    ------
    ValueError
        If timm knows no such weights, or they cannot be downloaded. The message says which file to put where.
    """
    path = data_dir() / "weights" / f"{name}.safetensors"
    if path.is_file():
        return path
    baselines.pretrained.check_published(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # timm's own tries last minutes
        requests.head(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", timeout=10)
        with tempfile.TemporaryDirectory(dir=path.parent) as cache:
            found = baselines.pretrained.from_hub(name, Path(cache))
    except (requests.RequestException, ValueError) as error:
        raise ValueError(
            f"the weights timm:{name} could not be downloaded ({innermost(error)}). Without a network, save the state dict "
            f"of timm's {name} as {path}; the same command then finds it"
        ) from error
    write_whole(path, safetensors_bytes({key: tensor.contiguous() for key, tensor in found.items()}))
    return path


class FrozenFeatures(nn.Module):
    """A model, changed in place, of which the parameters of the head alone are trained.

    Nothing else gets a gradient, and the whole stays in evaluation mode: dropout and stochastic depth are off, and norms use
    their stored statistics. (The head is linear, for which the mode makes no difference.)
    """

    def __init__(self, model: nn.Module, head: Collection[str]) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        for name in head:
            model.get_parameter(name).requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode, whichever is asked for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images B × C × height × width → logits B × classes."""
        logits: Tensor = self.model(images)
        return logits


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `FrozenFeatures`, or the model itself."""
    return model.model if isinstance(model, FrozenFeatures) else model
