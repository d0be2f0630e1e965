"""Compilation and memory format change how fast a step is, not what it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from experiments.config.loading import load_part
from experiments.training import compilation
from experiments.training.compilation import compiled, evaluation_batch_size, memory_format
from experiments.training.models import build
from experiments.training.optim import adamw
from experiments.training.steps import Update, train_steps

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SAME = 1e-9
"""In double precision: 10⁵ terms of size 1 over five steps round by 10⁵ · 5 · 2⁻⁵³ ≈ 1e-10 on any processor. In single
precision batch normalisation turns rounding into other signs of near-zero gradients, and Adam those into steps."""


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, load_part("models", name), image_size=8, in_channels=1, num_classes=10)[0].double()


def trained(name: str, mode: str, compiler: Any = torch.compile, steps: int = 5) -> tuple[list[torch.Tensor], str]:
    torch.set_num_threads(1)
    model = model_of(name)
    images, labels = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double(), torch.arange(16) % 10
    step = compiled(model, mode, images, precision="fp32", compiler=compiler)
    assert step.failure is None and all(parameter.grad is None for parameter in model.parameters())
    optimizer = adamw(model, weight_decay=0.05, betas=(0.9, 0.999))
    update = Update(lambda _: 1e-3, clip_grad_norm=1.0)
    train_steps(step.forward, optimizer, lambda _: (images, labels), range(steps), update, loss_sum=torch.zeros(()))
    return [tensor.clone() for tensor in model.state_dict().values()], step.mode


def eager(model: nn.Module, mode: str) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


@pytest.mark.parametrize("name", [pytest.param("vit_micro_p2", marks=pytest.mark.slow), "resnet_micro"])
def test_a_traced_step_equals_the_plain_one(name: str) -> None:
    plain, _ = trained(name, "off")
    traced, mode = trained(name, "default", eager)
    assert mode == "default"
    for a, b in zip(plain, traced, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=SAME)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_micro_p2", "resnet_micro"])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_step_equals_the_plain_one(name: str, mode: str) -> None:
    plain, _ = trained(name, "off")
    fast, resolved = trained(name, mode)
    assert resolved == mode
    for a, b in zip(plain, fast, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=SAME)


def test_a_compile_failure_falls_back_once_and_says_so() -> None:
    def broken(model: nn.Module, mode: str) -> nn.Module:
        def backend(graph: Any, inputs: Any) -> Any:
            raise RuntimeError("no compiler found")

        return torch.compile(model, backend=backend)  # type: ignore[return-value]

    model = model_of("resnet_micro")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = compiled(model, "default", torch.zeros(4, 1, 8, 8).double(), precision="fp32", compiler=broken)
    assert step.forward is model and step.mode == "off"
    assert step.failure and "no compiler found" in step.failure and "goes on without" in step.failure
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_warming_up_leaves_the_state_as_it_was() -> None:
    model = model_of("resnet_micro")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = compiled(model, "default", torch.randn(4, 1, 8, 8).double(), precision="fp32", compiler=lambda model, mode: model)
    assert step.mode == "default" and step.seconds > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("slow", "chosen"), [("reduce-overhead", "default"), ("default", "reduce-overhead")])
def test_auto_takes_the_form_whose_steps_take_less_time(slow: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = dict[nn.Module, str]()

    def named(model: nn.Module, mode: str) -> nn.Module:
        form = nn.Sequential(model)
        forms[form] = mode
        return form

    monkeypatch.setattr(compilation, "seconds_of_steps", lambda form, *_: 2.0 if forms[form] == slow else 1.0)
    model = model_of("resnet_micro")
    step = compilation.fastest(model, torch.zeros(4, 1, 8, 8).double(), precision="fp32", compiler=named)
    assert step.mode == chosen == forms[step.forward] and step.failure is None


@pytest.mark.parametrize(("error", "failing"), [(RuntimeError, "default"), (RuntimeError, "reduce-overhead"),
                                                (torch.OutOfMemoryError, "reduce-overhead")])  # fmt: skip
def test_auto_takes_the_form_that_works(error: type[Exception], failing: str) -> None:
    def compiler(model: nn.Module, mode: str) -> nn.Module:
        if mode == failing:
            raise error("no")
        return nn.Sequential(model)

    model = model_of("resnet_micro")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = compilation.fastest(model, torch.randn(4, 1, 8, 8).double(), precision="fp32", compiler=compiler)
    assert step.mode == ({"default", "reduce-overhead"} - {failing}).pop() and step.failure is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_auto_says_why_neither_works_and_goes_on_without() -> None:
    def broken(model: nn.Module, mode: str) -> nn.Module:
        raise RuntimeError(f"no {mode} here")

    model = model_of("resnet_micro")
    step = compilation.fastest(model, torch.zeros(4, 1, 8, 8).double(), precision="fp32", compiler=broken)
    assert step.forward is model and step.mode == "off" and step.failure and "no default here" in step.failure


def test_auto_is_off_on_a_cpu() -> None:
    model = model_of("resnet_micro")
    assert compiled(model, "auto", torch.zeros(4, 1, 8, 8).double(), precision="fp32") == (model, "off", 0.0, None)


def test_only_convolutional_networks_on_gpus_are_channels_last() -> None:
    assert memory_format(model_of("resnet_micro"), GPU) == torch.channels_last
    assert memory_format(model_of("vit_micro_p2"), GPU) == torch.contiguous_format
    assert memory_format(model_of("timm_vit_micro_p2"), GPU) == torch.contiguous_format
    assert memory_format(model_of("resnet_micro"), CPU) == torch.contiguous_format


def test_channels_last_computes_the_same() -> None:
    plain, last = model_of("resnet_micro"), model_of("resnet_micro").to(memory_format=torch.channels_last)
    images = torch.randn(8, 1, 8, 8).double()
    assert torch.allclose(plain(images), last(images), rtol=0, atol=SAME)


def test_evaluation_batches_are_large_and_bounded() -> None:
    assert evaluation_batch_size(32, CPU) == 500
    assert [evaluation_batch_size(size, GPU) for size in (8, 32, 224, 1024)] == [8192, 4096, 83, 64]
