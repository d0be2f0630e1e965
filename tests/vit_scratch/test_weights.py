"""Weights of others: equal logits in both directions, and one clear message where they do not fit."""

import importlib.util
import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import VisionTransformer as TorchvisionViT

import vit_scratch
from tests.vit_scratch.conftest import SAME
from vit_scratch import VisionTransformer, weights

LAYOUTS = ["timm", "torchvision", "hf", "npz"]
SHAPE = {"image_size": 16, "patch_size": 4, "num_classes": 5, "dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}


def scratch(seed=0, **arguments) -> VisionTransformer:
    """A model with every weight drawn, so that none can be lost unseen."""
    return drawn(VisionTransformer(**{**SHAPE, **arguments}), seed)


def drawn(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def timm_vit(seed=0, **arguments):
    geometry = {"img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 32, "depth": 3, "num_heads": 4}
    return drawn(timm.create_model("vit_tiny_patch16_224", mlp_ratio=2.0, **geometry, **arguments), seed)


def torchvision_vit(seed=0):
    geometry = {"image_size": 16, "patch_size": 4, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
    return drawn(TorchvisionViT(num_classes=5, **geometry), seed)


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(9))


def assert_equal_logits(one, two, images):
    with torch.no_grad():
        assert (one(images) - two(images)).abs().max().item() <= SAME


@pytest.mark.parametrize(
    ("layout", "make"),
    [("timm", timm_vit), ("torchvision", torchvision_vit)],
)
def test_equal_logits_both_ways(layout, make, images):
    assert_equal_logits(weights.load(scratch(1), make(2).state_dict(), layout), make(2), images)
    ours, theirs = scratch(1), make(2)
    theirs.load_state_dict(weights.export(ours, layout))
    assert_equal_logits(ours, theirs, images)


@pytest.mark.parametrize("arguments", [{"pool": "mean"}, {"qkv_bias": False}])
def test_timms_options_both_ways(arguments, images):
    timm_arguments = {"global_pool": "avg"} if "pool" in arguments else arguments
    theirs = timm_vit(2, **timm_arguments)
    assert_equal_logits(weights.load(scratch(1, **arguments), theirs.state_dict(), "timm"), theirs, images)
    ours = scratch(3, **arguments)
    theirs.load_state_dict(weights.export(ours, "timm"))
    assert_equal_logits(ours, theirs, images)


def test_npz_is_read_by_timms_own_loader_for_the_authors_files(tmp_path, images):
    ours, theirs = scratch(1), timm_vit(2)
    exported = weights.export(ours, "npz")
    prefix = "Transformer/encoderblock_2/MultiHeadDotProductAttention_1"
    assert exported[f"{prefix}/query/kernel"].shape == (32, 4, 8)
    assert exported[f"{prefix}/out/kernel"].shape == (4, 8, 32)
    assert exported["embedding/kernel"].shape == (4, 4, 3, 32)
    np.savez(tmp_path / "vit.npz", **exported)
    theirs.load_pretrained(str(tmp_path / "vit.npz"))
    assert_equal_logits(ours, theirs, images)
    with_optimiser = {f"opt/target/{name}": array for name, array in exported.items()}
    assert_equal_logits(weights.load(scratch(4), with_optimiser, "npz"), theirs, images)


def test_transformers_names():
    """The names in a checkpoint file of ViTForImageClassification, written by hand, with their shapes."""
    block = "vit.encoder.layer.{}."
    expected = {
        "vit.embeddings.cls_token": (1, 1, 32),
        "vit.embeddings.position_embeddings": (1, 17, 32),
        "vit.embeddings.patch_embeddings.projection.weight": (32, 3, 4, 4),
        "vit.embeddings.patch_embeddings.projection.bias": (32,),
        "vit.layernorm.weight": (32,),
        "vit.layernorm.bias": (32,),
        "classifier.weight": (5, 32),
        "classifier.bias": (5,),
    }
    layers = {
        "attention.attention.query": (32, 32),
        "attention.attention.key": (32, 32),
        "attention.attention.value": (32, 32),
        "attention.output.dense": (32, 32),
        "intermediate.dense": (64, 32),
        "output.dense": (32, 64),
    }
    for index in range(3):
        for norm in ("layernorm_before", "layernorm_after"):
            expected |= {f"{block.format(index)}{norm}.{leaf}": (32,) for leaf in ("weight", "bias")}
        for layer, shape in layers.items():
            expected |= {f"{block.format(index)}{layer}.weight": shape, f"{block.format(index)}{layer}.bias": shape[:1]}
    ours = scratch(1)
    exported = weights.export(ours, "hf")
    assert {name: tuple(tensor.shape) for name, tensor in exported.items()} == expected
    thirds = [exported[f"vit.encoder.layer.1.attention.attention.{part}.weight"] for part in ("query", "key", "value")]
    assert torch.equal(torch.cat(thirds), ours.blocks[1].attention.qkv.weight)


def test_transformers_5_names_are_read_as_well(images):
    ours = scratch(1)
    exported = weights.export(ours, "hf")
    prefix = "vit.encoder.layer.0."
    renamed = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "layernorm_before",
        "layernorm_after": "layernorm_after",
    }
    for old, new in renamed.items():
        for leaf in ("weight", "bias"):
            exported[f"vit.layers.0.{new}.{leaf}"] = exported.pop(f"{prefix}{old}.{leaf}")
    assert_equal_logits(weights.load(scratch(2), exported, "hf"), ours, images)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_equal_logits_with_transformers(tmp_path, images):
    from transformers import ViTConfig, ViTForImageClassification

    geometry = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    theirs = drawn(ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=5, **geometry)), 2)
    theirs.save_pretrained(tmp_path)
    ours = weights.load(scratch(1, norm_eps=1e-12), tmp_path / "model.safetensors", "hf")
    assert_equal_logits(ours, lambda batch: theirs(batch).logits, images)
    ours = scratch(3, norm_eps=1e-12)
    save_file(weights.export(ours, "hf"), tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs = ViTForImageClassification.from_pretrained(tmp_path).double().eval()
    assert_equal_logits(ours, lambda batch: theirs(batch).logits, images)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_is_exact_and_exports_are_copies(layout, images):
    ours = scratch(1)
    exported = weights.export(ours, layout)
    other = weights.load(scratch(2), exported, layout)
    for (name, one), two in zip(ours.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
    for value in exported.values():
        value[...] = 7
    assert torch.equal(ours(images), other(images))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".npz"])
