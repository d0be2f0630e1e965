"""The model against the paper: shapes, equations, dropout, stochastic depth, variants, errors."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

import vit_scratch
from vit_scratch import VARIANTS, EncoderBlock, MultiHeadSelfAttention, PatchEmbedding, StochasticDepth, VisionTransformer

SMALL = {"image_size": 8, "patch_size": 4, "num_classes": 3, "dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0}


def small(**arguments) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**{**SMALL, **arguments})


def test_224_pixels_in_patches_of_16_are_197_tokens_of_width_768():
    with torch.device("meta"):
        embedding = PatchEmbedding((224, 224), (16, 16), 3, 768)
        tokens = embedding(torch.empty(2, 3, 224, 224))
    assert embedding.grid_size == (14, 14)
    assert tokens.shape == (2, 197, 768)


def test_equation_1_by_hand():
    """A token is its flattened patch times E plus bias, plus its position; the class token comes first."""
    torch.manual_seed(0)
    embedding = PatchEmbedding((4, 6), (2, 3), 2, 5)
    torch.nn.init.normal_(embedding.cls_token)
    torch.nn.init.normal_(embedding.pos_embedding)
    images = torch.randn(1, 2, 4, 6)
    tokens = embedding(images)[0]
    matrix, bias = embedding.projection.weight.flatten(1), embedding.projection.bias
    positions = embedding.pos_embedding[0]
    assert tokens.shape == (5, 5)
    torch.testing.assert_close(tokens[0], embedding.cls_token[0, 0] + positions[0])
    lower_left = images[0, :, 2:4, 0:3].flatten()
    torch.testing.assert_close(tokens[3], matrix @ lower_left + bias + positions[3])


def test_equation_2_by_hand():
    """One head after the other, written as softmax(QKᵀ/√K)V."""
    torch.manual_seed(0)
    attention = MultiHeadSelfAttention(6, 2)
    tokens = torch.randn(1, 4, 6)
    queries, keys, values = (tokens[0] @ attention.qkv.weight.T + attention.qkv.bias).split(6, dim=1)
    heads = []
    for columns in (slice(0, 3), slice(3, 6)):
        scores = queries[:, columns] @ keys[:, columns].T / math.sqrt(3)
        heads.append(torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True) @ values[:, columns])
    expected = torch.cat(heads, dim=1) @ attention.projection.weight.T + attention.projection.bias
    torch.testing.assert_close(attention(tokens)[0], expected)


def test_blocks_are_pre_norm_with_residuals():
    """Equations 2 and 3: with the branches' last layers at zero a block changes nothing, norms included."""
    block = small().blocks[0]
    assert isinstance(block, EncoderBlock)
    tokens = torch.randn(2, 5, 16) * 7 + 3
    normed = block.attention(block.norm1(tokens)) + tokens
    torch.testing.assert_close(block(tokens), normed + block.mlp(F.layer_norm(normed, (16,), eps=1e-6)))
    for layer in (block.attention.projection, block.mlp.fc2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(block(tokens), tokens)


def test_equation_4_reads_the_class_token_and_mean_pooling_the_patches():
    images = torch.randn(2, 3, 8, 8)
    model = small()
    features = model.forward_features(images)
    assert features.shape == (2, 5, 16)
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 5), atol=1e-10, rtol=0)  # normalised
    torch.testing.assert_close(model(images), model.head(features[:, 0]))
    mean = small(pool="mean")
    pooled = mean.norm(mean.forward_features(images)[:, 1:].mean(1))
    torch.testing.assert_close(mean(images), mean.head(pooled))


