"""Classifiers of torchvision: sizes and channels are passed on, and what is unknown is one message."""

from __future__ import annotations

import pytest
import torch

from baselines.torchvision_models import create


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("vit_b_16", 32), ("shufflenet_v2_x0_5", 40), ("swin_t", 64)])
def test_images_of_any_size_and_channels_give_logits(name: str, size: int) -> None:
    for channels in (1, 3):
        with torch.device("meta"):
            model, geometry = create(name, image_size=size, in_channels=channels, num_classes=7)
        assert model.eval()(torch.empty(2, channels, size, size, device="meta")).shape == (2, 7)
        assert geometry == ({} if channels == 3 else {"first_convolution": "1 channel instead of 3"})


def test_weights_are_those_of_torchvision_alone() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    ours, _ = create("resnet18", image_size=32, in_channels=3, num_classes=7)
    torch.manual_seed(0)
    theirs = resnet18(num_classes=7)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("resnet81", {}, "did you mean resnet18"),
        ("qqq", {}, "list_models"),
        ("resnet18", {"wide": 2}, "unexpected keyword"),
        ("vit_b_16", {"image_size": 30}, "'vit_b_16' cannot be built for images of 30 pixels .*indivisible by patch size"),
        ("vit_b_16", {"num_heads": 7}, "KeyError: 'num_heads'"),
    ],
)
def test_what_is_unknown_is_told(name: str, arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create(name, **({"image_size": 32, "in_channels": 3, "num_classes": 7} | arguments))
