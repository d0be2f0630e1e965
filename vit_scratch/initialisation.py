"""Initial weights of the Vision Transformer, in the two ways that published results rest on."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

TRUNCATED_NORMAL_STD = 0.87962566103423978
"""Standard deviation of a unit normal distribution that is cut at ± 2."""


def initialise_like_timm(model: nn.Module) -> None:
    """Draw weights from the distributions of timm's VisionTransformer with its default ``weight_init=""``.

    Linear weights and position embedding come from a normal distribution of std 0.02, cut at ± 2, which at this std never
    happens; the class token from one of std 1e-6; linear biases are 0; the patch projection keeps PyTorch's own draw.
    """
    nn.init.trunc_normal_(model.get_parameter("embedding.pos_embedding"), std=0.02)
    nn.init.normal_(model.get_parameter("embedding.cls_token"), std=1e-6)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_like_paper(model: nn.Module) -> None:
    """Draw weights as the authors' JAX code does (google-research/vision_transformer, models_vit.py).

    Xavier-uniform linear weights (queries, keys and values each as a matrix of its own), MLP biases of std 1e-6, a
    LeCun-normal patch projection, position embedding of std 0.02, all else 0, head included.
    """
    nn.init.normal_(model.get_parameter("embedding.pos_embedding"), std=0.02)
    nn.init.zeros_(model.get_parameter("embedding.cls_token"))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            _lecun_normal(layer.weight)
            nn.init.zeros_(layer.get_parameter("bias"))
        elif isinstance(layer, nn.Linear):
            weight = layer.weight.detach()
            for matrix in weight.chunk(3) if name.endswith(".qkv") else [weight]:
                nn.init.xavier_uniform_(matrix)
            if name.endswith((".fc1", ".fc2")):
                nn.init.normal_(layer.bias, std=1e-6)
            elif layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.zeros_(model.get_parameter("head.weight"))


def _lecun_normal(weight: Tensor) -> None:
    """Normal of variance 1 / fan-in after truncation at ± 2 standard deviations, flax's default for convolutions."""
    std = 1 / math.sqrt(weight[0].numel()) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


INITIALISERS: dict[str, Callable[[nn.Module], None]] = {"timm": initialise_like_timm, "paper": initialise_like_paper}
