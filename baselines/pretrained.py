"""Published weights into reference models: from a file, or from where timm publishes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn


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


def load(model: nn.Module, weights: Mapping[str, Tensor], label: str, *, head: Collection[str]) -> list[str]:
    """Put weights into a model of timm, all but those of its head, fitted to its image size as timm does it.

    Nothing is changed unless everything fits.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    weights : mapping of str to Tensor
        In timm's own names for this architecture, or in others that timm converts.
    label : str
        What messages call the weights.
    head : collection of str
        Names of the parameters that stay as they are.

    Returns
    -------
    list of str
        Names of the tensors that were resampled, such as position embeddings.

    Raises
    ------
    ValueError
        Naming every tensor that is missing, too many, or of a wrong shape.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in head}
    found = {name: tensor for name, tensor in _converted(model, weights, label).items() if name not in head}
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
    return sorted(name for name, tensor in found.items() if name in weights and weights[name].shape != tensor.shape)


def _converted(model: nn.Module, weights: Mapping[str, Tensor], label: str) -> Mapping[str, Tensor]:
    """Apply what the architecture's file in timm applies to published weights: other names, other grids of positions."""
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if convert is None:
        return weights
    try:
        converted: Mapping[str, Tensor] = convert(dict(weights), model)
    except Exception as error:  # it indexes and reshapes, in the trust that the weights are the architecture's
        raise ValueError(
            f"{label} does not fit the model: timm's conversion ends in {type(error).__name__}: {error}"
        ) from error
    return converted


def _listed(names: Iterable[str], most: int = 6) -> str:
    """Join names, cut where they are many."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
