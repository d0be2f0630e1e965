"""Random resized crops (Szegedy et al., arXiv 1409.4842, section 6) of a whole batch at once.

Each output pixel is a weighted mean of the crop's pixels, by the triangle filter that antialiased bilinear resizing has.
Rows and columns are weighted one after the other, each by one matrix an image, so that crops of different sizes are one
batch of products. Large images on a CPU, where most of such a matrix is zeros, are resized one by one: the same pixels but
for rounding.

Shapes: ``B`` batch, ``C`` channels, ``S`` pixels of a stored side, ``T`` of a side that the model sees.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

ASPECT = (3 / 4, 4 / 3)
"""Height over width of a crop, log-uniform."""

LARGE = 96
"""Stored pixels of a side above which a CPU resizes images one by one (measured: as fast at 96, 5 times at 320)."""

ATTEMPTS = 10
"""Rectangles that are drawn until one fits into the image; then the whole image is taken."""


def rectangles(
    rng: np.random.Generator,
    batch_size: int,
    size: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    sides: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The first of `ATTEMPTS` rectangles an image whose sides lie within `sides`, else the whole image; and where one does.

    The share of the image's `area` is uniform, height over width log-uniform within `aspect`, the place uniform. Returns
    first row, first column, height and width, int64 of (B, 4), and bool of (B,).
    """
    areas = rng.uniform(*area, (ATTEMPTS, batch_size)) * size * size
    aspects = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), (ATTEMPTS, batch_size)))
    drawn = np.rint(np.sqrt([areas * aspects, areas / aspects]))  # heights and widths
    fits: NDArray[np.bool_] = np.all((drawn >= sides[0]) & (drawn <= sides[1]), axis=0)
    first = fits.argmax(0), np.arange(batch_size)
    lengths = np.where(fits[first], drawn[:, *first], size).astype(np.int64)
    corners = (rng.random((2, batch_size)) * (size - lengths + 1)).astype(np.int64)
    return np.concatenate([corners, lengths]).T, fits[first]


def draw(rng: np.random.Generator, batch_size: int, size: int, least_area: float) -> NDArray[np.int64]:
    """One crop an image, of a share `least_area` to 1 of it: first row, first column, height and width, int64 of (B, 4)."""
    return rectangles(rng, batch_size, size, area=(least_area, 1.0), aspect=ASPECT, sides=(1, size))[0]


def weights(start: Tensor, length: Tensor, stored: int, size: int, flip: Tensor | None = None) -> Tensor:
    """Weights (B, T, S) of the stored pixels ``start`` to ``start + length`` in each output pixel; reversed where `flip`."""
    scale = (length / size).view(-1, 1, 1)
    out = torch.arange(size, device=start.device, dtype=torch.float32).view(1, -1, 1).expand(len(start), -1, -1)
    if flip is not None:
        out = torch.where(flip.view(-1, 1, 1), size - 1 - out, out)
    pixel = torch.arange(stored, device=start.device, dtype=torch.float32).view(1, 1, -1)
    first, last = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    centre = first + (out + 0.5) * scale
    triangle = (1 - (pixel + 0.5 - centre).abs() / scale.clamp(min=1.0)).clamp(min=0.0)
    triangle = triangle * ((pixel >= first) & (pixel < last))
    return triangle / triangle.sum(-1, keepdim=True)


def apply(pixels: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Crops, as of `draw`, of uint8 images (B, C, S, S) as uint8 (B, C, T, T), T = `size`; mirrored where `flip` (B,)."""
    stored = pixels.shape[-1]
    if pixels.device.type == "cpu" and stored > LARGE:
        resized = [
            interpolate(image[None, :, y : y + height, x : x + width], (size, size), mode="bilinear", antialias=True)
            for image, (y, x, height, width) in zip(pixels, boxes.tolist(), strict=True)
        ]
        whole = torch.cat(resized)
        return whole if flip is None else torch.where(flip.view(-1, 1, 1, 1), whole.flip(-1), whole)
    top, left, heights, widths = boxes.float().unbind(1)
    rows = weights(top, heights, stored, size)[:, None]
    columns = weights(left, widths, stored, size, flip)[:, None]
    return (rows @ pixels.float() @ columns.mT).round().clamp(0, 255).to(torch.uint8)