def test_files(suffix, tmp_path, images):
    ours, path = scratch(1), tmp_path / f"weights{suffix}"
    exported = weights.export(ours, "timm")
    if suffix == ".safetensors":
        save_file(exported, path)
    elif suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in exported.items()})
    else:
        torch.save(exported, path)
    assert_equal_logits(weights.load(scratch(2), path, "timm"), ours, images)
    assert_equal_logits(weights.load(scratch(2), str(path), "timm"), ours, images)


@pytest.mark.parametrize("image_size", [(8, 8), (24, 40)])
def test_position_embeddings_are_interpolated_as_timm_does(image_size):
    source = scratch(1)
    model = weights.load(scratch(2, image_size=image_size), weights.export(source, "timm"), "timm")
    grid = model.embedding.grid_size
    expected = timm.layers.resample_abs_pos_embed(source.embedding.pos_embedding, list(grid), [4, 4])
    torch.testing.assert_close(model.embedding.pos_embedding, expected)


def test_grid_that_is_no_square_must_be_named():
    exported = weights.export(scratch(1, image_size=(8, 24)), "hf")
    with pytest.raises(ValueError, match="12 patches, which are not a grid of 3 × 3; pass the source's own as source_grid"):
        weights.load(scratch(2), exported, "hf")
    with pytest.raises(ValueError, match="12 patches, which are not a grid of 3 × 5"):
        weights.load(scratch(2), exported, "hf", source_grid=(3, 5))
    model = weights.load(scratch(2), exported, "hf", source_grid=(2, 6))
    assert model.embedding.pos_embedding.shape == (1, 17, 32)
    turned = weights.load(scratch(2, image_size=(24, 8)), exported, "hf", source_grid=(2, 6))
    assert not torch.equal(turned.embedding.pos_embedding, scratch(1, image_size=(8, 24)).embedding.pos_embedding)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_number_of_classes(layout):
    exported, model = weights.export(scratch(1), layout), scratch(2, num_classes=3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(ValueError, match=r"(?s)expected \(3.*got \(5.*pass head='keep'"):
        weights.load(model, exported, layout)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    weights.load(model, exported, layout, head="keep")
    assert torch.equal(model.head.weight, before["head.weight"]) and torch.equal(model.head.bias, before["head.bias"])
    assert torch.equal(model.norm.weight, scratch(1).norm.weight)


def test_names_missing_and_too_many_are_listed_and_nothing_is_changed():
    exported, model = weights.export(scratch(1), "timm"), scratch(2)
    before = model.head.weight.clone()
    exported["pooler.weight"] = exported.pop("blocks.1.norm2.bias")
    with pytest.raises(
        ValueError, match=r"(?s)missing: blocks\.1\.norm2\.bias.*strict=False ignores them\): pooler\.weight"
    ):
        weights.load(model, exported, "timm")
    with pytest.raises(ValueError, match=r"missing: blocks\.1\.norm2\.bias$"):
        weights.load(model, exported, "timm", strict=False)
    assert torch.equal(model.head.weight, before)
    exported["blocks.1.norm2.bias"] = torch.zeros(32)
    weights.load(model, exported, "timm", strict=False)
    assert torch.equal(model.head.weight, scratch(1).head.weight)


def test_wrong_shapes_are_named():
    exported = weights.export(scratch(1), "npz")
    with pytest.raises(ValueError, match=re.escape("embedding/kernel: expected (4, 4, 1, 32), got (4, 4, 3, 32)")):
        weights.load(scratch(2, in_channels=1), exported, "npz")
    with pytest.raises(ValueError, match=re.escape("query/kernel: expected (32, 2, 16), got (32, 4, 8)")):
        weights.load(scratch(2, num_heads=2), exported, "npz")
    exported["Transformer/posembed_input/pos_embedding"] = np.zeros((17, 32), np.float32)
    with pytest.raises(ValueError, match=re.escape("pos_embedding: expected (1, 17, 32), got (17, 32)")):
        weights.load(scratch(2), exported, "npz")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("held", "wanted"), [("tiny", "micro"), ("micro", "tiny")])
