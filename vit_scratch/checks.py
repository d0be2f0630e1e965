"""Checks of a model's arguments: each raises a ValueError that names the argument, its value and the way out."""

from __future__ import annotations

from collections.abc import Sequence

Size = int | Sequence[int]
"""Pixels of a side, or height and width."""


def pair(name: str, size: Size) -> tuple[int, int]:
    """Return height and width of a size that is one number or two, each at least 1 pixel."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"{name} must be a number of pixels ≥ 1, or height and width, got {size!r}")
    return sides[0], sides[1]


def check_sizes(image_size: tuple[int, int], patch_size: tuple[int, int], dim: int, num_heads: int) -> None:
    """Require that patches divide the image, side by side, and that heads divide the width; name the divisors."""
    for side, image, patch in zip(("height", "width"), image_size, patch_size, strict=True):
        if image % patch:
            whole = f"image_size {image}" if image_size[0] == image_size[1] else f"image_size {image_size} ({side} {image})"
            raise ValueError(
                f"{whole} is not divisible by patch_size {patch}; choose a patch_size among {_divisors(image)}, or resize "
                f"the images to {max(image // patch, 1) * patch} or {(image // patch + 1) * patch} pixels"
            )
    if dim % num_heads:
        raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}; choose num_heads among {_divisors(dim)}")


def check_counts(**counts: float) -> None:
    """Require whole numbers of at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number ≥ 1, got {count!r}")


def check_rates(**rates: float) -> None:
    """Require probabilities below 1, since dropping everything leaves nothing to learn from."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {rate!r}; 0 switches it off")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Require one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