def test_fused_attention_equals_its_readable_twin():
    fused, readable = small(), small(fused_attention=False)
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(fused(images), readable(images))
    fused(images).square().sum().backward()
    readable(images).square().sum().backward()
    for (name, one), two in zip(fused.named_parameters(), readable.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_attention_maps_are_distributions_and_do_not_depend_on_the_kernel():
    images = torch.randn(2, 3, 8, 8)
    fused, readable = small().eval().attention_maps(images), small(fused_attention=False).eval().attention_maps(images)
    assert [tuple(weights.shape) for weights in fused] == [(2, 2, 5, 5)] * 3
    for one, two in zip(fused, readable, strict=True):
        torch.testing.assert_close(one.sum(-1), torch.ones(2, 2, 5))
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_and_unequal_sides(channels):
    model = small(image_size=(12, 20), patch_size=(3, 5), in_channels=channels)
    assert model.embedding.grid_size == (4, 4)
    assert model(torch.randn(2, channels, 12, 20)).shape == (2, 3)


def test_nothing_is_random_by_default():
    model = small()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.train()(images), model.eval()(images))


def test_dropout_stands_where_appendix_b1_puts_it():
    """After the embedding and every dense layer but the projections to queries, keys and values."""
    model = small(drop_rate=0.25, attention_drop_rate=0.5)
    rates = {name: layer.p for name, layer in model.named_modules() if isinstance(layer, torch.nn.Dropout)}
    expected = {"embedding.dropout": 0.25}
    for index in range(3):
        block = f"blocks.{index}"
        expected |= {f"{block}.attention.dropout": 0.25, f"{block}.attention.attention_dropout": 0.5}
        expected |= {f"{block}.mlp.dropout1": 0.25, f"{block}.mlp.dropout2": 0.25}
    assert rates == expected


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rate", ["drop_rate", "attention_drop_rate", "drop_path_rate"])
def test_every_rate_acts_in_training_and_not_in_evaluation(rate, fused):
    model, plain = small(**{rate: 0.5}, fused_attention=fused), small(fused_attention=fused)
    images = torch.randn(8, 3, 8, 8)
    torch.testing.assert_close(model.eval()(images), plain.eval()(images))
    assert not torch.allclose(model.train()(images), plain(images))


def test_stochastic_depth_drops_whole_branches_at_its_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = StochasticDepth(0.2)
    branch = torch.ones(20_000, 2, 3)
    out = layer(branch)
    per_image = out.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    values = per_image[:, 0].unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1.25]))
    dropped = (per_image[:, 0] == 0).float().mean().item()
    assert abs(dropped - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)
    assert layer.eval()(branch) is branch


def test_stochastic_depth_rises_linearly_from_0():
    assert [block.drop_path.rate for block in small(drop_path_rate=0.3).blocks] == pytest.approx([0, 0.15, 0.3])
    assert [block.drop_path.rate for block in small(depth=1, drop_path_rate=0.3).blocks] == [0]


def test_norms_and_biases_follow_their_arguments():
    model = small(norm_eps=1e-3, qkv_bias=False)
    assert {layer.eps for layer in model.modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-3}
    assert all(block.attention.qkv.bias is None for block in model.blocks)
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, "image_size 30 is not divisible by patch_size 4; choose a patch_size among 1, 2, 3, 5, 6"),
        ({"image_size": (8, 30)}, r"image_size (8, 30) (width 30) is not divisible by patch_size 4"),
        ({"image_size": 2}, "image_size 2 is not divisible by patch_size 4"),
        ({"image_size": (8, 8, 8)}, "image_size must be a number of pixels ≥ 1, or height and width, got (8, 8, 8)"),
        ({"patch_size": 0}, "patch_size must be a number of pixels ≥ 1, or height and width, got 0"),
        ({"num_heads": 3}, "dim 16 is not divisible by num_heads 3; choose num_heads among 1, 2, 4, 8, 16"),
        ({"num_heads": 0}, "num_heads must be a whole number ≥ 1, got 0"),
        ({"depth": 0}, "depth must be a whole number ≥ 1, got 0"),
        ({"in_channels": 0}, "in_channels must be a whole number ≥ 1, got 0"),
        ({"num_classes": -1}, "num_classes must be a whole number ≥ 1, got -1"),
        ({"mlp_ratio": 0.01}, "mlp_hidden_dim must be a whole number ≥ 1, got 0"),
        ({"mlp_ratio": math.inf}, "mlp_hidden_dim must be a whole number ≥ 1, got inf"),
        ({"drop_rate": 1.0}, "drop_rate must lie in [0, 1), got 1.0"),
        ({"attention_drop_rate": -0.1}, "attention_drop_rate must lie in [0, 1), got -0.1"),
        ({"drop_path_rate": 2}, "drop_path_rate must lie in [0, 1), got 2"),
        ({"pool": "max"}, "pool must be one of 'cls', 'mean', got 'max'"),
        ({"init": "he"}, "init must be one of 'timm', 'paper', got 'he'"),
    ],
)
def test_unfit_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**arguments)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"= (batch, 3, 8, 8), got {shape}")):
        small()(torch.zeros(shape))


