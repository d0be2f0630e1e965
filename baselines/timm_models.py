"""Reference models: any classifier of timm by its name, untrained, at any image size."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from typing import Any, Literal

import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from .small_stems import SMALL_STEMS

Geometry = dict[str, str | int | float]

NOT_ARGUMENTS = {
    "img_size": "the data sets it",
    "in_chans": "the data set it",
    "num_classes": "the data set it",
    "patch_size": "set `geometry.patch_size`",
    "pretrained": "references start untrained, as the model they are compared with does",
    "checkpoint_path": "references start untrained, as the model they are compared with does",
    "pretrained_cfg": "references start untrained, as the model they are compared with does",
    "pretrained_cfg_overlay": "references start untrained, as the model they are compared with does",
    "features_only": "references are classifiers",
}
"""What timm would take but a comparison must not vary, and why."""


def create(
    name: str,
    *,
    image_size: int | tuple[int, int],
    in_channels: int,
    num_classes: int,
    patch_size: int | tuple[int, int] | None = None,
    stem: Literal["native", "small"] = "native",
    **arguments: Any,
) -> tuple[nn.Module, Geometry]:
    """Create an untrained timm model, and say what differs from the published architecture.

    Parameters
    ----------
    name : str
        A name that ``timm.list_models()`` knows.
    image_size : int or (int, int)
        Pixels of a side, or height and width.
    in_channels, num_classes : int
        Channels of an image, and number of logits.
    patch_size : int or (int, int), optional
        Patch of a ViT, in pixels; the published one by default.
    stem : {"native", "small"}
        ``small`` keeps an image's resolution up to the first block, for the families in `SMALL_STEMS`.
    **arguments
        Further arguments of the model, such as `embed_dim`, `depth`, `num_heads`, `mlp_ratio` of a ViT, or `drop_path_rate`.

    Returns
    -------
    model : nn.Module
        Maps images B × C × height × width to logits B × `num_classes`.
    geometry : dict
        The declared geometry: each requested change by name, in words or numbers; empty for the published architecture.

    Raises
    ------
    ValueError
        If the name or an argument is unknown, the family has no small stem or no patches, or the model cannot take images of
        this size. The message says which, and what to do.
    """
    _check_request(name, stem, arguments)
    with torch.device("meta"):
        family = type(timm.create_model(name))
    sizes = _sizes(name, family, image_size, patch_size)
    model = _build(name, arguments, {"in_chans": in_channels, "num_classes": num_classes, **sizes})
    geometry: Geometry = {} if patch_size is None else {"patch_size": _plain(patch_size)}
    if stem == "small":
        geometry["stem"] = _small_stem(name, model)
    _check_image_size(name, model, image_size, in_channels)
    return model, geometry | {key: _plain(value) for key, value in arguments.items()}


def _check_request(name: str, stem: str, arguments: dict[str, Any]) -> None:
    """Refuse unknown names and stems, and arguments that are not a model's to choose."""
    known = timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"unknown timm model {name!r}: {hint}")
    if stem not in ("native", "small"):
        raise ValueError(f"stem must be 'native' or 'small', got {stem!r}")
    for key in sorted(set(arguments) & set(NOT_ARGUMENTS)):
        raise ValueError(
            f"timm model {name!r}: delete the argument {key!r}, which a model must not set: {NOT_ARGUMENTS[key]}"
        )


def _sizes(
    name: str, family: type[nn.Module], image_size: int | tuple[int, int], patch_size: int | tuple[int, int] | None
) -> dict[str, int | tuple[int, int]]:
    """Return the arguments for sizes that models of this family take; convolutional ones take none."""
    # A subclass passes on what it takes as **kwargs.
    accepted = {name for kind in family.__mro__[:-1] for name in inspect.signature(kind).parameters}
    sizes: dict[str, int | tuple[int, int]] = {}
    if "img_size" in accepted:
        sizes["img_size"] = image_size
    if patch_size is not None:
        sizes["patch_size"] = patch_size
        if not {"img_size", "patch_size"} <= accepted:
            raise ValueError(f"timm model {name!r} ({family.__name__}) has no patches: delete the patch_size {patch_size}")
    return sizes


def _build(name: str, arguments: dict[str, Any], settings: dict[str, Any]) -> nn.Module:
    """Call timm, and turn what it raises on unfit arguments into one message."""
    try:
        return timm.create_model(name, pretrained=False, **settings, **arguments)
    except Exception as error:  # constructors divide, index and assert, each in its own way
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown:
            raise ValueError(f"timm model {name!r} has no argument {unknown[1]!r}: delete or rename it") from error
        given = ", ".join(f"{key}={value!r}" for key, value in {**settings, **arguments}.items())
        raise ValueError(f"timm model {name!r} cannot be built with {given}: {type(error).__name__}: {error}") from error


def _small_stem(name: str, model: nn.Module) -> str:
    """Give the model its family's stem for small images; return the change in words."""
    for family, change in SMALL_STEMS.items():
        if isinstance(model, family):
            return change(model)
    raise ValueError(
        f"timm model {name!r} ({type(model).__name__}) has no small stem here; families that have one: "
        f"{', '.join(family.__name__ for family in SMALL_STEMS)}. Use `stem: native` and the model's own `arguments`"
    )


def _check_image_size(name: str, model: nn.Module, image_size: int | tuple[int, int], in_channels: int) -> None:
    """Refuse images that patches do not cover, or of which nothing is left before the last layer.

    The forward pass on the meta device computes shapes only.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if isinstance(model, VisionTransformer):
        patch = model.patch_embed.patch_size
        if height % patch[0] or width % patch[1]:
            raise ValueError(
                f"timm model {name!r}: image_size {_plain((height, width))} is not divisible by patch_size {_plain(patch)}; "
                f"choose a patch_size that divides it"
            )
    try:
        with torch.no_grad():
            copy.deepcopy(model).to("meta").eval()(torch.empty(1, in_channels, height, width, device="meta"))
    except Exception as error:  # layers do, too
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"timm model {name!r} cannot take images of {height}×{width} pixels ({reason}); use images of another size, or "
            f"`stem: small` where the family has one ({', '.join(family.__name__ for family in SMALL_STEMS)})"
        ) from error


def _plain(value: Any) -> str | int | float:
    """Return a value as it may stand in a record: a number or words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and len(value) == 2:
        return value[0] if value[0] == value[1] else f"{value[0]}×{value[1]}"
    return value if isinstance(value, int | float | str) else str(value)
