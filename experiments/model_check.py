"""Whether a model can learn from images of a size: tried on random pixels before any cell runs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

MOST_LOST = 0.1
"""Largest share of pixels without influence that is recorded rather than refused."""


def lost_pixels(model: nn.Module, *, image_size: int, in_channels: int, num_classes: int) -> float:
    """Check that a model gives logits, and that every parameter it trains and every pixel can matter.

    Forward and backward passes on random pixels are repeated as long as they reach something new. What the gradient reached is
    moved in between, as training would move it: behind a head that starts with zeros the gradient arrives in the second pass,
    behind two such layers in a row, which would never learn, it does not. Draws from torch's global generator.

    Parameters
    ----------
    model : nn.Module
        Images (B, C, H, W) → logits (B, K). Its parameters are changed: throw it away afterwards.
    image_size, in_channels, num_classes : int
        Sides H and W of an image, channels C, classes K.

    Returns
    -------
    float
        Share of an image's pixels that have no influence on the logits.

    Raises
    ------
    ValueError
        Saying what was seen and what to do.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("it has no parameter to train; choose another model")
    # A pixel's batch normalisation over two images is ±1 whatever they show; small images leave room for more of them.
    batch_size = max(2, min(4, 2**12 // image_size**2))
    labels = torch.arange(batch_size) % num_classes
    with torch.no_grad():
        _logits(model.eval(), torch.randn(batch_size, in_channels, image_size, image_size), num_classes)
    model.train()
    reached, seen, fruitless = set[str](), torch.zeros(image_size, image_size, dtype=torch.bool), 0
    while (len(reached) < len(trained) or not seen.all()) and fruitless < 2:  # once may be chance: a ReLU that is off
        images = torch.randn(batch_size, in_channels, image_size, image_size, requires_grad=True)
        loss = cross_entropy(_logits(model, images, num_classes), labels)
        model.zero_grad()
        if loss.requires_grad:
            loss.backward()
        now = {name for name, parameter in trained.items() if parameter.grad is not None and parameter.grad.any()}
        visible = images.grad.abs().sum((0, 1)) > 0 if images.grad is not None else torch.zeros_like(seen)
        fruitless = fruitless + 1 if now <= reached and not (visible & ~seen).any() else 0
        reached, seen = reached | now, seen | visible
        _move(trained[name] for name in now)
    _check_reached(trained, reached, image_size)
    _check_seen(model, seen)
    return 1 - seen.float().mean().item()


def _logits(model: nn.Module, images: Tensor, num_classes: int) -> Tensor:
    size = f"images of {images.shape[-2]}×{images.shape[-1]} pixels"
    try:
        logits = model(images)
    except Exception as error:  # a model raises whatever its author's code does
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(
            f"it fails on {size} ({type(error).__name__}: {reason[:300]}); use images of another size, or another model"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (len(images), num_classes):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
        raise ValueError(
            f"{len(images)} images and {num_classes} classes must give logits of shape {(len(images), num_classes)}, "
            f"it gives {found}; choose a model that classifies"
        )
    if not logits.isfinite().all():
        raise ValueError(f"its logits of random {size} are not finite; choose another model or other `arguments`")
    return logits


@torch.no_grad()
def _move(parameters: Iterable[nn.Parameter]) -> None:
    """Add noise in proportion to each parameter's own spread; a constant has none of its own."""
    for parameter in parameters:
        spread = parameter.std(correction=0).item()
        parameter.add_(torch.randn_like(parameter), alpha=spread / 2 or 0.02)


def _check_reached(trained: dict[str, nn.Parameter], reached: set[str], image_size: int) -> None:
    left = [name for name in trained if name not in reached]
    if not left:
        return
    listed = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
    if all(trained[name].grad is None for name in left):
        raise ValueError(f"its forward pass never uses {listed}, which could not learn; choose another model")
    raise ValueError(
        f"at {image_size}×{image_size} pixels no gradient reaches {len(left)} of {len(trained)} parameters ({listed}), which "
        f"would keep their first values; use larger images, a smaller `geometry.patch_size` or `stem: small` where the family "
        f"has one, or another model"
    )


def _check_seen(model: nn.Module, seen: Tensor) -> None:
    lost, size = 1 - seen.float().mean().item(), len(seen)
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    patch = stem.kernel_size[0] if stem and tuple(stem.stride) == tuple(stem.kernel_size) else 1
    unread = f"{100 * lost:.1f}% of the pixels have no influence on the logits"
    if lost and size % patch:
        raise ValueError(
            f"image_size {size} is not divisible by patch_size {patch}; choose a patch_size that divides it, or "
            f"resize the images to {max(size // patch, 1) * patch} or {(size // patch + 1) * patch} pixels ({unread})"
        )
    if lost > MOST_LOST:
        raise ValueError(f"{unread} at {size}×{size}; use images of another size, or another model")
