"""Models are tried before any cell runs: what could not learn is refused by one message, what is lost is declared."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.__main__ import main
from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.config.schema import ModelConfig
from experiments.grid import driver, worker
from experiments.records.record import read_record
from experiments.training import model_check, models

SIZES = {"image_size": 16, "in_channels": 1, "num_classes": 10}


def examine(model: nn.Module, **changes: int) -> dict[str, Any]:
    torch.manual_seed(0)
    return model_check.examine(model, **SIZES | changes)


def linear(*, zeros: int = 0) -> nn.Sequential:
    """Two linear layers, of which the last so many begin with zeros, and no biases but the last."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 6, bias=False), nn.Linear(6, 10))
    for layer in list(model)[3 - zeros :]:
        nn.init.zeros_(layer.weight)
    return model


class Other(nn.Module):
    """A model whose forward pass is given; its layers are two linear ones, 256 → 10."""

    def __init__(self, forward: Callable[[Other, Tensor], Any]) -> None:
        super().__init__()
        self.used, self.second = nn.Linear(256, 10), nn.Linear(256, 10)
        self.way = forward

    def forward(self, images: Tensor) -> Any:
        return self.way(self, images.flatten(1))


# ------------------------------------------------------------------------------------------------------------- the check
def test_a_classifier_of_torchvision_is_built_by_its_file() -> None:
    values = {"title": "S", "family": "ShuffleNet", "source": "torchvision", "name": "shufflenet_v2_x0_5"}
    model, geometry = models.build("mine", ModelConfig.model_validate(values), image_size=32, in_channels=1, num_classes=10)
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert geometry == {"first_convolution": "1 channel instead of 3"}


def test_a_head_of_zeros_learns_and_two_zeros_in_a_row_do_not() -> None:
    assert examine(linear(zeros=1)) == {}
    with pytest.raises(
        ValueError, match=r"no gradient reaches 2 of 3 parameters \(1\.weight, 2\.weight\), 99\.4% of all values"
    ):
        examine(linear(zeros=2))


def test_pixels_that_a_strided_convolution_skips_are_counted() -> None:
    skips = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    assert examine(skips, image_size=32) == {"pixels_without_influence": 0.0615}  # 1 - 31² / 32²
    with pytest.raises(ValueError, match=r"12\.1% of the pixels have no influence on the logits at 16×16"):
        examine(skips, image_size=16)
    patches = nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    assert examine(patches, image_size=14) == {}
    message = (
        r"image_size 64 is not divisible by patch_size 7; choose a patch_size that divides it, or resize the images to 63 "
        r"or 70 pixels \(3\.1% of the pixels have no influence on the logits\)"
    )
    with pytest.raises(ValueError, match=message):
        examine(patches, image_size=64)


