"""Published weights into reference models: from a file, or from where timm publishes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

POSITIONS = "pos_embed"
"""timm's name of a ViT's position embedding."""


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": safetensors.torch.load_file,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".bin": _read_torch,
}


def read(path: Path) -> dict[str, Tensor]:
    """Read a file of weights without running any code that it may hold.

    Raises
    ------
    ValueError
        Naming the file, if its suffix is unknown or it holds no named tensors.
    """
    if path.suffix not in READERS:
        raise ValueError(f"{path}: weights are read from {', '.join(READERS)}, not from {path.suffix or 'no suffix'!r}")
    try:
        found = READERS[path.suffix](path)
    except Exception as error:  # parsers of broken bytes raise nearly anything
        raise ValueError(f"{path}: not a readable {path.suffix} file of weights ({type(error).__name__})") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()) or not found:
        raise ValueError(f"{path}: holds no named tensors alone; save the state dict that is inside")
    return dict(found)


def check_published(name: str) -> None:
    """Refuse a name under which timm publishes no weights; a tag may follow it, as in ``resnet50.a1_in1k``.

    Raises
    ------
    ValueError
        With the way to list the names.
    """
    known = timm.list_pretrained()
    if name not in known and not any(other.startswith(f"{name}.") for other in known):
        raise ValueError(f"timm publishes no weights as {name!r}; timm.list_pretrained() lists them")


def from_hub(name: str, cache: Path) -> dict[str, Tensor]:
    """Download the weights that timm publishes under a name.

    Raises
    ------
    ValueError
        If they cannot be downloaded.
    """
    try:
        model = timm.create_model(name, pretrained=True, cache_dir=str(cache))
    except Exception as error:  # hub, transport and file errors have no common type
        raise ValueError(" ".join(str(error).split()).split(". ")[0][:300] or type(error).__name__) from error
    return dict(model.state_dict())


def load(model: nn.Module, weights: Mapping[str, Tensor], label: str) -> None:
    """Put weights into a model of timm, all but those of its head; position embeddings are interpolated to its grid.

    Nothing is changed unless everything fits.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    weights : mapping of str to Tensor
        In timm's own names for this architecture.
    label : str
        What messages call the weights.

    Raises
    ------
    ValueError
        Naming every tensor that is missing, too many, or of a wrong shape.
    """
    head = head_names(model)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in head}
    found = {name: tensor for name, tensor in weights.items() if name not in head}
    if POSITIONS in own and POSITIONS in found and own[POSITIONS].shape != found[POSITIONS].shape:
        found[POSITIONS] = _on_grid(model, found[POSITIONS])
    faults = [f"missing: {_listed(own.keys() - found.keys())}"] if own.keys() - found.keys() else []
    faults += [f"no place for: {_listed(found.keys() - own.keys())}"] if found.keys() - own.keys() else []
    faults += [
        f"{name} has shape {tuple(found[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in sorted(own.keys() & found.keys())
        if own[name].shape != found[name].shape
    ]
    if faults:
        more = [f"and {len(faults) - 6} more"] if len(faults) > 6 else []
        raise ValueError("; ".join([f"{label} does not fit the model: {faults[0]}", *faults[1:6], *more]))
    model.load_state_dict(found, strict=False)


def head_names(model: nn.Module) -> set[str]:
    """Names of the parameters of a timm model's classifier."""
    head = {id(parameter) for parameter in model.get_classifier().parameters()}  # type: ignore[operator]
    return {name for name, parameter in model.named_parameters() if id(parameter) in head}


def _on_grid(model: Any, positions: Tensor) -> Tensor:
    """Interpolate position embeddings 1 × N × D to the model's grid; those of prefix tokens stay."""
    grid = model.patch_embed.grid_size
    prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    if positions.ndim != 3 or positions.shape[1] <= prefix:
        return positions
    return resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=prefix)


def _listed(names: Iterable[str], most: int = 6) -> str:
    """Join names, cut where they are many."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
