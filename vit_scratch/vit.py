"""The Vision Transformer, written from the four equations of its paper and in the paper's order.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
arXiv:2010.11929. Equations 1 to 4 stand in section 3.1, the rules for dropout in appendix B.1.

Shapes::

    B  images in a batch          N  tokens: the class token, then the patches row by row
    C  channels of an image       D  width of a token (`dim`)
    H  attention heads            K  width of a head, D / H
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import Size, check_choice, check_counts, check_rates, check_sizes, pair
from .initialisation import INITIALISERS


class PatchEmbedding(nn.Module):
    """Images to tokens: Equation 1, ``z₀ = [x_class; x¹E; …; xᴺE] + E_pos``.

    A convolution whose kernel and stride are the patch (height and width in pixels) multiplies every flattened patch by the
    same matrix E. Dropout follows the position embedding (appendix B.1).
    """

    def __init__(
        self, image_size: tuple[int, int], patch_size: tuple[int, int], in_channels: int, dim: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.in_channels = in_channels
        self.grid_size = (image_size[0] // patch_size[0], image_size[1] // patch_size[1])
        self.projection = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1 + self.grid_size[0] * self.grid_size[1], dim))
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images of shape B × C × height × width as tokens of shape B × N × D.

        Raises
        ------
        ValueError
            If the images have another size or another number of channels than the model was built for.
        """
        expected = (self.in_channels, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images of shape (batch, channels, height, width) = (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(images.shape)}; resize the images, or build the model with their `image_size` and `in_channels`"
            )
        patches = self.projection(images).flatten(2).transpose(1, 2)  # B C height width → B D (N-1) → B (N-1) D
        cls_token = self.cls_token.expand(images.shape[0], -1, -1)  # 1 1 D → B 1 D
        tokens: Tensor = self.dropout(torch.cat([cls_token, patches], dim=1) + self.pos_embedding)
        return tokens


class MultiHeadSelfAttention(nn.Module):
    """Every token looks at every token: MSA of Equation 2, appendix A (Equations 5 to 8).

    ``softmax(QKᵀ/√K) V`` per head, by PyTorch's `fused` kernel or by the three readable lines that it stands for; then one
    projection over the concatenated heads, and dropout. Dropout of the attention weights is not in the paper.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused = fused
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attention_dropout = nn.Dropout(attention_drop_rate)
        self.projection = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(drop_rate)

    def _queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Project tokens B × N × D to queries, keys and values, each B × H × N × K."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # B N 3D → B N 3 H K
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)  # B N 3 H K → 3 B H N K → three of B H N K

    def weights(self, tokens: Tensor) -> Tensor:
        """Attention weights before dropout, B × H × N × N: row n says how much token n takes from each token."""
        queries, keys, _ = self._queries_keys_values(tokens)
        return self._softmax(queries, keys)

    @staticmethod
    def _softmax(queries: Tensor, keys: Tensor) -> Tensor:
        return (queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])).softmax(dim=-1)  # B H N K → B H N N

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens B × N × D to tokens B × N × D."""
        queries, keys, values = self._queries_keys_values(tokens)
        if self.fused:
            rate = self.attention_dropout.p if self.training else 0.0
            heads = F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate)
        else:
            heads = self.attention_dropout(self._softmax(queries, keys)) @ values  # B H N N, B H N K → B H N K
        joined = heads.transpose(1, 2).flatten(2)  # B H N K → B N H K → B N D
        mixed: Tensor = self.dropout(self.projection(joined))
        return mixed


