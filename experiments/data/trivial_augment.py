"""TrivialAugment (Müller & Hutter, arXiv 2103.10158), one operation of random strength per image, and RandAugment (Cubuk et
al., arXiv 1909.13719), several of one strength.

The operations and ranges are the paper's wide space at 31 strengths, as torchvision has it. Each image of a batch has an
operation and a magnitude of its own; the images of one operation are changed together.

Shapes: ``n`` images of one operation, ``C`` channels, ``H`` and ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

STRENGTHS = 31
"""Values that a strength is drawn from, evenly spaced over an operation's range."""


# ------------------------------------------------------------------------------------------------------------- geometry
def _warped(images: Tensor, matrix: Tensor) -> Tensor:
    """Nearest-neighbour sampling at ``matrix`` (n, 2, 3) · (x, y, 1), in pixels from the centre; 0 beyond the border."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device, dtype=torch.float32) - (width - 1) / 2
    y = torch.arange(height, device=images.device, dtype=torch.float32) - (height - 1) / 2
    points = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones_like(x).repeat(height)], dim=-1)  # HW 3
    scale = torch.tensor([width / 2, height / 2], device=images.device)
    grid = points @ (matrix.transpose(1, 2) / scale)  # n HW 2
    grid = grid.view(-1, height, width, 2)
    return grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).to(torch.uint8)


def _matrix(n: Tensor, **entries: Tensor) -> Tensor:
    """The identity (n, 2, 3) with some entries replaced: ``xx``, ``xy``, ``x`` in the first row, ``yx``, ``yy``, ``y``."""
    matrix = torch.zeros(len(n), 2, 3, device=n.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1.0
    places = {"xx": (0, 0), "xy": (0, 1), "x": (0, 2), "yx": (1, 0), "yy": (1, 1), "y": (1, 2)}
    for name, values in entries.items():
        matrix[:, places[name][0], places[name][1]] = values
    return matrix


def shear_x(images: Tensor, m: Tensor) -> Tensor:
    """Row y is shifted by m·y; the upper edge stays."""
    return _warped(images, _matrix(m, xy=m, x=m * (images.shape[-2] / 2)))


def shear_y(images: Tensor, m: Tensor) -> Tensor:
    """Column x is shifted by m·x; the left edge stays."""
    return _warped(images, _matrix(m, yx=m, y=m * (images.shape[-1] / 2)))


def translate_x(images: Tensor, m: Tensor) -> Tensor:
    """Move right by m pixels, cut to a whole number."""
    return _warped(images, _matrix(m, x=-m.trunc()))


def translate_y(images: Tensor, m: Tensor) -> Tensor:
    """Move down by m pixels, cut to a whole number."""
    return _warped(images, _matrix(m, y=-m.trunc()))


def rotate(images: Tensor, m: Tensor) -> Tensor:
    """Turn by m degrees, counter-clockwise, around the centre."""
    cos, sin = m.deg2rad().cos(), m.deg2rad().sin()
    return _warped(images, _matrix(m, xx=cos, xy=-sin, yx=sin, yy=cos))


# --------------------------------------------------------------------------------------------------------------- colour
def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _blended(images: Tensor, other: Tensor | float, m: Tensor) -> Tensor:
    """(1 + m)·images − m·other, cut to [0, 255]."""
    ratio = _per_image(1.0 + m)
    return (ratio * images + (1.0 - ratio) * other).clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) in whole numbers, (n, 1, H, W) uint8; grey images are their own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def brightness(images: Tensor, m: Tensor) -> Tensor:
    """Away from black by 1 + m."""
    return _blended(images, 0.0, m)


def color(images: Tensor, m: Tensor) -> Tensor:
    """Away from grey by 1 + m; grey images stay as they are."""
    return images if images.shape[1] == 1 else _blended(images, _grey(images), m)


def contrast(images: Tensor, m: Tensor) -> Tensor:
    """Away from the mean grey of the image by 1 + m."""
    return _blended(images, _grey(images).float().mean(dim=(1, 2, 3), keepdim=True), m)


def sharpness(images: Tensor, m: Tensor) -> Tensor:
    """Away from the image smoothed by [1 1 1; 1 5 1; 1 1 1] / 13 inside the border, by 1 + m."""
    smooth = images.float()
    smooth[..., 1:-1, 1:-1] = ((9 * avg_pool2d(smooth, 3, 1) + 4 * smooth[..., 1:-1, 1:-1]) / 13).round()
    return _blended(images, smooth, m)


def posterize(images: Tensor, m: Tensor) -> Tensor:
    """Keep the m highest bits."""
    return images & _per_image(256 - 2 ** (8 - m)).to(torch.uint8)


def solarize(images: Tensor, m: Tensor) -> Tensor:
    """Invert pixels from m on."""
    return torch.where(images >= _per_image(m), 255 - images, images)


def autocontrast(images: Tensor, m: Tensor) -> Tensor:
    """Stretch each channel to [0, 255]; a channel of one value stays."""
    low, high = (getattr(images, edge)(dim=(2, 3), keepdim=True).float() for edge in ("amin", "amax"))
    flat = low == high
    low, scale = low.masked_fill(flat, 0.0), 255 / (high - low)
    return ((images - low) * scale.masked_fill(flat, 1.0)).clamp(0, 255).to(torch.uint8)


def equalize(images: Tensor, m: Tensor) -> Tensor:
    """Flatten the histogram of each channel, as Pillow's ImageOps.equalize does."""
    values = images.flatten(0, 1).flatten(1).long()  # nC HW
    histogram = torch.zeros(len(values), 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    last = histogram.gather(1, values.amax(1, keepdim=True))  # pixels of the highest value, which do not count
    step = (values.shape[1] - last) // 255
    table = (histogram.cumsum(1) + step // 2) // step.clamp(min=1)
    table = torch.cat([torch.zeros_like(last), table[:, :-1]], dim=1).clamp(0, 255)
    levels = torch.where(step == 0, values, table.gather(1, values))
    return levels.to(torch.uint8).view(images.shape)


# ------------------------------------------------------------------------------------------------------------ the space
class Operation(NamedTuple):
    """A change of uint8 images (n, C, H, W) by magnitudes (n,), and the magnitudes at the 31 strengths."""

    apply: Callable[[Tensor, Tensor], Tensor]
    magnitudes: NDArray[np.float64]
    signed: bool
    """Whether the magnitude is negated with probability ½."""


def _range(low: float, high: float) -> NDArray[np.float64]:
    return np.linspace(low, high, STRENGTHS)


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(lambda images, m: images, _range(0, 0), False),
    "shear_x": Operation(shear_x, _range(0, 0.99), True),
    "shear_y": Operation(shear_y, _range(0, 0.99), True),
    "translate_x": Operation(translate_x, _range(0, 32), True),
    "translate_y": Operation(translate_y, _range(0, 32), True),
    "rotate": Operation(rotate, _range(0, 135), True),
    "brightness": Operation(brightness, _range(0, 0.99), True),
    "color": Operation(color, _range(0, 0.99), True),
    "contrast": Operation(contrast, _range(0, 0.99), True),
    "sharpness": Operation(sharpness, _range(0, 0.99), True),
    "posterize": Operation(posterize, 8 - np.rint(np.arange(STRENGTHS) / ((STRENGTHS - 1) / 6)), False),
    "solarize": Operation(solarize, _range(255, 0), False),
    "autocontrast": Operation(autocontrast, _range(0, 0), False),
    "equalize": Operation(equalize, _range(0, 0), False),
}
_MAGNITUDES = np.stack([operation.magnitudes for operation in OPERATIONS.values()])
_SIGNED = np.array([operation.signed for operation in OPERATIONS.values()])


class Choice(NamedTuple):
    """An operation (its place in `OPERATIONS`) and a magnitude for every image of a batch, shape (B,) each."""

    operation: NDArray[np.int64]
    magnitude: NDArray[np.float64]


def draw(rng: np.random.Generator, batch_size: int) -> Choice:
    """Draw operation, strength and sign of every image, each uniformly."""
    operation = rng.integers(0, len(OPERATIONS), batch_size)
    strength = rng.integers(0, STRENGTHS, batch_size)
    negated = (rng.random(batch_size) < 0.5) & _SIGNED[operation]
    return Choice(operation, np.where(negated, -1.0, 1.0) * _MAGNITUDES[operation, strength])


def draw_rand(rng: np.random.Generator, batch_size: int, strength: int, size: int) -> Choice:
    """Draw an operation of RandAugment and its sign for every image, each uniformly, at one strength of 0 to 30."""
    share = strength / (STRENGTHS - 1)
    most = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331 * size, "translate_y": 150 / 331 * size, "rotate": 30}
    most |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.9)
    magnitudes = {name: most.get(name, 0) * share for name in OPERATIONS}
    magnitudes |= {"posterize": 8 - np.rint(4 * share), "solarize": 255 * (1 - share)}
    operation = rng.integers(0, len(OPERATIONS), batch_size)
    negated = (rng.random(batch_size) < 0.5) & _SIGNED[operation]
    return Choice(operation, np.where(negated, -1.0, 1.0) * np.array(list(magnitudes.values()))[operation])


def apply(images: Tensor, choice: Choice, to_device: Callable[[NDArray[np.generic]], Tensor]) -> Tensor:
    """Change uint8 images (B, C, H, W), each by its own operation. The input is left as it is.

    Which images share an operation is known on the CPU, so that no size depends on the device.
    """
    order = np.argsort(choice.operation, kind="stable")
    places = to_device(order.astype(np.int64))
    magnitudes = to_device(choice.magnitude[order].astype(np.float32))
    bounds = np.searchsorted(choice.operation[order], np.arange(len(OPERATIONS) + 1)).tolist()
    result = images.clone()
    for number, operation in enumerate(OPERATIONS.values()):
        start, stop = bounds[number], bounds[number + 1]
        if start < stop and number:  # the first operation changes nothing
            members = places[start:stop]
            result[members] = operation.apply(images[members], magnitudes[start:stop])
    return result