def test_few_parameters_without_gradient_are_declared() -> None:
    class Attends(nn.Module):
        """To all tokens of an image, of which there is one for each 16 × 16 pixels."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.query = nn.Conv2d(1, 32, 16, stride=16), nn.Linear(32, 8, bias=False)
            self.head = nn.Linear(32, 10)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            weights = (self.query(tokens) @ self.query(tokens).transpose(1, 2)).softmax(2)
            return self.head((weights @ tokens).mean(1))

    assert examine(Attends(), image_size=32) == {}
    assert examine(Attends()) == {"parameters_without_gradient": "query.weight"}  # 256 of 8810 values


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Other(lambda own, pixels: own.used(pixels)), "never uses second.weight, second.bias, which could not learn"),
        (Other(lambda own, pixels: own.used(pixels) + own.second(pixels).detach()), "never uses second.weight, second.bias"),
        (Other(lambda own, pixels: own.used(pixels) + 0 * own.second(pixels)), "no gradient reaches 2 of 4 parameters (sec"),
        (
            Other(lambda own, pixels: own.used(pixels.detach()) + own.second(pixels.sign())),
            "100.0% of the pixels have",
        ),
        (Other(lambda own, pixels: (own.used(pixels), own.second(pixels))), "logits of shape (4, 10), it gives type tuple"),
        (Other(lambda own, pixels: own.used(pixels)[:, :7]), "logits of shape (4, 10), it gives shape (4, 7)"),
        (Other(lambda own, pixels: own.used(pixels).log()), "its logits of random pixels are not finite"),
        (Other(lambda own, pixels: own.used(pixels[:, 1:])), "it fails on images of 16×16 pixels (RuntimeError: "),
        (
            Other(lambda own, pixels: own.used(pixels).exp().add_(own.second(pixels)).exp_().mul_(0)),
            "RuntimeError: one of the",
        ),
        (Other(lambda own, pixels: own.used(pixels)).requires_grad_(False), "it has no parameter to train"),
        (nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10)), "it has no parameter to train"),
    ],
)
def test_faults_say_what_was_seen(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        examine(model)


def test_pixels_count_that_matter_beyond_their_part_in_batch_statistics() -> None:
    stem = [nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.AvgPool2d(3, stride=2)]
    assert examine(nn.Sequential(*stem, nn.Flatten(), nn.Linear(4 * 15**2, 10)), image_size=32) == {
        "pixels_without_influence": 0.0615
    }


def test_a_bias_before_batch_normalisation_is_no_fault() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 6), nn.BatchNorm1d(6), nn.Linear(6, 10))
    nn.init.zeros_(model[1].weight)  # which makes its gradient exactly zero, where it mostly is rounding
    assert examine(model) == {}


def test_gradients_are_those_of_training() -> None:
    """What is used in evaluation alone would never learn."""
    model = Other(lambda own, pixels: own.used(pixels) if own.training else own.used(pixels) + own.second(pixels))
    with pytest.raises(ValueError, match=r"never uses second\.weight"):
        examine(model)


# ------------------------------------------------------------------------------------------------------- before any cell
def timm_config(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({"title": "T", "family": "F", "source": "timm", "name": name, **changes})


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[[], nn.Module]], None]:
    """Has every model of timm be one that the test makes, and nothing be remembered."""
    monkeypatch.setattr(models, "_checked", {})

    def make(model: Callable[[], nn.Module]) -> None:
        monkeypatch.setitem(models.BUILDERS, "timm", lambda config, **sizes: (model(), {"stem": "as it is"}))

    return make


TINY = ["recipe.steps=4", "recipe.evaluations=2", "seeds=[0]", "data.image_size=16"]


def test_each_model_is_tried_once_and_leaves_the_generator_alone(
    own: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    own(linear)
    tried = []
    real = models.examine
    monkeypatch.setattr(models, "examine", lambda model, **sizes: tried.append(type(model).__name__) or real(model, **sizes))
    experiment = loading.load_experiment("smoke", loading.parse_overrides(TINY))
    cells = driver.plan(experiment)
    assert len(cells) == 4
    before = torch.get_rng_state()
    for _ in range(2):
        assert worker.check(cells) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(tried) == ["Sequential", "VisionTransformer"]


def test_a_refused_model_stops_the_grid_and_what_is_lost_stands_in_the_record(
    own: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["models=[resnet_micro]", "train_fractions=[1.0]", "expect=[]", "--jobs", "1"]
    own(lambda: linear(zeros=2))
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "smoke", *TINY, *grid])
    assert main() == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "configs/models/resnet_micro.yaml: at 16×16 pixels no gradient reaches 2 of 3 parameters" in told
    assert "Traceback" not in told and not list(tmp_path.glob("runs_dir/smoke/*/"))
    own(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)))
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "smoke", *TINY, "data.image_size=32", *grid])
    assert main() == 0
    assert "resnet_micro at 32 pixels: pixels without influence: 0.0615" in " ".join(capsys.readouterr().out.split())
    (record,) = tmp_path.glob("runs_dir/smoke/*/record.json")
    assert read_record(record).geometry == {"stem": "as it is", "pixels_without_influence": 0.0615}
    certificate = json.loads((tmp_path / "reports_dir" / "smoke" / "certificate.json").read_text(encoding="utf-8"))
    assert "0.0615" in json.dumps(certificate["geometry"])


def checked(name: str, image_size: int, **changes: Any) -> dict[str, Any]:
    return models.check("mine", timm_config(name, **changes), image_size=image_size, in_channels=3).geometry


@pytest.mark.parametrize(
    ("name", "image_size", "arguments", "declared"),
    [
        ("test_resnet", 32, {}, None),
        ("mobilenetv3_small_050", 32, {}, None),
        ("deit_tiny_distilled_patch16_224", 32, {"depth": 2}, None),
        ("xcit_nano_12_p16_224", 32, {"depth": 1}, None),
        ("test_nfnet", 32, {}, None),
        ("levit_128s", 32, {}, "parameters_without_gradient"),  # a single token is left
        ("legacy_xception", 32, {}, "pixels_without_influence"),
    ],
)
def test_architectures_that_learn(name: str, image_size: int, arguments: dict[str, Any], declared: str | None) -> None:
    assert set(checked(name, image_size, arguments=arguments)) == ({declared} if declared else set())


@pytest.mark.parametrize(
    ("name", "image_size", "arguments", "message"),
    [
        ("eva02_tiny_patch14_224", 64, {"depth": 1}, "image_size 64 is not divisible by patch_size 14; choose a patch_size"),
        ("beit_base_patch16_224", 40, {"depth": 1, "embed_dim": 48}, "image_size 40 is not divisible by patch_size 16"),
        ("cait_xxs24_224", 40, {"depth": 1}, "choose a patch_size that divides it, or resize the images to 32 or 48 pixels"),
        ("vit_tiny_patch16_224", 40, {"depth": 1}, "image_size 40 is not divisible by patch_size 16"),
        ("crossvit_9_240", 32, {}, "timm model 'crossvit_9_240' cannot take images of 32×32 pixels"),
        ("halonet26t", 32, {}, "cannot take images of 32×32 pixels (AssertionError)"),
    ],
)
def test_architectures_that_do_not(name: str, image_size: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(name, image_size, arguments=arguments)
    (fault,) = caught.value.faults
    assert fault.startswith("configs/models/mine.yaml: ") and message in fault and fault.endswith(".")
    assert "\n" not in fault
