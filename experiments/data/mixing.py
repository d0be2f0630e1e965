"""Changes that follow normalisation: random erasing, Mixup and CutMix. Parameters are drawn per image for the whole batch.

Shapes: ``B`` batch, ``C`` channels, ``H`` and ``W`` pixels, ``K`` classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from experiments.data.resized_crop import rectangles

ERASED_AREA = (0.02, 0.33)
"""Share of the image that is erased (Zhong et al., arXiv 1708.04896, section 4.3 and torchvision)."""

ERASED_ASPECT = (0.3, 1 / 0.3)
"""Height over width of what is erased, log-uniform."""

Boxes = NDArray[np.int64]
"""Rectangles (B, 4): first row, first column, row and column after the last. An empty one changes nothing."""


def draw_erased(rng: np.random.Generator, batch_size: int, size: int, probability: float) -> Boxes:
    """Random erasing (Zhong et al., arXiv 1708.04896, algorithm 1): one rectangle an image, with a probability."""
    chosen = rng.random(batch_size) < probability
    boxes, fits = rectangles(rng, batch_size, size, area=ERASED_AREA, aspect=ERASED_ASPECT, sides=(0, size - 1))
    boxes[:, 2:] += boxes[:, :2]
    return np.where((chosen & fits)[:, None], boxes, 0)


def inside(boxes: Tensor, size: int) -> Tensor:
    """Boolean mask (B, 1, H, W) of the pixels in boxes (B, 4)."""
    pixel = torch.arange(size, device=boxes.device)
    top, left, bottom, right = boxes.unsqueeze(-1).unbind(1)  # B 1
    rows, columns = (pixel >= top) & (pixel < bottom), (pixel >= left) & (pixel < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def erased(images: Tensor, boxes: Tensor) -> Tensor:
    """Set rectangles of normalised images (B, C, H, W) to 0, the data's mean."""
    return images.masked_fill(inside(boxes, images.shape[-1]), 0.0)


class Mix(NamedTuple):
    """How each image is mixed with its neighbour: the one before it in the batch, whose order is random."""

    share: NDArray[np.float64]
    """The image's share of its label, (B,); 1 where it is not mixed."""
    boxes: Boxes
    """CutMix: the rectangle taken from the neighbour; empty elsewhere."""
    blended: NDArray[np.bool_]
    """Mixup, (B,): whether pixels are blended by `share`."""


def draw_mix(
    rng: np.random.Generator, batch_size: int, size: int, *, mixup: float, cutmix: float, probability: float
) -> Mix:
    """Draw for every image whether it is mixed and how.

    Mixup (Zhang et al., arXiv 1710.09412, Eq. 1): share ~ Beta(α, α). CutMix (Yun et al., arXiv 1905.04899, Eq. 1): a box
    of area 1 − share around a uniform centre, cut at the border, after which the share is what is left of the image. Where
    both are asked for, each image has one of them with probability ½.
    """
    chosen = rng.random(batch_size) < probability
    cut = rng.random(batch_size) < (0.5 if mixup and cutmix else float(cutmix > 0))
    blend_share = rng.beta(mixup, mixup, batch_size) if mixup else np.ones(batch_size)
    cut_share = rng.beta(cutmix, cutmix, batch_size) if cutmix else np.ones(batch_size)
    centre = rng.integers(0, size, (batch_size, 2))
    half = (0.5 * np.sqrt(1 - cut_share) * size).astype(np.int64)[:, None]
    boxes = np.concatenate([(centre - half).clip(0, size), (centre + half).clip(0, size)], axis=1)
    boxes = np.where((chosen & cut)[:, None], boxes, 0)
    left = 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (size * size)
    blended = chosen & ~cut
    return Mix(np.where(blended, blend_share, left), boxes, blended)


def mixed_images(images: Tensor, neighbours: Tensor, share: Tensor, blended: Tensor, boxes: Tensor) -> Tensor:
    """Images (B, C, H, W) mixed with their neighbours: blended by share, or with a box of them."""
    weight = torch.where(blended, share, torch.ones_like(share)).view(-1, 1, 1, 1)
    mixed = weight * images + (1 - weight) * neighbours
    return torch.where(inside(boxes, images.shape[-1]), neighbours, mixed)


def mixed_labels(labels: Tensor, neighbours: Tensor, share: Tensor, n_classes: int) -> Tensor:
    """Label probabilities (B, K) float32: `share` on the image's class, the rest on the neighbour's."""
    weight = share.view(-1, 1)
    return weight * one_hot(labels, n_classes) + (1 - weight) * one_hot(neighbours, n_classes)
