"""Stems for small images: one rule for every convolutional family.

A stem made for 224 pixels shrinks an image by 2 or 4 before the first block looks at it, which leaves little of 32 pixels
and nothing of 8. The rule here, that of ResNets on CIFAR (He et al., arXiv:1512.03385, section 4.2): the stem keeps the
image's full resolution, by a 3×3 convolution of stride 1 where the published stem is larger, and everything after the stem
is as published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models import ConvNeXt, EfficientNet, MobileNetV3, ResNet
from torch import nn


def resnet_stem(model: Any) -> str:
    """Put one 3×3 convolution in place of the stem's convolutions, and take the max-pooling out."""
    model.conv1 = _full_resolution(model.conv1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return "3×3 convolution, stride 1, no max-pooling"


def convnext_stem(model: Any) -> str:
    """Put one 3×3 convolution in place of the patchifying ones; the layer norm behind it stays."""
    convolution = _full_resolution(model.stem, bias=True)
    nn.init.trunc_normal_(convolution.weight, std=0.02)
    nn.init.zeros_(convolution.get_parameter("bias"))
    model.stem = nn.Sequential(convolution, model.stem[-1])
    return "3×3 convolution, stride 1, instead of patches"


def efficientnet_stem(model: Any) -> str:
    """Set the stride of the stem's convolution, which is small already, from 2 to 1."""
    height, width = model.conv_stem.kernel_size
    model.conv_stem.stride = (1, 1)
    return f"{height}×{width} convolution, stride 1"


SMALL_STEMS: dict[type[nn.Module], Callable[[Any], str]] = {
    ResNet: resnet_stem,
    ConvNeXt: convnext_stem,
    EfficientNet: efficientnet_stem,
    MobileNetV3: efficientnet_stem,
}
"""Family of timm → the function that changes a model's stem in place and returns what it did, in words."""


def _full_resolution(stem: nn.Module, *, bias: bool) -> nn.Conv2d:
    """Return a 3×3 convolution of stride 1 from the stem's input channels to its output channels."""
    convolutions = [layer for layer in stem.modules() if isinstance(layer, nn.Conv2d)]
    return nn.Conv2d(convolutions[0].in_channels, convolutions[-1].out_channels, 3, stride=1, padding=1, bias=bias)
