"""Weights to and from timm, torchvision, transformers and the authors' JAX code.

The names and shapes of each stand in `vit_scratch.layouts`; here is the traffic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from .layouts import LAYOUTS, RENAMED, Row, rows
from .variants import VARIANTS
from .vit import VisionTransformer

Source = Mapping[str, Any] | str | Path


def export(model: VisionTransformer, layout: str) -> dict[str, Any]:
    """Return a copy of a model's weights in the names and shapes of a layout: ``timm``, ``torchvision``, ``hf`` or ``npz``.

    They are tensors on the CPU; arrays for ``npz``, to be saved by ``numpy.savez(path, **weights)``.

    Raises
    ------
    ValueError
        If there is no such layout, or models of that layout cannot compute what this one does.
    """
    table = rows(model, layout)
    if model.pool == "mean" and layout != "timm":
        raise ValueError(f"layout {layout!r} has no mean pooling as this model has; export it as 'timm'")
    if layout == "torchvision" and model.blocks[0].get_submodule("attention.qkv").bias is None:
        raise ValueError("layout 'torchvision' always has biases of queries, keys and values, and this model has none")
    weights: dict[str, Any] = {}
    for row in table:
        weights |= zip(row.theirs, _split(model, row), strict=True)
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    return {name: copy.numpy() for name, copy in copies.items()} if layout == "npz" else copies


def load(
    model: VisionTransformer,
    source: Source,
    layout: str,
    *,
    head: Literal["load", "keep"] = "load",
    strict: bool = True,
    source_grid: tuple[int, int] | None = None,
) -> VisionTransformer:
    """Put weights of another's names and shapes into a model.

    Nothing is changed unless everything fits. A position embedding of another grid is interpolated (bicubic, antialiased).

    Parameters
    ----------
    model : VisionTransformer
        Changed in place, and returned.
    source : mapping, str or Path
        Names to tensors or arrays, or a file: ``.safetensors``, ``.npz``, ``.pt`` or ``.pth`` (weights only).
    layout : {"timm", "torchvision", "hf", "npz"}
        Whose names they are. The number of heads is no part of the shapes but in ``npz``; it must be right in the model.
    head : {"load", "keep"}
        ``keep`` leaves the model's head as it is, for other classes than the source was trained on.
    strict : bool
        Whether names that the model has no place for are an error; names that are missing always are.
    source_grid : (int, int), optional
        Rows and columns of the source's patches; without it, the model's own if the count agrees, else a square.

    Raises
    ------
    ValueError
        Naming the source and every name that is missing, too many or of a wrong shape, and the variant that the source
        looks like if it is another. Also for an unknown layout, and a file that cannot be read.
    """
    table = rows(model, layout)
    if head not in ("load", "keep"):
        raise ValueError(f"head must be 'load' or 'keep', got {head!r}")
    label = "the source" if isinstance(source, Mapping) else str(source)
    weights = _rename(_tensors(source, label), layout)
    kept = {name for row in table if row.ours.startswith("head.") for name in row.theirs} if head == "keep" else set()
    table = [row for row in table if not kept.issuperset(row.theirs)]
    faults = _faults(model, table, weights, layout, kept, strict)
    if faults:
        raise ValueError("\n- ".join([f"{label} does not fit the model as layout {layout!r}:", *faults]))
    ready = {}
    for row in table:
        ours = torch.cat([row.form.ours(weights[name]) for name in row.theirs])
        ready[row.ours] = _on_grid(ours, model, source_grid) if row.ours == "embedding.pos_embedding" else ours
    with torch.no_grad():
        for name, tensor in ready.items():
            model.get_parameter(name).copy_(tensor)
    return model


def _split(model: VisionTransformer, row: Row) -> list[Tensor]:
    """Return a parameter of ours as the tensors that another layout keeps it in."""
    parts = model.get_parameter(row.ours).chunk(len(row.theirs))
    return [row.form.theirs(part, model.num_heads) for part in parts]


def _faults(
    model: VisionTransformer, table: list[Row], weights: Mapping[str, Tensor], layout: str, kept: set[str], strict: bool
) -> list[str]:
    """Say in words what keeps the weights from fitting; nothing if they fit."""
    looks = [other for other, names in LAYOUTS.items() if names["embedding.cls_token"] in weights and other != layout]
    expected = {name: part.shape for row in table for name, part in zip(row.theirs, _split(model, row), strict=True)}
    missing = [name for name in expected if name not in weights]
    if missing and looks and LAYOUTS[layout]["embedding.cls_token"] not in weights:
        return [f"its names look like those of layout {looks[0]!r}"]
    another = _another_variant(model, table, weights)
    if another:
        return [another]
    faults = []
    if missing:
        faults.append(f"missing: {_listed(missing)}")
    extra = [name for name in weights if name not in expected and name not in kept]
    if extra and strict:
        faults.append(f"without a place in the model (strict=False ignores them): {_listed(extra)}")
    position = LAYOUTS[layout]["embedding.pos_embedding"]
    wrong = []
    for name, shape in expected.items():
        got = weights[name].shape if name in weights else shape
        if name == position and len(got) == 3:
            got = torch.Size((got[0], shape[1], got[2]))
        if got != shape:
            wrong.append(f"{name}: expected {tuple(shape)}, got {tuple(weights[name].shape)}")
    if wrong:
        faults.append(f"of a wrong shape: {_listed(wrong)}")
    if any(line.startswith(LAYOUTS[layout]["head.{leaf}"].format(leaf="")) for line in missing + wrong):
        faults.append("for other classes, or none, pass head='keep' and train the model's own head")
    return faults


def _another_variant(model: VisionTransformer, table: list[Row], weights: Mapping[str, Tensor]) -> str | None:
    """Say which row of `VARIANTS` the weights look like, if their depth and widths are not the model's."""
    theirs = {row.ours: row.theirs[0] for row in table}
    first = theirs["blocks.0.norm1.weight"]
    depth = next(index for index in itertools.count() if first.replace("0", str(index), 1) not in weights)
    token, hidden = theirs["embedding.cls_token"], theirs["blocks.0.mlp.fc1.bias"]
    if not depth or token not in weights or hidden not in weights:
        return None
    got = (depth, weights[token].shape[-1], weights[hidden].numel())
    has = (len(model.blocks), model.head.in_features, model.get_parameter("blocks.0.mlp.fc1.bias").numel())
    if got == has:
        return None
    names = [name for name, row in VARIANTS.items() if (row.depth, row.dim, int(row.dim * row.mlp_ratio)) == got]
    looks = f"looks like variant {names[0]!r}" if names else "looks like none of the variants"
    words = "depth {}, dim {} and an MLP of width {}"
    return f"it {looks}, with {words.format(*got)}; the model has {words.format(*has)}"