def test_table_1_of_the_paper():
    rows = {name: tuple(VARIANTS[name]) for name in ("base", "large", "huge")}
    assert rows == {"base": (12, 768, 4.0, 12), "large": (24, 1024, 4.0, 16), "huge": (32, 1280, 4.0, 16)}
    assert [VARIANTS[name].dim * VARIANTS[name].mlp_ratio for name in rows] == [3072, 4096, 5120]  # MLP size


@pytest.mark.parametrize(
    ("variant", "patch_size", "millions"), [("base", 16, 86), ("large", 16, 307), ("huge", 14, 632), ("tiny", 16, 5.7)]
)
def test_published_parameter_counts(variant, patch_size, millions):
    with torch.device("meta"):
        model = vit_scratch.build(variant, image_size=224, patch_size=patch_size)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_base_with_three_classes_and_the_small_image_variant_have_their_known_counts():
    with torch.device("meta"):
        base = vit_scratch.build("base", image_size=224, patch_size=16, num_classes=3)
        small_image = vit_scratch.build("small_image", image_size=32, patch_size=4, num_classes=10)
    assert sum(parameter.numel() for parameter in base.parameters()) == 85_800_963
    assert sum(parameter.numel() for parameter in small_image.parameters()) / 1e6 == pytest.approx(2.7, abs=0.05)


def test_build_lets_overrides_win_and_names_the_nearest_variant():
    model = vit_scratch.build("micro", image_size=8, patch_size=2, depth=2, in_channels=1)
    assert (len(model.blocks), model.head.in_features, model.num_heads) == (2, 64, 4)
    with pytest.raises(ValueError, match="unknown variant 'bse': did you mean base"):
        vit_scratch.build("bse", image_size=8, patch_size=2)
    with pytest.raises(ValueError, match="variant 'micro': got an unexpected keyword argument 'width'"):
        vit_scratch.build("micro", image_size=8, patch_size=2, width=3)


def test_the_paper_initialisation():
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, dim=128, depth=2, num_heads=4, init="paper")
    weights = dict(model.named_parameters())
    assert not weights["head.weight"].any() and not weights["head.bias"].any()
    assert not weights["embedding.cls_token"].any() and not weights["embedding.projection.bias"].any()
    assert weights["embedding.pos_embedding"].std().item() == pytest.approx(0.02, rel=0.1)
    bound = math.sqrt(6 / (128 + 128))  # of a matrix of its own, not of the three in one
    for part in weights["blocks.0.attention.qkv.weight"].chunk(3):
        assert part.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert part.abs().max().item() <= bound
    assert weights["blocks.1.mlp.fc1.weight"].abs().max().item() == pytest.approx(math.sqrt(6 / (128 + 512)), rel=0.01)
    assert weights["blocks.1.mlp.fc1.bias"].std().item() == pytest.approx(1e-6, rel=0.2)
    assert not weights["blocks.0.attention.qkv.bias"].any()
    projection = weights["embedding.projection.weight"]  # fan-in 3·4·4 = 48
    assert projection.std().item() == pytest.approx(1 / math.sqrt(48), rel=0.05)
    assert projection.abs().max().item() <= 2 / math.sqrt(48) / 0.8796
