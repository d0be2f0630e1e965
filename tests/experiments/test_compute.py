"""Operations counted against published values and a closed form; nothing invented where nothing is known."""

from __future__ import annotations

import os

import pytest
import timm
import torch

import vit_scratch
from experiments.training import cost

PUBLISHED_GMACS = {  # at 224 pixels
    "vit_base_patch16_224": 17.56,
    "vit_small_patch16_224": 4.60,
    "vit_tiny_patch16_224": 1.25,
    "resnet50": 4.09,
    "resnet18": 1.81,
    "convnext_tiny": 4.46,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED_GMACS.items())
def test_gmacs_of_published_models(name: str, published: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert cost.forward_gmacs(model, 3, 224) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("variant", "image", "patch"), [("micro", 8, 2), ("tiny", 32, 4), ("small", 64, 8)])
def test_gmacs_of_a_vit_in_closed_form(variant: str, image: int, patch: int) -> None:
    row = vit_scratch.VARIANTS[variant]
    with torch.device("meta"):
        model = vit_scratch.build(variant, image_size=image, patch_size=patch, in_channels=3, num_classes=10)
    patches = (image // patch) ** 2
    tokens, width = patches + 1, row.dim
    embed = patches * (3 * patch**2) * width
    # per block: qkv and output projection 4·N·D², MLP 2·r·N·D², attention QKᵀ and AV 2·N²·D
    block = (4 + 2 * row.mlp_ratio) * tokens * width**2 + 2 * tokens**2 * width
    head = width * 10
    assert cost.forward_gmacs(model, 3, image) * 1e9 == pytest.approx(embed + row.depth * block + head, rel=1e-6)


def test_the_counter_is_checked_before_it_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    cost.check_flop_counter.cache_clear()
    monkeypatch.setattr(cost, "_flops", lambda model, *inputs: 512)  # as a torch that counts 0 for attention
    with pytest.raises(RuntimeError, match="counts 512 FLOPs where 1024 are known"):
        cost.check_flop_counter()
    monkeypatch.undo()
    cost.check_flop_counter.cache_clear()
    cost.check_flop_counter()


def test_training_pflops_of_a_published_run() -> None:
    # 200 epochs of 50,000 images at 1.111 GMACs: 33.3 PFLOPs at 1 FLOP a MAC (3 × forward × images), 66.7 at 2
    assert cost.train_pflops(1.111, 50_000 * 200) == pytest.approx(66.66, rel=1e-3)


def test_mfu_by_hand_and_unknown_devices() -> None:
    # 6 × 1e9 × 1000 images/s = 6e12 FLOP/s of 312e12
    assert cost.mfu(1.0, 1000.0, "NVIDIA A100-SXM4-80GB") == pytest.approx(6e12 / 312e12)
    assert cost.mfu(1.0, 1000.0, "NVIDIA H100 PCIe") == pytest.approx(6e12 / 756e12)
    assert cost.mfu(1.0, 1000.0, "NVIDIA H100 80GB HBM3") == pytest.approx(6e12 / 989e12)
    assert cost.mfu(1.0, 1000.0, "Some CPU") is None


def test_a_peak_is_the_run_s_own() -> None:
    with cost.Meter(torch.device("cpu")).training():
        torch.ones(2**26).sum()  # 256 MiB, of an earlier run
    meter = cost.Meter(torch.device("cpu"))
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system cannot reset the peak of a process")
    with meter.training():
        pass
    before = meter.peak_bytes
    with meter.training():
        torch.ones(2**25).sum()  # 128 MiB
    assert before is not None and meter.peak_bytes is not None
    assert 100 * 2**20 < meter.peak_bytes - before < 160 * 2**20


def test_a_peak_that_cannot_be_reset_is_unknown_after_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_STATUS", "_CLEAR"):
        monkeypatch.setattr(cost, name, "/proc/absent/file")  # as on macOS
    monkeypatch.setattr(cost, "_metered", False)
    first, second = cost.Meter(torch.device("cpu")), cost.Meter(torch.device("cpu"))
    for meter in (first, second):
        with meter.training():
            pass
    assert first.peak_bytes is not None and first.peak_bytes > 1e6 and second.peak_bytes is None
    second.restore(first.state())  # went on in a process that cannot tell
    with second.training():
        pass
    assert second.peak_bytes is None


def test_meter_adds_up_over_a_restore() -> None:
    meter = cost.Meter(torch.device("cpu"))
    with meter.training():
        torch.ones(1000).sum()
    state = meter.state()
    assert state["train_seconds"] > 0 and state["energy_joules"] is None and state["peak_bytes"] > 1e6
    again = cost.Meter(torch.device("cpu"))
    again.restore(state)
    with again.training():
        pass
    assert again.train_seconds > state["train_seconds"]
