"""Using a trained model: predictions on photos, attention, exported files with equal logits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFont
from safetensors import safe_open
from safetensors.torch import load_file

import vit_scratch
from experiments.__main__ import main
from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.grid import driver
from experiments.inference.export import ABOUT
from experiments.inference.predict import Guess, attention, draw_attention, heat_map, predict, shown
from experiments.inference.trained import Trained, load_run
from experiments.records.record import read_record
from experiments.training.run import run
from tests.arithmetic import rounding

ARGUMENTS = ["recipe.steps=2", "recipe.evaluations=1", "seeds=[0]", "train_fractions=[0.1]"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runs folder with a ViT of ours and a ResNet, both hardly trained."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("RUNS_DIR", str(root))
        experiment = loading.load_experiment("smoke", loading.parse_overrides(ARGUMENTS))
        for cell in driver.plan(experiment):
            folder = root / "smoke" / str(cell.run_id)
            folder.mkdir(parents=True)
            run(cell, folder.parent)
    yield root


@pytest.fixture
def vit(runs: Path) -> Path:
    return next((runs / "smoke").glob("vit_micro_p2-*"))


@pytest.fixture
def resnet(runs: Path) -> Path:
    return next((runs / "smoke").glob("resnet_micro-*"))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    return main()


def logits(trained: Trained, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    images = torch.randn(n, trained.data.channels, trained.data.image_size, trained.data.image_size)
    with torch.inference_mode():
        return images, trained.model(images)


def tolerance(model: torch.nn.Module, expected: Any) -> float:
    """Rounding of logits that were computed in batches of another size, or by other kernels, in single precision: sums over
    the inputs of every layer, and half as many again in attention, of terms that make up activations of size 1."""
    terms = sum(parameter[0].numel() for parameter in model.parameters() if parameter.ndim > 1 and len(parameter) > 1)
    return rounding(3 * terms // 2, max(1.0, float(np.abs(expected).max())))


def test_loaded_model_gives_the_logits_that_the_run_saved(vit: Path, resnet: Path) -> None:
    from experiments.data import datasets
    from experiments.data.batches import EvaluationBatches, Normalise
    from experiments.training.steps import evaluate

    for folder in (vit, resnet):
        trained = load_run(folder)
        test = datasets.load(trained.data).test
        batches = EvaluationBatches(test, Normalise(trained.data.mean, trained.data.std, CPU), device=CPU)
        with np.load(folder / "predictions.npz") as saved:
            found, expected = evaluate(trained.model, batches, device=CPU), saved["logits"]
            assert np.abs(found - expected).max() <= tolerance(trained.model, expected)
        assert trained.class_names == tuple("0123456789")


def test_predict_names_classes_with_probabilities(
    vit: Path, runs: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "predict", vit, *photos, "--json", "--top", "10") == 0
    values = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in values] == [str(path) for path in photos]
    for entry in values:
        probabilities = [guess["probability"] for guess in entry["top"]]
        assert len(probabilities) == 10 and sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)
    folder = photos[0].parent
    assert call(monkeypatch, "predict", vit, folder, "--json", "--top", "10") == 0
    assert {entry["image"]: entry for entry in values}.items() <= {
        entry["image"]: entry for entry in json.loads(capsys.readouterr().out)
    }.items()
    monkeypatch.setenv("RUNS_DIR", str(runs))
    assert call(monkeypatch, "predict", vit.name, photos[0]) == 0  # by its id
    shown = capsys.readouterr().out
    best = values[0]["top"][0]
    assert shown.startswith(f"{photos[0]}: {best['name']} {best['probability']:.1%}, ") and shown.count("%") == 3


def test_attention_is_drawn_for_every_photo(
    vit: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "attention.png"
    assert call(monkeypatch, "predict", vit, *photos, "--attention", target) == 0
    with Image.open(target) as picture:
        assert picture.size == (672, 2 * (336 + 28))
        pixels = np.asarray(picture)
    assert (pixels[:28, :336] == 0).any() and (pixels[:28, 336:] == 0).any(), "name and prediction are written"
    assert np.ptp(pixels[28:364, 336:].astype(int), axis=2).max() > 50, "the heat has colours"
    assert str(target) in capsys.readouterr().out


def test_attention_lies_over_what_the_model_saw(vit: Path, tmp_path: Path) -> None:
    trained, target, photo = load_run(vit), tmp_path / "attention.png", tmp_path / "framed.png"
    framed = np.zeros((80, 80), np.uint8)
    framed[20:60, 20:60] = 255
    Image.fromarray(framed).save(photo)
    data = trained.data.model_copy(update={"store_size": 16, "crop_fraction": 0.5})
    draw_attention(replace(trained, data=data), [photo], [Guess("1", 1.0)], target)
    with Image.open(target) as picture:
        assert np.asarray(picture)[28 + 10 : 354, 10:326].min() == 255, "the centre alone"


def test_a_folder_of_photos_goes_through_the_model_in_batches(
    vit: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    many, trained, sizes = [*photos, *photos[::-1], photos[0]], load_run(vit), list[int]()
    trained.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    together, maps = predict(trained, many, 10), attention(trained, many)
    monkeypatch.setattr("experiments.inference.trained.BATCH_SIZE", 2)
    in_batches, same_maps = predict(trained, many, 10), attention(trained, many)
    assert sizes[0] == 5 and [size for size in sizes if size != 5][:3] == [2, 2, 1]
    for alone, other in zip(in_batches, together, strict=True):
        values = {guess.name: guess.probability for guess in other}
        assert {guess.name: guess.probability for guess in alone} == pytest.approx(values, abs=1e-5)
    assert maps.shape == (5, 4, 4) and np.abs(maps - same_maps).max() < 1e-5


@pytest.mark.parametrize("photo", [np.zeros(3), np.full(3, 30), np.full(3, 255)])
def test_heat_is_read_alike_on_dark_and_on_bright_photos(photo: NDArray[np.float64]) -> None:
    patches = np.zeros((4, 4), np.float32)
    patches[1, 2] = 1
    heat = heat_map(np.broadcast_to(photo, (64, 64, 3)).astype(np.uint8), patches).mean(axis=2)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row // 16, column // 16) == (1, 2) and heat.max() > 3 * heat[48:, :16].mean()


def test_a_name_is_cut_where_there_is_no_room_for_it() -> None:
    font = ImageFont.load_default(16)
    assert shown("short.jpg", font, 300) == "short.jpg" and shown("œ", font, 300) == "?"
    long = shown("a very long name of a photo.jpg", font, 100)
    assert long.startswith("a very") and long.endswith("...") and font.getlength(long) <= 100
    assert shown("wide", font, 1) == ""


def test_attention_to_permuted_pixels_is_refused(vit: Path, photos: list[Path]) -> None:
    trained = load_run(vit)
    permuted = replace(trained, data=trained.data.model_copy(update={"permute_pixels": 0}))
    plain, moved = (next(run.batches(photos)).flatten(2) for run in (trained, permuted))
    assert not torch.equal(plain, moved) and torch.equal(plain.sort().values, moved.sort().values)  # as it was trained
    with pytest.raises(ConfigError, match="saw permuted pixels, whose patches are no places; leave it out"):
        attention(permuted, photos)


@pytest.mark.parametrize("layout", ["timm", "torchvision", "hf", "npz"])
def test_exported_weights_give_equal_logits_in_every_layout(
    vit: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / ("model.npz" if layout == "npz" else "model.safetensors")
    assert call(monkeypatch, "export", vit, "--layout", layout, "-o", target) == 0
    images, expected = logits(load_run(vit))
    fresh = vit_scratch.build("micro", image_size=8, patch_size=2, in_channels=1, num_classes=10)
    vit_scratch.weights.load(fresh, target, layout)
    assert torch.equal(fresh.eval()(images), expected)


def test_exported_weights_carry_what_one_must_know(resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.safetensors"
    assert call(monkeypatch, "export", resnet, "-o", target) == 0
    state = load_run(resnet).model.state_dict()
    stored = load_file(target)
    assert set(stored) == set(state) and all(torch.equal(stored[name], state[name]) for name in state)
    with safe_open(target, "pt") as file:
        facts = json.loads(file.metadata()["about"])
    assert facts["class_names"] == list("0123456789") and facts["mean"] == [0.305]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_exported_program_gives_equal_logits_for_any_batch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder, target = request.getfixturevalue(name), tmp_path / "model.pt2"
    assert call(monkeypatch, "export", folder, "--format", "torch-export", "-o", target) == 0
    extra = {ABOUT: ""}
    program = torch.export.load(target, extra_files=extra).module()
    for n in (1, 5):
        images, expected = logits(trained := load_run(folder), n)
        assert (program(images) - expected).abs().max() <= tolerance(trained.model, expected)
    assert json.loads(extra[ABOUT])["run_id"] == read_record(folder / "record.json").run_id


def test_bad_input_is_named(
    vit: Path,
    resnet: Path,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    note, gone = tmp_path / "note.txt", tmp_path / "gone.jpg"
    (tmp_path / "empty").mkdir()
    note.write_text("no image", encoding="utf-8")
    cases: list[tuple[list[object], list[str]]] = [
        (["predict", vit, photos[0], note, gone], ["note.txt: not a readable image", "gone.jpg: not a readable image"]),
        (["predict", vit, "/dev/zero", photos[0]], ["/dev/zero: a device, not an image"]),
        (["predict", "nothing", photos[0]], ["nothing: no run folder, and no finished run of that name"]),
        (["predict", resnet, photos[0], "--attention", tmp_path / "a.png"], ["not this project's own ViT"]),
        (["predict", vit, photos[0], "--attention", tmp_path / "a.txt"], ["a.txt must end in"]),
        (["predict", vit, photos[0], "--attention", tmp_path / "no" / "a.png"], ["Make it first"]),
        (["predict", vit, tmp_path / "empty"], ["empty: no image file in this folder or below it"]),
        (["export", vit, "-o", tmp_path / "m.onnx"], ["ONNX is not written here", "--format torch-export", "m.pt2"]),
        (["export", vit, "-o", tmp_path / "m.bin"], ["m.bin must end in .safetensors"]),
        (["export", vit, "--format", "onnx", "-o", tmp_path / "m.onnx"], ["one of safetensors, torch-export", "onnx"]),
        (["export", vit, "--layout", "jax", "-o", tmp_path / "m.safetensors"], ["unknown layout 'jax'"]),
        (["export", resnet, "--layout", "timm", "-o", tmp_path / "m.safetensors"], ["timm's models keep their own names"]),
        (["export", vit, "--format", "torch-export", "--layout", "hf", "-o", tmp_path / "m.pt2"], ["--layout"]),
        (["export", vit], ["--output"]),
    ]
    for arguments, said in cases:
        assert call(monkeypatch, *arguments) == 2, arguments
        shown = " ".join(capsys.readouterr().err.split())
        assert all(words in shown for words in said), shown
    assert not list(tmp_path.glob("m.*")) and not (tmp_path / "a.png").exists()


def test_damaged_runs_are_told(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from experiments.config.errors import ConfigError

    copy = tmp_path / "copy"
    shutil.copytree(vit, copy)
    for name, content, said in (
        ("model.safetensors", b"broken", "not the weights of this run"),
        ("config.yaml", b"model: {}", "not the configuration of a run"),
        ("record.json", b"{", "not valid JSON"),
    ):
        kept = (copy / name).read_bytes()
        (copy / name).write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            load_run(copy)
        (copy / name).write_bytes(kept)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="Published records hold none"):
        load_run(copy)


def test_rollout_by_hand() -> None:
    """Two tokens, two blocks: (A + I)/2 of each, multiplied."""
    first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
    second = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    # (first + I)/2 = [[.75, .25], [0, 1]]; (second + I)/2 = [[.5, .5], [.5, .5]]; second @ first
    expected = torch.tensor([[[0.375, 0.625], [0.375, 0.625]]])
    assert torch.allclose(vit_scratch.attention.rollout([first, second]), expected)
    assert torch.allclose(vit_scratch.attention.class_token_map([first, second], (1, 1)), torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="at least one block"):
        vit_scratch.attention.rollout([])
