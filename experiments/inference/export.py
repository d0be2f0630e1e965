"""A trained model as a file that needs nothing of this project."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

import vit_scratch.weights
from experiments.config.errors import ConfigError
from experiments.inference.predict import check_target
from experiments.inference.trained import Trained
from experiments.records.record import atomic_write, write_whole
from vit_scratch import VisionTransformer

FORMATS = ("safetensors", "torch-export")
LAYOUTS = tuple(vit_scratch.layouts.LAYOUTS)
ABOUT = "about.json"
"""Name of the facts inside an exported program."""


def about(trained: Trained) -> dict[str, Any]:
    """What one must know to use the weights: classes, and the form in which images go in."""
    data = trained.data
    return {
        "run_id": trained.record.run_id,
        "class_names": list(trained.class_names),
        "input": f"B × {data.channels} × {data.image_size} × {data.image_size}, pixels in [0, 1], less mean, over std",
        "mean": data.mean,
        "std": data.std,
    }


def export(trained: Trained, form: str, target: Path, layout: str | None = None) -> None:
    """Write a run's model to a file.

    Parameters
    ----------
    form : {"safetensors", "torch-export"}
        Weights alone, or the whole program, which ``torch.export.load`` reads, for batches of any size.
    target : Path
        ``.safetensors``, or ``.npz`` with that layout; ``.pt2`` for a program.
    layout : {"timm", "torchvision", "hf", "npz"}, optional
        Whose names and shapes the weights of this project's own ViT get; its own without it.

    Raises
    ------
    ConfigError
        For a format or layout that is unknown or does not fit the model, or a file that cannot be written.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format: must be one of {', '.join(FORMATS)}, got {form!r}.")
    if layout is not None and form != "safetensors":
        raise ConfigError(f"--layout: a program has no layout of weights; leave it out, got {layout!r}.")
    if target.suffix.lower() == ".onnx":
        program = f"--format torch-export -o {target.with_suffix('.pt2')}"
        fix = f"Use {program}, and give what torch.export.load reads to torch.onnx.export."
        raise ConfigError(f"--output: ONNX is not written here, got {target}. {fix}")
    suffix = ".pt2" if form == "torch-export" else ".npz" if layout == "npz" else ".safetensors"
    check_target(target, {suffix}, "--output")
    if form == "torch-export":
        _write_program(trained, target)
        return
    weights = _weights(trained.model, layout)
    facts = json.dumps(about(trained), ensure_ascii=False)
    if layout == "npz":
        with atomic_write(target, "wb") as file:
            np.savez(file, **weights)
    else:
        write_whole(target, safetensors_bytes(weights, metadata={"about": facts}))


def _weights(model: nn.Module, layout: str | None) -> dict[str, Any]:
    """The model's weights under its own names, or in a layout."""
    if layout is None:
        return {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    if not isinstance(model, VisionTransformer):
        raise ConfigError("--layout: is for this project's own ViT; leave it out: timm's models keep their own names.")
    try:
        return vit_scratch.weights.export(model, layout)
    except ValueError as error:
        raise ConfigError(f"--layout: {error}.") from error


def _write_program(trained: Trained, target: Path) -> None:
    data = trained.data
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(trained.model, (example,), dynamic_shapes=({0: batch},))
    stored = io.BytesIO()
    torch.export.save(program, stored, extra_files={ABOUT: json.dumps(about(trained), ensure_ascii=False)})
    write_whole(target, stored.getvalue())
