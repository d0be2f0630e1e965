"""How others name and shape the weights of a Vision Transformer, one visible table per layout.

A table maps a name of ours to a name of theirs. ``{i}`` is the block's index, ``{leaf}`` weight or bias, and ``{part}`` in a
name of theirs says that queries, keys and values are kept apart there, where ours are the three thirds of one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .vit import VisionTransformer

PARTS = ("query", "key", "value")

TIMM = {
    "embedding.cls_token": "cls_token",
    "embedding.pos_embedding": "pos_embed",
    "embedding.projection.{leaf}": "patch_embed.proj.{leaf}",
    "blocks.{i}.norm1.{leaf}": "blocks.{i}.norm1.{leaf}",
    "blocks.{i}.attention.qkv.{leaf}": "blocks.{i}.attn.qkv.{leaf}",
    "blocks.{i}.attention.projection.{leaf}": "blocks.{i}.attn.proj.{leaf}",
    "blocks.{i}.norm2.{leaf}": "blocks.{i}.norm2.{leaf}",
    "blocks.{i}.mlp.fc1.{leaf}": "blocks.{i}.mlp.fc1.{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "blocks.{i}.mlp.fc2.{leaf}",
    "norm.{leaf}": "norm.{leaf}",
    "head.{leaf}": "head.{leaf}",
}
"""timm's ``VisionTransformer``."""

TIMM_MEAN = TIMM | {"norm.{leaf}": "fc_norm.{leaf}"}
"""The same with ``global_pool="avg"``, where the final norm follows the mean."""

TORCHVISION = {
    "embedding.cls_token": "class_token",
    "embedding.pos_embedding": "encoder.pos_embedding",
    "embedding.projection.{leaf}": "conv_proj.{leaf}",
    "blocks.{i}.norm1.{leaf}": "encoder.layers.encoder_layer_{i}.ln_1.{leaf}",
    "blocks.{i}.attention.qkv.{leaf}": "encoder.layers.encoder_layer_{i}.self_attention.in_proj_{leaf}",
    "blocks.{i}.attention.projection.{leaf}": "encoder.layers.encoder_layer_{i}.self_attention.out_proj.{leaf}",
    "blocks.{i}.norm2.{leaf}": "encoder.layers.encoder_layer_{i}.ln_2.{leaf}",
    "blocks.{i}.mlp.fc1.{leaf}": "encoder.layers.encoder_layer_{i}.mlp.0.{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "encoder.layers.encoder_layer_{i}.mlp.3.{leaf}",
    "norm.{leaf}": "encoder.ln.{leaf}",
    "head.{leaf}": "heads.head.{leaf}",
}
"""torchvision's ``VisionTransformer``."""

HF = {
    "embedding.cls_token": "vit.embeddings.cls_token",
    "embedding.pos_embedding": "vit.embeddings.position_embeddings",
    "embedding.projection.{leaf}": "vit.embeddings.patch_embeddings.projection.{leaf}",
    "blocks.{i}.norm1.{leaf}": "vit.encoder.layer.{i}.layernorm_before.{leaf}",
    "blocks.{i}.attention.qkv.{leaf}": "vit.encoder.layer.{i}.attention.attention.{part}.{leaf}",
    "blocks.{i}.attention.projection.{leaf}": "vit.encoder.layer.{i}.attention.output.dense.{leaf}",
    "blocks.{i}.norm2.{leaf}": "vit.encoder.layer.{i}.layernorm_after.{leaf}",
    "blocks.{i}.mlp.fc1.{leaf}": "vit.encoder.layer.{i}.intermediate.dense.{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "vit.encoder.layer.{i}.output.dense.{leaf}",
    "norm.{leaf}": "vit.layernorm.{leaf}",
    "head.{leaf}": "classifier.{leaf}",
}
"""Checkpoint files of transformers' ``ViTForImageClassification``, whose norms have ``norm_eps=1e-12``."""