def test_weights_of_another_variant_are_recognised(layout, held, wanted):
    exported = weights.export(vit_scratch.build(held, image_size=8, patch_size=4), layout)
    with pytest.raises(ValueError, match=f"it looks like variant '{held}', with depth .* the model has depth"):
        weights.load(vit_scratch.build(wanted, image_size=8, patch_size=4), exported, layout)


def test_another_layout_is_recognised_and_an_unknown_one_refused():
    with pytest.raises(ValueError, match="its names look like those of layout 'torchvision'"):
        weights.load(scratch(), weights.export(scratch(), "torchvision"), "hf")
    for call in (lambda: weights.export(scratch(), "flax"), lambda: weights.load(scratch(), {}, "flax")):
        with pytest.raises(ValueError, match="unknown layout 'flax'; choose one of timm, torchvision, hf, npz"):
            call()
    with pytest.raises(ValueError, match="head must be 'load' or 'keep', got 'drop'"):
        weights.load(scratch(), {}, "timm", head="drop")


def test_models_that_a_layout_cannot_hold_are_not_exported():
    with pytest.raises(ValueError, match="layout 'hf' has no mean pooling"):
        weights.export(scratch(pool="mean"), "hf")
    with pytest.raises(ValueError, match="layout 'torchvision' always has biases"):
        weights.export(scratch(qkv_bias=False), "torchvision")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_unreadable_files_are_named(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(ValueError, match=re.escape(f"{path}: no such file")):
        weights.load(scratch(), path, "timm")
    path.write_text("hello")
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a readable {suffix} file")):
        weights.load(scratch(), path, "timm")


def test_sources_that_hold_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"are read from \.safetensors, \.npz, \.pt, \.pth, not from '\.h5'"):
        weights.load(scratch(), tmp_path / "weights.h5", "timm")
    with pytest.raises(ValueError, match=r"the source holds entries that are not tensors: 'model' \(dict\)"):
        weights.load(scratch(), {"model": weights.export(scratch(), "timm")}, "timm")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt holds no named tensors, got list \[1, 2\]"):
        weights.load(scratch(), tmp_path / "list.pt", "timm")
