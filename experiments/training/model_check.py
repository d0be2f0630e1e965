"""Whether a model can learn from images of a size: tried on random pixels before any cell runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.config.errors import named
from experiments.config.text import listed

MOST_LOST = 0.1
"""Largest share of pixels without influence, or of parameters without gradient, that is declared rather than refused."""

DECLARED = {"pixels_without_influence", "parameters_without_gradient"}
"""What a record's geometry says of a model that loses some."""


def examine(model: nn.Module, *, image_size: int, in_channels: int, num_classes: int) -> dict[str, Any]:
    """Check that a model gives logits, and that the parameters it trains and the pixels can matter.

    Passes over random pixels are repeated as long as they reach something new. What a gradient reached is moved in between,
    as training would move it: behind a head that starts with zeros the gradient arrives in the second pass; behind two such
    layers in a row, which would never learn, it does not. Draws from torch's global generator.

    Parameters
    ----------
    model : nn.Module
        Images (B, C, H, W) → logits (B, K). Its parameters are changed: throw it away afterwards.
    image_size, in_channels, num_classes : int
        Sides H and W of an image, channels C, classes K.

    Returns
    -------
    dict
        What a record has to declare, for most models nothing: ``pixels_without_influence``, a share, where strides pass over
        pixels; ``parameters_without_gradient``, names, where so little is left of a small image that a layer has nothing to
        choose from, such as attention over a single token.

    Raises
    ------
    ValueError
        Saying what was seen and what to do.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("it has no parameter to train; choose another model")
    # Normalised over two single pixels every value is ±1: where maps get that small there is room for more images.
    batch_size = max(2, min(4, 2**12 // image_size**2))
    used, reached, fruitless = set[str](), set[str](), 0
    seen = torch.zeros(image_size, image_size, dtype=torch.bool)
    while (len(reached) < len(trained) or not seen.all()) and fruitless < 3:  # one may be chance: a ReLU that is off
        images = torch.randn(batch_size, in_channels, image_size, image_size)
        _, grads = _gradients(model.train(), images, trained, num_classes)
        used |= grads.keys()
        now = {name for name, gradient in grads.items() if gradient.any()}
        # In training a bias before batch normalisation has no gradient, and its statistics see what nothing else does.
        slopes, grads = _gradients(model.eval(), images[: batch_size // 2], trained, num_classes)
        now |= {name for name, gradient in grads.items() if name in used and gradient.any()}
        visible = (slopes != 0).any(0).any(0)
        fruitless = 0 if now - reached or (visible & ~seen).any() else fruitless + 1
        reached, seen = reached | now, seen | visible
        _move(trained[name] for name in now)
    if unused := [name for name in trained if name not in used]:
        raise ValueError(f"its forward pass never uses {listed(unused, 4)}, which could not learn; choose another model")
    return _unreached(trained, reached, image_size) | _unseen(model, seen)


def _gradients(
    model: nn.Module, images: Tensor, trained: dict[str, nn.Parameter], num_classes: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of the loss by the images, and by those parameters that take part in it."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    logits = _tried(lambda: model(images), images)
    _check_logits(logits, len(images), num_classes)
    loss = cross_entropy(logits, torch.arange(len(images)) % num_classes)
    if loss.requires_grad:
        _tried(loss.backward, images)
    slopes = torch.zeros_like(images) if images.grad is None else images.grad
    return slopes, {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}


def _tried(step: Callable[[], Any], images: Tensor) -> Any:
    try:
        return step()
    except Exception as error:  # a model raises whatever its author's code does
        raise ValueError(
            f"it fails on images of {images.shape[-2]}×{images.shape[-1]} pixels ({named(error)}); "
            f"use images of another size, or another model"
        ) from error


def _check_logits(logits: Any, batch_size: int, num_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.shape != (batch_size, num_classes):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise ValueError(
            f"{batch_size} images and {num_classes} classes must give logits of shape {(batch_size, num_classes)}, "
            f"it gives {found}; choose a model that classifies"
        )
    if not logits.isfinite().all():
        raise ValueError("its logits of random pixels are not finite; choose another model or other `arguments`")


@torch.no_grad()
def _move(parameters: Iterable[nn.Parameter]) -> None:
    """Add noise in proportion to each parameter's own spread; a constant has none of its own."""
    for parameter in parameters:
        spread = parameter.std(correction=0).item()
        parameter.add_(torch.randn_like(parameter), alpha=spread / 2 or 0.02)


def _unreached(trained: dict[str, nn.Parameter], reached: set[str], image_size: int) -> dict[str, Any]:
    left = [name for name in trained if name not in reached]
    if not left:
        return {}
    share = sum(trained[name].numel() for name in left) / sum(map(torch.numel, trained.values()))
    if share > MOST_LOST:
        raise ValueError(
            f"at {image_size}×{image_size} pixels no gradient reaches {len(left)} of {len(trained)} parameters "
            f"({listed(left, 4)}), {100 * share:.1f}% of all values; they would stay as they are; use larger images, a "
            f"smaller `geometry.patch_size` or `stem: small` where the family has one, or another model"
        )
    return {"parameters_without_gradient": listed(left, 4)}


def _unseen(model: nn.Module, seen: Tensor) -> dict[str, Any]:
    lost, size = 1 - seen.float().mean().item(), len(seen)
    if not lost:
        return {}
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    patch = stem.kernel_size[0] if stem and tuple(stem.stride) == tuple(stem.kernel_size) else 1
    unread = f"{100 * lost:.1f}% of the pixels have no influence on the logits"
    if size % patch:
        raise ValueError(
            f"image_size {size} is not divisible by patch_size {patch}; choose a patch_size that divides it, or "
            f"resize the images to {max(size // patch, 1) * patch} or {(size // patch + 1) * patch} pixels ({unread})"
        )
    if lost > MOST_LOST:
        raise ValueError(f"{unread} at {size}×{size}; use images of another size, or another model")
    return {"pixels_without_influence": round(lost, 4)}
