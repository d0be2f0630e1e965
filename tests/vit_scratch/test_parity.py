"""Proof by parity: with timm's weights the model computes what timm's ViT computes, forward, backward and in training."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F

import vit_scratch
from tests.arithmetic import rounding
from tests.vit_scratch.conftest import SAME
from vit_scratch import VARIANTS, weights

TIMM_NAMES = {
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
    "huge": "vit_huge_patch14_224",
}
PUBLISHED_PATCH = {name: 14 if name == "huge" else 16 for name in TIMM_NAMES}


def twins(variant, image_size, patch_size, *, timm_arguments=None, **arguments):
    """A scratch ViT and timm's, with equal weights, each away from its start so that no term is zero."""
    torch.manual_seed(0)
    reference = timm.create_model(
        TIMM_NAMES[variant], img_size=image_size, patch_size=patch_size, num_classes=7, **(timm_arguments or {})
    )
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim < 2 or parameter.shape[0] == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = vit_scratch.build(variant, image_size=image_size, patch_size=patch_size, num_classes=7, **arguments)
    return weights.load(ours, reference.state_dict(), "timm"), reference


@pytest.mark.parametrize(
    ("variant", "image_size", "patch_size"),
    [("tiny", 32, 4), ("small", 32, 8), ("base", 32, 16), pytest.param("base", 224, 16, marks=pytest.mark.slow)],
)
def test_logits_and_gradients_equal_timms(variant, image_size, patch_size):
    ours, reference = twins(variant, image_size, patch_size)
    images = torch.randn(2, 3, image_size, image_size)
    labels = torch.tensor([1, 5])
    logits, expected = ours(images), reference(images)
    assert (logits - expected).abs().max().item() <= SAME
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected, labels).backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    named = {row.ours: row.theirs[0] for row in vit_scratch.layouts.rows(ours, "timm")}
    assert len(named) == len(gradients) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        other = gradients[named[name]]
        assert (parameter.grad - other).norm() <= SAME * other.norm() + SAME**2, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_equal_timms_at_224_pixels(dtype):
    """In single precision, as it is used, too: a patch's 768 terms, and 12 blocks of 192, 197, 192, 192 and 768."""
    ours, reference = (model.to(dtype) for model in twins("tiny", 224, 16))
    images = torch.randn(1, 3, 224, 224, dtype=dtype)
    with torch.no_grad():
        expected = reference(images)
        assert (ours(images) - expected).abs().max() <= rounding(12 * 1541 + 768, expected.abs().max(), dtype)


def test_mean_pooling_equals_timms_average_pooling():
    ours, reference = twins("tiny", 16, 4, pool="mean", timm_arguments={"global_pool": "avg"})
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(ours(images), reference(images), atol=SAME, rtol=0)
    torch.testing.assert_close(ours.forward_features(images), reference.forward_features(images), atol=SAME, rtol=0)


def test_unequal_sides_equal_timms():
    ours, reference = twins("tiny", (12, 20), (3, 5))
    images = torch.randn(3, 3, 12, 20)
    torch.testing.assert_close(ours(images), reference(images), atol=SAME, rtol=0)


@pytest.mark.parametrize("variant", TIMM_NAMES)
def test_parameter_counts_equal_timms(variant):
    with torch.device("meta"):
        ours = vit_scratch.build(variant, image_size=224, patch_size=PUBLISHED_PATCH[variant])
        reference = timm.create_model(TIMM_NAMES[variant], num_classes=1000)
    shapes = sorted(tuple(parameter.shape) for parameter in ours.parameters())
    assert shapes == sorted(tuple(parameter.shape) for parameter in reference.parameters())


def test_initial_weights_have_timms_distributions():
    torch.manual_seed(0)
    ours = weights.export(vit_scratch.build("tiny", image_size=32, patch_size=4), "timm")
    torch.manual_seed(0)
    reference = timm.create_model(TIMM_NAMES["tiny"], img_size=32, patch_size=4).state_dict()
    assert torch.equal(ours["patch_embed.proj.weight"], reference["patch_embed.proj.weight"])
    for name, expected in reference.items():
        got = ours[name]
        few = 4 / expected.numel() ** 0.5  # well above the standard error of a standard deviation, 1 / √(2n)
        if expected.numel() == 1 or expected.std() == 0:
            assert torch.equal(got, expected), name
        else:
            assert got.std().item() == pytest.approx(expected.std().item(), rel=few), name
            assert abs(got.mean() - expected.mean()) <= few * expected.std() * 2, name


def test_a_from_the_same_weights_trains_like_a():
    """The A/A check: fifty AdamW steps on random data, the loss equal at each."""
    ours, reference = twins(
        "tiny", 8, 2, dim=64, depth=4, num_heads=4, timm_arguments={"embed_dim": 64, "depth": 4, "num_heads": 4}
    )
    losses = []
    for model in (ours, reference):
        generator = torch.Generator().manual_seed(1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        losses.append([])
        for _ in range(50):
            images = torch.randn(16, 3, 8, 8, generator=generator)
            labels = torch.randint(7, (16,), generator=generator)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=50 * SAME)
    assert len(set(losses[0])) == 50


def test_stochastic_depth_drops_the_same_images_as_timms():
    """Equal seeds give equal draws: rates, order of draws and scaling agree."""
    ours, reference = twins("tiny", 8, 4, drop_path_rate=0.5, timm_arguments={"drop_path_rate": 0.5})
    images = torch.randn(6, 3, 8, 8)
    outputs = []
    for model in (ours.train(), reference.train()):
        torch.manual_seed(5)
        outputs.append(model(images))
    torch.testing.assert_close(*outputs, atol=SAME, rtol=0)
    assert not torch.allclose(outputs[0], copy.deepcopy(ours).eval()(images))


@pytest.mark.parametrize("variant", ["micro", "small_image"])
def test_small_variants_have_the_parameters_of_timms_vit_in_their_geometry(variant):
    row = VARIANTS[variant]
    geometry = {"embed_dim": row.dim, "depth": row.depth, "num_heads": row.num_heads, "mlp_ratio": row.mlp_ratio}
    with torch.device("meta"):
        ours = vit_scratch.build(variant, image_size=32, patch_size=4, num_classes=10)
        reference = timm.create_model(TIMM_NAMES["tiny"], img_size=32, patch_size=4, num_classes=10, **geometry)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, reference)]
    assert counts[0] == counts[1]
