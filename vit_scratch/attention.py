"""What a Vision Transformer looks at: attention followed through all blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vit_scratch.vit import VisionTransformer

MOST_WEIGHTS = 2**25
"""Attention weights of all blocks and heads that are held at once: 128 MiB in single precision."""


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Attention rollout: how much of every token's final state comes from each token of the input.

    Heads are averaged, the residual connection is an identity of the same weight, rows are brought back to sum 1, and the
    blocks' matrices are multiplied. Source: Abnar & Zuidema, arXiv:2005.00928, section 3; used for Figure 6 of
    arXiv:2010.11929 (appendix D.7).

    Parameters
    ----------
    maps : sequence of Tensor
        Attention weights of the blocks in order, each B × H × N × N, as `VisionTransformer.attention_maps` gives them;
        a ValueError without any.

    Returns
    -------
    Tensor
        B × N × N, rows summing to 1.
    """
    if not maps:
        raise ValueError("rollout needs the attention weights of at least one block")
    identity = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    total = identity.expand(maps[0].shape[0], -1, -1)
    for weights in maps:
        mixed = (weights.mean(dim=1) + identity) / 2  # B H N N → B N N; rows of both sum to 1
        total = mixed @ total
    return total


def class_token_map(maps: Sequence[Tensor], grid_size: tuple[int, int]) -> Tensor:
    """Where the class token's final state comes from, as an image of patches: B × rows × columns.

    `maps` are as in `rollout`, `grid_size` is rows and columns of patches. What the class token keeps of itself is left out,
    and the rest sums to 1.
    """
    patches = rollout(maps)[:, 0, 1:]  # B N N → B (N-1)
    return (patches / patches.sum(dim=1, keepdim=True)).unflatten(1, grid_size)


@torch.inference_mode()
def class_token_maps(model: VisionTransformer, images: Tensor) -> Tensor:
    """`class_token_map` of images B × C × height × width, in parts for which there is room. Call ``eval()`` first."""
    grid_size = model.embedding.grid_size
    of_an_image = len(model.blocks) * model.num_heads * (1 + grid_size[0] * grid_size[1]) ** 2
    parts = images.split(max(1, MOST_WEIGHTS // of_an_image))
    return torch.cat([class_token_map(model.attention_maps(part), grid_size) for part in parts])
