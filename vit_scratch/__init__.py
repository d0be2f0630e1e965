"""The Vision Transformer of arXiv:2010.11929, from its four equations; needs nothing of the rest of this project."""

from . import attention, layouts, weights
from .variants import VARIANTS, Variant, build
from .vit import MLP, EncoderBlock, MultiHeadSelfAttention, PatchEmbedding, StochasticDepth, VisionTransformer

__all__ = [
    "MLP",
    "VARIANTS",
    "EncoderBlock",
    "MultiHeadSelfAttention",
    "PatchEmbedding",
    "StochasticDepth",
    "Variant",
    "VisionTransformer",
    "attention",
    "build",
    "layouts",
    "weights",
]
