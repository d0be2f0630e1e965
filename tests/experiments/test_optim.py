"""Which parameters decay: as published for the models of configs/, and no bias, norm, scale, token or position of others."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from experiments.config import loading
from experiments.config.schema import ModelConfig
from experiments.training import models
from experiments.training.optim import weight_decay_groups

PUBLISHED = {"cls_token", "pos_embed", "pos_embedding", "dist_token", "reg_token"}
"""The rule under which results/ were made: these names, and whatever has one dimension."""


def names_of(model: nn.Module) -> list[list[str]]:
    """Names of the decayed parameters and of the free ones, in their order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(entry)] for entry in group["params"]] for group in weight_decay_groups(model, 0.05)]  # type: ignore[attr-defined]


def on_meta(name: str) -> nn.Module:
    """The model of a file as it is before any weights are read, at a size that it takes."""
    config: ModelConfig = loading.load_part("models", name)
    plain = config.model_copy(update={"init": "from_scratch", "weights": None})
    size = 224 if "p16" in name or name.startswith("resnet50") else 32
    with torch.device("meta"):
        return models.build(name, plain, image_size=size, in_channels=3, num_classes=10)[0]


@pytest.mark.parametrize("name", loading.names("models"))
def test_groups_of_published_models_are_as_they_were(name: str) -> None:
    model = on_meta(name)
    decayed, free = list[str](), list[str]()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim <= 1 or key.rpartition(".")[2] in PUBLISHED else decayed).append(key)
    assert names_of(model) == [decayed, free] and decayed and free


@pytest.mark.parametrize(
    ("name", "exempt"),
    [
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_bias_table"),
        ("swinv2_tiny_window8_256", "layers.0.blocks.0.attn.cpb_mlp.0.weight"),
        ("levit_128s", "stages.0.blocks.0.attn.attention_biases"),
        ("botnet26t_256", "stages.2.1.self_attn.pos_embed.height_rel"),
        ("crossvit_9_240", "cls_token_1"),
        ("visformer_tiny", "pos_embed2"),
        ("resmlp_12_224", "blocks.0.norm1.alpha"),
        ("fastvit_t8", "stages.0.blocks.0.layer_scale.gamma"),
        ("xcit_nano_12_p16_224", "pos_embed.token_projection.weight"),  # by a pattern of the model's own
        ("twins_svt_small", "pos_block.0.proj.0.weight"),
    ],
)
def test_groups_of_other_models_exempt_what_timm_does_and_more(name: str, exempt: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    decayed, free = map(set, names_of(model))
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    own = getattr(model, "no_weight_decay", set)()
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=own)
    timms = {names[id(entry)] for group in groups if not group["weight_decay"] for entry in group["params"]}
    assert timms <= free and exempt in free
    assert {key for key in decayed if key.rpartition(".")[2] == "weight"} == decayed  # matrices and kernels alone


def test_a_wrapped_model_keeps_what_it_names() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.special, self.layer = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
            self.position_embedding, self.normalised = nn.Embedding(4, 3), nn.LayerNorm((3, 3))

        def no_weight_decay(self) -> set[str]:
            return {"special.*"}

    assert names_of(nn.Sequential(Named())) == [
        ["0.layer.weight"],
        ["0.special.weight", "0.layer.bias", "0.position_embedding.weight", "0.normalised.weight", "0.normalised.bias"],
    ]
