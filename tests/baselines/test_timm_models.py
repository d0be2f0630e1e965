"""Reference models: what is declared is what was changed, small images pass, and bad requests are explained."""

import re

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import baselines


def create(name, image_size=32, in_channels=3, **arguments):
    torch.manual_seed(0)
    return baselines.create(name, image_size=image_size, in_channels=in_channels, num_classes=5, **arguments)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "image_size", "in_channels", "last_map"),
    [
        ("test_resnet", 8, 1, 1),
        ("test_convnext", 8, 1, 1),
        ("test_efficientnet", 8, 1, 1),
        ("resnet18", 32, 3, 4),
        ("resnet18d", 32, 3, 4),
        ("convnext_atto", 32, 3, 4),
        ("efficientnet_b0", 32, 3, 2),
        ("tf_efficientnet_b0", 32, 3, 2),
        ("mobilenetv3_small_100", 32, 3, 2),
    ],
)
def test_small_stem_keeps_the_resolution_and_trains(name, image_size, in_channels, last_map):
    model, geometry = create(name, image_size, in_channels, stem="small")
    assert set(geometry) == {"stem"} and geometry["stem"].startswith("3×3 convolution, stride 1")
    images = torch.randn(2, in_channels, image_size, image_size)
    stem = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert stem(images).shape[-2:] == images.shape[-2:]
    logits = model(images)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert stem.weight.grad.abs().sum() > 0
    assert model.forward_features(images).shape[-2:] == (last_map, last_map)
    native = timm.create_model(name, in_chans=in_channels, num_classes=5)
    untouched = [p.shape for n, p in native.named_parameters() if not n.startswith(("conv1", "stem", "conv_stem"))]
    assert untouched == [p.shape for n, p in model.named_parameters() if not n.startswith(("conv1", "stem", "conv_stem"))]


def test_resnet18_with_the_small_stem_has_its_known_cost():
    with torch.device("meta"):
        model, _ = create("resnet18", stem="small")
        native, geometry = create("resnet18")
    gmacs = []
    for candidate in (model, native):
        with FlopCounterMode(display=False) as counter:
            candidate.eval()(torch.empty(1, 3, 32, 32, device="meta"))
        gmacs.append(counter.get_total_flops() / 2e9)
    assert gmacs == pytest.approx([0.555, 0.037], rel=0.01)
    assert geometry == {}


def test_small_stems_start_as_their_families_do():
    resnet, _ = create("resnet18", stem="small")
    assert resnet.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert resnet.conv1.bias is None and isinstance(resnet.maxpool, nn.Identity)
    convnext, _ = create("convnext_atto", stem="small")
    assert convnext.stem[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not convnext.stem[0].bias.any() and convnext.stem[1].weight.shape == (40,)


def test_vit_takes_sizes_and_geometry_and_declares_them():
    model, geometry = create(
        "vit_tiny_patch16_224", 8, 1, patch_size=2, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0, qkv_bias=False
    )
    assert geometry == {
        "patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0, "qkv_bias": "false"
    }  # fmt: skip
    assert model.pos_embed.shape == (1, 17, 64) and len(model.blocks) == 4
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 5)
    _, unequal = create("vit_tiny_patch16_224", (12, 20), patch_size=(3, 5))
    assert unequal == {"patch_size": "3×5"}


def test_any_other_family_works_by_its_name():
    model, geometry = create("swin_tiny_patch4_window7_224", 64)
    assert geometry == {} and model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    model, geometry = create("regnety_002", 64, drop_path_rate=0.1)
    assert geometry == {"drop_path_rate": 0.1} and model(torch.randn(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "image_size", "tokens"),
    [
        ("deit_tiny_distilled_patch16_224", 32, 2 + 4),
        ("deit_tiny_distilled_patch16_224", 64, 2 + 16),
        ("levit_128s", 32, None),
    ],
)
def test_image_size_reaches_constructors_that_pass_it_on(name, image_size, tokens):
    with torch.device("meta"):
        model, geometry = create(name, image_size)
    assert geometry == {} and model.eval()(torch.empty(1, 3, image_size, image_size, device="meta")).shape == (1, 5)
    assert tokens is None or model.pos_embed.shape[1] == tokens


def test_a_distilled_vit_has_patches_to_set():
    with torch.device("meta"):
        model, geometry = create("deit_tiny_distilled_patch16_224", 32, patch_size=4)
    assert model.pos_embed.shape[1] == 2 + 64 and geometry == {"patch_size": 4}


def test_weights_are_drawn_as_by_timm_alone():
    """Looking up the family and trying the image size take nothing from the generator, and leave training mode on."""
    model, _ = create("test_resnet", 64)
    torch.manual_seed(0)
    alone = timm.create_model("test_resnet", num_classes=5)
    assert model.training
    for (name, one), two in zip(model.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_create_is_possible_on_the_meta_device():
    with torch.device("meta"):
        model, _ = create("vit_base_patch16_224", 224)
    assert count(model) == 85_802_501
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnt18", {}, "unknown timm model 'resnt18': did you mean resnet18"),
        ("resnet18.a1_in1k", {}, "unknown timm model 'resnet18.a1_in1k': did you mean resnet18"),
        ("zzzzzzzzzz", {}, "unknown timm model 'zzzzzzzzzz': see timm.list_models()"),
        ("resnet18", {"widht": 3}, "timm model 'resnet18' has no argument 'widht'"),
        ("vit_tiny_patch16_224", {"dim": 3}, "timm model 'vit_tiny_patch16_224' has no argument 'dim'"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "'vit_tiny_patch16_224' cannot be built with in_chans=3, num_classes=5"),
        ("resnet18", {"pretrained": True}, "delete the argument 'pretrained'"),
        ("resnet18", {"checkpoint_path": "x"}, "delete the argument 'checkpoint_path'"),
        ("resnet18", {"patch_size": 4}, "timm model 'resnet18' (ResNet) has no patches: delete the patch_size 4"),
        ("convnext_atto", {"patch_size": 2}, "timm model 'convnext_atto' (ConvNeXt) has no patches"),
        ("vit_tiny_patch16_224", {"patch_size": 5}, "image_size 32 is not divisible by patch_size 5"),
        ("vit_tiny_patch16_224", {"image_size": 30}, "image_size 30 is not divisible by patch_size 16"),
        ("convnext_atto", {"image_size": 8}, "'convnext_atto' cannot take images of 8×8 pixels"),
        ("halonet26t", {"image_size": 32}, "'halonet26t' cannot take images of 32×32 pixels (AssertionError)"),
        ("convnext_atto", {"depths": []}, "'convnext_atto' cannot be built with in_chans=3, num_classes=5, depths=[]"),
        ("resnet18", {"stem": "tiny"}, "stem must be 'native' or 'small', got 'tiny'"),
        ("regnety_002", {"stem": "small"}, "have one: ResNet, ConvNeXt, EfficientNet, MobileNetV3. Use `stem: native` and"),
    ],
)
def test_bad_requests_are_explained(name, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        create(name, **arguments)