class MLP(nn.Sequential):
    """Every token by itself: the MLP of Equation 3, two linear layers with a GELU between them.

    Maps B × N × D to B × N × D by way of `hidden_dim`. Dropout follows both linear layers (appendix B.1).
    """

    def __init__(self, dim: int, hidden_dim: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.gelu = nn.GELU()
        self.dropout1 = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout2 = nn.Dropout(drop_rate)


class StochasticDepth(nn.Module):
    """Leave out a residual branch for a random part of the images while training.

    An image's branch is zeroed with probability `rate`, and scaled by 1 / (1 - rate) otherwise, so that its expectation is
    unchanged. Nothing happens in evaluation. Not in the paper; Huang et al., arXiv:1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Map a branch's output B × N × D to B × N × D."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        return branch * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep).div_(keep)


class EncoderBlock(nn.Module):
    """One layer of the encoder: Equations 2 and 3, each a layer norm, a branch and a residual connection.

    `drop_path_rate` is the probability with which an image skips a branch while training.
    """

    def __init__(
        self, attention: MultiHeadSelfAttention, mlp: MLP, dim: int, *, drop_path_rate: float = 0.0, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.drop_path = StochasticDepth(drop_path_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens B × N × D to tokens B × N × D."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))  # Equation 2
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))  # Equation 3
        return tokens

    def attention_map(self, tokens: Tensor) -> Tensor:
        """Attention weights B × H × N × N that the block gives to tokens B × N × D."""
        return self.attention.weights(self.norm1(tokens))


class VisionTransformer(nn.Module):
    """Images to logits: Equation 1, `depth` times Equations 2 and 3, then Equation 4, ``y = LN(z_L⁰)``, and a linear head.

    The defaults are ViT-Base. What the paper does not have is a named argument, and off by default.

    Parameters
    ----------
    image_size, patch_size : int or (int, int)
        Pixels of a side, or height and width. The patch must divide the image.
    in_channels : int
        Channels C of an image.
    num_classes : int
        Number of logits.
    dim, depth, num_heads : int
        Width D of a token, number of encoder blocks, heads H of each (Table 1).
    mlp_ratio : float
        Width inside the MLP over `dim`.
    pool : {"cls", "mean"}
        What the head reads: the class token after the final norm (Equation 4), or the mean of the patch tokens, which the
        final norm then follows, as in timm's ``global_pool="avg"``. The class token takes part in attention either way.
    drop_rate : float
        Dropout after the embedding and after every linear layer but those to queries, keys and values (appendix B.1).
    attention_drop_rate : float
        Dropout of the attention weights.
    drop_path_rate : float
        Stochastic depth of the last block; the rate rises linearly from 0 at the first.
    qkv_bias : bool
        Whether the projections to queries, keys and values have a bias.
    norm_eps : float
        Added to the variance in layer norms.
    fused_attention : bool
        Use PyTorch's fused attention kernel; False is the readable twin with equal results.
    init : {"timm", "paper"}
        Initial weights as timm's ViT has by default, or as the authors' JAX code has.

    Raises
    ------
    ValueError
        If sizes do not divide, a count is below 1, a rate lies outside [0, 1), or a choice is unknown.
    """

    def __init__(
        self,
        image_size: Size,
        patch_size: Size,
        in_channels: int = 3,
        num_classes: int = 1000,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        *,
        pool: Literal["cls", "mean"] = "cls",
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        fused_attention: bool = True,
        init: Literal["timm", "paper"] = "timm",
    ) -> None:
        super().__init__()
        image_size, patch_size = pair("image_size", image_size), pair("patch_size", patch_size)
        check_counts(dim=dim, depth=depth, num_heads=num_heads, in_channels=in_channels, num_classes=num_classes)
        check_counts(mlp_hidden_dim=int(dim * mlp_ratio) if math.isfinite(mlp_ratio) else mlp_ratio)
        check_sizes(image_size, patch_size, dim, num_heads)
        check_rates(drop_rate=drop_rate, attention_drop_rate=attention_drop_rate, drop_path_rate=drop_path_rate)
        check_choice("pool", pool, ("cls", "mean"))
        check_choice("init", init, tuple(INITIALISERS))
        self.pool = pool
        self.num_heads = num_heads
        self.embedding = PatchEmbedding(image_size, patch_size, in_channels, dim, drop_rate)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                MultiHeadSelfAttention(
                    dim,
                    num_heads,
                    qkv_bias=qkv_bias,
                    drop_rate=drop_rate,
                    attention_drop_rate=attention_drop_rate,
                    fused=fused_attention,
                ),
                MLP(dim, int(dim * mlp_ratio), drop_rate),
                dim,
                drop_path_rate=drop_path_rate * index / max(depth - 1, 1),
                norm_eps=norm_eps,
            )
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.head = nn.Linear(dim, num_classes)
        INITIALISERS[init](self)

    def forward_features(self, images: Tensor) -> Tensor:
        """Encode images B × C × height × width as tokens B × N × D, the class token first.

        The final norm has been applied where the class token is read; with ``pool="mean"`` it comes after the mean.
        """
        tokens: Tensor = self.embedding(images)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens) if self.pool == "cls" else tokens

    def forward(self, images: Tensor) -> Tensor:
        """Classify images B × C × height × width: logits B × `num_classes`."""
        tokens = self.forward_features(images)
        pooled = tokens[:, 0] if self.pool == "cls" else self.norm(tokens[:, 1:].mean(dim=1))  # B N D → B D
        logits: Tensor = self.head(pooled)  # B D → B num_classes
        return logits

    def attention_maps(self, images: Tensor) -> list[Tensor]:
        """Attention weights of every block, each B × H × N × N, rows summing to 1; computed without the fused kernel.

        Call ``eval()`` first: dropout and stochastic depth change what later blocks see.
        """
        tokens = self.embedding(images)
        maps: list[Tensor] = []
        for block in cast(Iterable[EncoderBlock], self.blocks):
            maps.append(block.attention_map(tokens))
            tokens = block(tokens)
        return maps
