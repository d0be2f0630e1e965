"""Table 1 of the paper as a table, with the smaller variants in common use.

Source: arXiv:2010.11929, Table 1 (Base, Large, Huge); Tiny and Small are those of DeiT, arXiv:2012.12877, Table 1.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from .vit import VisionTransformer


class Variant(NamedTuple):
    """One row: layers of width `dim`, with the MLP `mlp_ratio` times as wide."""

    depth: int
    dim: int
    mlp_ratio: float
    num_heads: int


VARIANTS: dict[str, Variant] = {
    #                      depth  dim  mlp_ratio  num_heads
    "micro":       Variant(4,     64,  2.0,       4),   # 8 px digits
    "small_image": Variant(9,    192,  2.0,       12),  # 32 px, 2.7M parameters
    "tiny":        Variant(12,   192,  4.0,       3),
    "small":       Variant(12,   384,  4.0,       6),
    "base":        Variant(12,   768,  4.0,       12),
    "large":       Variant(24,  1024,  4.0,       16),
    "huge":        Variant(32,  1280,  4.0,       16),
}  # fmt: skip


def build(variant: str, **arguments: Any) -> VisionTransformer:
    """Build a Vision Transformer with a row's values.

    Parameters
    ----------
    variant : str
        A key of `VARIANTS`.
    **arguments
        Arguments of `VisionTransformer`; `image_size` and `patch_size` at least. They win over the row's values.

    Raises
    ------
    ValueError
        If there is no such variant or argument, with the nearest names, or if a value does not fit.
    """
    if variant not in VARIANTS:
        near = difflib.get_close_matches(variant, VARIANTS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown variant {variant!r}: {hint}Known are {', '.join(VARIANTS)}.")
    try:
        return VisionTransformer(**{**VARIANTS[variant]._asdict(), **arguments})
    except TypeError as error:
        raise ValueError(f"variant {variant!r}: {str(error).replace('VisionTransformer.__init__() ', '')}") from error