NPZ = {
    "embedding.cls_token": "cls",
    "embedding.pos_embedding": "Transformer/posembed_input/pos_embedding",
    "embedding.projection.{leaf}": "embedding/{leaf}",
    "blocks.{i}.norm1.{leaf}": "Transformer/encoderblock_{i}/LayerNorm_0/{leaf}",
    "blocks.{i}.attention.qkv.{leaf}": "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/{part}/{leaf}",
    "blocks.{i}.attention.projection.{leaf}": "Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/out/{leaf}",
    "blocks.{i}.norm2.{leaf}": "Transformer/encoderblock_{i}/LayerNorm_2/{leaf}",
    "blocks.{i}.mlp.fc1.{leaf}": "Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "Transformer/encoderblock_{i}/MlpBlock_3/Dense_1/{leaf}",
    "norm.{leaf}": "Transformer/encoder_norm/{leaf}",
    "head.{leaf}": "head/{leaf}",
}
"""Files of the authors' JAX code (google-research/vision_transformer): `weight` is `kernel` there, and `scale` in norms."""

LAYOUTS = {"timm": TIMM, "torchvision": TORCHVISION, "hf": HF, "npz": NPZ}

RENAMED = {
    "hf": (
        ("vit.layers.", "vit.encoder.layer."),
        (".attention.q_proj.", ".attention.attention.query."),
        (".attention.k_proj.", ".attention.attention.key."),
        (".attention.v_proj.", ".attention.attention.value."),
        (".attention.o_proj.", ".attention.output.dense."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    ),
    "npz": (("opt/target/", ""),),
}
"""Other spellings that are read as the table's: transformers ≥ 5 in memory, and checkpoints saved with their optimiser."""


class Form(NamedTuple):
    """A change of axes. `theirs` takes a tensor of ours and the number of heads H; `ours` is its inverse."""

    theirs: Callable[[Tensor, int], Tensor]
    ours: Callable[[Tensor], Tensor]


SAME = Form(lambda ours, heads: ours, lambda theirs: theirs)

NPZ_FORMS = {
    "embedding.projection.weight": Form(  # D C height width ↔ height width C D
        lambda ours, heads: ours.permute(2, 3, 1, 0), lambda theirs: theirs.permute(3, 2, 0, 1)
    ),
    "attention.qkv.weight": Form(  # (H K) D ↔ D H K
        lambda ours, heads: ours.t().unflatten(1, (heads, -1)), lambda theirs: theirs.flatten(1).t()
    ),
    "attention.qkv.bias": Form(  # (H K) ↔ H K
        lambda ours, heads: ours.unflatten(0, (heads, -1)), lambda theirs: theirs.flatten()
    ),
    "attention.projection.weight": Form(  # D (H K) ↔ H K D
        lambda ours, heads: ours.t().unflatten(0, (heads, -1)), lambda theirs: theirs.flatten(0, 1).t()
    ),
    "mlp.fc1.weight": Form(lambda ours, heads: ours.t(), lambda theirs: theirs.t()),
    "mlp.fc2.weight": Form(lambda ours, heads: ours.t(), lambda theirs: theirs.t()),
    "head.weight": Form(lambda ours, heads: ours.t(), lambda theirs: theirs.t()),
}
"""JAX multiplies from the right and gives heads an axis of their own; what is not listed has the same axes."""


class Row(NamedTuple):
    """One parameter of ours and the one or three of theirs that make it up."""

    ours: str
    theirs: tuple[str, ...]
    form: Form


def rows(model: VisionTransformer, layout: str) -> list[Row]:
    """Write a layout's table out for the parameters that a model has.

    Raises
    ------
    ValueError
        If there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    table = TIMM_MEAN if layout == "timm" and model.pool == "mean" else LAYOUTS[layout]
    parameters = dict(model.named_parameters())
    names = [(name, layer) for name in table for layer in (range(len(model.blocks)) if "{i}" in name else [0])]
    written = []
    for name, index in names:
        for leaf in ("weight", "bias") if "{leaf}" in name else ("",):
            ours = name.format(i=index, leaf=leaf)
            if ours in parameters:
                parts = PARTS if "{part}" in table[name] else ("",)
                spelled = _jax_leaf(name, leaf) if layout == "npz" else leaf
                theirs = tuple(table[name].format(i=index, leaf=spelled, part=part) for part in parts)
                shape = name.removeprefix("blocks.{i}.").format(leaf=leaf)
                written.append(Row(ours, theirs, NPZ_FORMS.get(shape, SAME) if layout == "npz" else SAME))
    return written


def _jax_leaf(name: str, leaf: str) -> str:
    return leaf if leaf != "weight" else "scale" if "norm" in name else "kernel"