def _listed(names: Iterable[str], most: int = 6) -> str:
    """Join names, cut where they are many."""
    names = list(names)
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _on_grid(positions: Tensor, model: VisionTransformer, source_grid: tuple[int, int] | None) -> Tensor:
    """Interpolate position embeddings 1 × N × D to the model's grid; that of the class token stays."""
    count, grid = positions.shape[1] - 1, model.embedding.grid_size
    if source_grid is None:
        side = math.isqrt(max(count, 0))
        source_grid = grid if count == grid[0] * grid[1] else (side, side)
    if count < 1 or source_grid[0] * source_grid[1] != count:
        raise ValueError(
            f"its position embedding has {count} patches, which are not a grid of {source_grid[0]} × {source_grid[1]}; "
            f"pass the source's own as source_grid=(rows, columns)"
        )
    if tuple(source_grid) == grid:
        return positions
    token, patches = positions[:, :1], positions[:, 1:].float()
    image = patches.transpose(1, 2).unflatten(2, source_grid)  # 1 (N-1) D → 1 D (N-1) → 1 D rows columns
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=True)
    return torch.cat([token, image.flatten(2).transpose(1, 2).to(token.dtype)], dim=1)  # 1 D rows columns → 1 N D


def _rename(weights: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Spell names as the layout's table does."""
    renamed = {}
    for name, tensor in weights.items():
        for other, ours in RENAMED.get(layout, ()):
            name = name.replace(other, ours)
        renamed[name] = tensor
    return renamed


def _tensors(source: Source, label: str) -> dict[str, Tensor]:
    """Read a mapping or a file as names to tensors on the CPU."""
    found = source if isinstance(source, Mapping) else _read(Path(source))
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{label} holds no named tensors, got {type(found).__name__} {found!r:.40}; pass a state dict")
    odd = [name for name, value in found.items() if not isinstance(value, Tensor) and not hasattr(value, "__array__")]
    if odd:
        kinds = _listed(f"{name!r} ({type(found[name]).__name__})" for name in odd)
        raise ValueError(f"{label} holds entries that are not tensors: {kinds}; pass the state dict that is inside")
    return {
        str(name): value.detach().cpu() if isinstance(value, Tensor) else torch.tensor(np.asarray(value))
        for name, value in found.items()
    }


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_pt(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": safetensors.torch.load_file,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
}


def _read(path: Path) -> Any:
    """Read a file by its suffix."""
    if path.suffix not in READERS:
        raise ValueError(f"{path}: weights are read from {', '.join(READERS)}, not from {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return READERS[path.suffix](path)
    except Exception as error:  # parsers of broken bytes raise nearly anything
        raise ValueError(f"{path}: not a readable {path.suffix} file of weights ({str(error).split('.')[0]})") from error
