"""Classifiers of torchvision by their names, from scratch."""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

import torchvision.models
from torch import nn


def create(
    name: str, *, image_size: int, in_channels: int, num_classes: int, **arguments: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a torchvision classifier with random weights.

    Parameters
    ----------
    name : str
        As ``torchvision.models.list_models(module=torchvision.models)`` has it.
    image_size, in_channels, num_classes : int
        Pixels of a side, passed on to models that take them; channels of an image; classes.
    **arguments
        Further arguments of the model.

    Returns
    -------
    model : nn.Module
        Images B × C × height × width → logits B × `num_classes`.
    geometry : dict
        What differs from the published architecture.

    Raises
    ------
    ValueError
        If the name is unknown, or the model does not take the size or an argument.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.4))
        raise ValueError(f"unknown torchvision model {name!r}: {f'did you mean {near}?' if near else 'see list_models()'}")
    try:
        build = partial(torchvision.models.get_model_builder(name), num_classes=num_classes, **arguments)
        try:
            model = build(image_size=image_size)
        except TypeError:  # all but those with a position embedding take images of any size
            model = build()
    except Exception as error:  # constructors assert, divide and look up, each in its own way
        given, reason = f"images of {image_size} pixels and {arguments}", f"{type(error).__name__}: {error}"
        raise ValueError(f"torchvision model {name!r} cannot be built for {given} ({reason})") from error
    geometry = dict(arguments)
    if in_channels != 3:
        geometry["first_convolution"] = _for_channels(model, in_channels)
    return model, geometry


def _for_channels(model: nn.Module, in_channels: int) -> str:
    """Make the first convolution anew: torchvision's are for three channels."""
    path, first = next((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    options = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(in_channels, first.out_channels, bias=first.bias is not None, **options)
    setattr(model.get_submodule(parent), attribute, new)
    return f"{in_channels} channel{'s' * (in_channels > 1)} instead of 3"
