"""Schedules at points worked out by hand; optimisers of torch and timm; which parameters decay: as published for the models
of configs/, and no bias, norm, scale, token or position of others.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from experiments.config import loading
from experiments.config.schema import ModelConfig, Recipe
from experiments.training import models
from experiments.training.optim import SCHEDULES, faults, learning_rate, make_optimizer, weight_decay_groups

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


# -------------------------------------------------------------------------------------------------------------- schedules
@pytest.mark.parametrize(
    ("schedule", "rates"),  # of 101 steps without warm-up from 1.1 to 0.1: at 0, a half, three quarters, 0.9 and the end
    [
        ("cosine", [1.1, 0.6, 0.1 + (1 - math.sqrt(0.5)) / 2, 0.1 + (1 - math.cos(0.1 * math.pi)) / 2, 0.1]),
        ("linear", [1.1, 0.6, 0.35, 0.2, 0.1]),
        ("constant", [1.1] * 5),
        ("wsd", [1.1, 1.1, 1.1, 0.6, 0.1]),
        ("step", [1.1, 0.2, 0.11, 0.11, 0.11]),
    ],
)
def test_schedules_at_points_worked_out_by_hand(schedule: str, rates: list[float]) -> None:
    def rate(step: int, **settings: Any) -> float:
        settings = {"steps": 101, "warmup_fraction": 0.0, **settings}
        return learning_rate(step, peak=1.1, floor=0.1, schedule=schedule, **settings)

    assert [rate(step) for step in (0, 50, 75, 90, 100)] == pytest.approx(rates)
    warmed = [rate(step, steps=201, warmup_fraction=0.5) for step in (0, 50, 100, 101)]  # 101 steps rise to the peak
    assert warmed[:2] == pytest.approx([1.1 / 101, 1.1 * 51 / 101]) and warmed[2:] == pytest.approx([1.1, 1.1])


def test_every_schedule_lies_between_peak_and_floor() -> None:
    for schedule in SCHEDULES:
        for steps in (1, 2, 7):
            settings = {"steps": steps, "peak": 1.0, "floor": 0.5, "warmup_fraction": 0.3}
            rates = [learning_rate(step, schedule=schedule, **settings) for step in range(steps)]
            assert all(0 < rate <= 1.0 for rate in rates)


# ------------------------------------------------------------------------------------------------------------- optimisers
def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (step + 1)
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def a_recipe(**settings: Any) -> Recipe:
    return Recipe(**{"steps": 10, "batch_size": 2, "learning_rate": 0.01, **settings})


def test_adamw_is_that_of_torch_to_the_bit() -> None:
    ours, theirs = small(), small()
    groups = [
        {"params": [theirs[0].weight, theirs[2].weight], "weight_decay": 0.1},
        {"params": [theirs[0].bias, theirs[1].weight, theirs[1].bias, theirs[2].bias], "weight_decay": 0.0},
    ]
    expected = trained(theirs, torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True))
    found = trained(ours, make_optimizer(ours, a_recipe(weight_decay=0.1, betas=[0.9, 0.98])))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_momentum_and_arguments_reach_an_optimiser() -> None:
    """timm's `sgd`, with Nesterov's step by hand: v ← 0.8 v + g, w ← w − rate (g + 0.8 v); g has the decay of weights."""
    model = small()
    by_hand = copy.deepcopy(model)
    found = trained(model, make_optimizer(model, a_recipe(optimizer="sgd", momentum=0.8, weight_decay=0.1)))
    torch.manual_seed(1)
    speeds = [torch.zeros_like(parameter) for parameter in by_hand.parameters()]
    for step in range(5):
        by_hand.zero_grad()
        by_hand(torch.randn(4, 5)).square().sum().backward()
        with torch.no_grad():
            for parameter, speed in zip(by_hand.parameters(), speeds, strict=True):
                slope = parameter.grad + 0.1 * parameter * (parameter.ndim > 1)
                speed.mul_(0.8).add_(slope)
                parameter.sub_(0.01 / (step + 1) * (slope + 0.8 * speed))
    torch.testing.assert_close(found, [parameter.detach() for parameter in by_hand.parameters()])
    made = make_optimizer(small(), a_recipe(optimizer="lion", optimizer_arguments={"caution": True}, betas=[0.9, 0.99]))
    assert made.defaults["caution"] is True and made.defaults["betas"] == (0.9, 0.99)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adamww"}, "`optimizer`: no optimiser is named 'adamww'. Did you mean 'adamw'"),
        ({"optimizer": "AdamW"}, "no optimiser is named 'AdamW'"),
        ({"optimizer": "adahessian"}, "adahessian needs second derivatives"),
        ({"optimizer": "bnbadamw8bit"}, "required"),
        ({"optimizer": "sgd", "betas": [0.9, 0.95]}, "sgd does not use `betas`, got [0.9, 0.95]; delete it"),
        ({"momentum": 0.8}, "adamw does not use `momentum`, got 0.8; delete it"),
        ({"optimizer": "adan", "betas": [0.9, 0.95]}, "adan does not use `betas`"),
        ({"optimizer_arguments": {"lr": 1.0}}, "`optimizer_arguments` must not set 'lr': that is `learning_rate`"),
        ({"optimizer_arguments": {"betas": [0.9, 0.9]}}, "must not set 'betas': that is `betas` of the recipe"),
        ({"optimizer_arguments": {"epsilon": 1e-8}}, "unexpected keyword argument 'epsilon'"),
        ({"optimizer_arguments": {"eps": "small"}}, "configs/recipes/mine.yaml: `optimizer`: "),
        ({"schedule": "cosin"}, "`schedule`: no schedule is named 'cosin'. Did you mean 'cosine'? Known: constant, cosine,"),
    ],
)
def test_what_a_recipe_cannot_have_is_one_message(settings: dict[str, Any], said: str) -> None:
    (fault,) = faults("mine", a_recipe(**settings))
    assert fault.startswith("configs/recipes/mine.yaml: `") and said in fault and "\n" not in fault


def test_faults_of_schedule_and_optimiser_come_together() -> None:
    assert len(faults("mine", a_recipe(schedule="up", optimizer="down"))) == 2
    assert faults("mine", a_recipe()) == []


def test_every_name_of_timm_works_or_says_why() -> None:
    """Kron, which compiles itself for half a minute, aside."""
    state = torch.random.get_rng_state()
    told = {name: faults("mine", a_recipe(optimizer=name)) for name in timm.optim.list_optimizers(exclude_filters=["kron*"])}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(len(found) <= 1 for found in told.values())
    outside = {name for name in told if name.startswith(("bnb", "fused"))}
    assert {name for name, found in told.items() if found} - outside == {"adahessian"}
