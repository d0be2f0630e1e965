"""A model's cost without training."""

from __future__ import annotations

import json
import sys

import pytest

from experiments.__main__ import main


def test_profile_prints_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile", "resnet_micro", "--image-size", "8", "--channels", "1", "--batch-size", "4", "--json"]
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    assert main() == 0
    row = json.loads(capsys.readouterr().out)
    assert row["forward_gmacs"] == pytest.approx(0.00224, rel=0.01)
    assert row["n_params"] == 366_538
    assert row["mfu"] is None and row["bare_images_per_second"] > 0
    low, high = row["bare_images_per_second_quartiles"]
    assert low <= row["bare_images_per_second"] <= high


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profile", "resnet_mikro"), ["no model named 'resnet_mikro'", "resnet_micro"]),
        (("profile", "vit_micro_p2", "--image-size", "9"), ["vit_micro_p2.yaml", "not divisible"]),
        (("profile", "resnet_micro", "--precision", "fp8"), ["--precision", "'fp8'"]),
    ],
)
def test_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    assert main() == 2
    told = capsys.readouterr().err.replace("\n", " ")
    for word in words:
        assert word in told
