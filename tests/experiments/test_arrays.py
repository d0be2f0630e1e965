"""Arrays in an .npz file: MedMNIST's names, Keras's names, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig
from experiments.data import datasets
from experiments.data.images import CUT, OWN

RNG = np.random.default_rng(0)


def config(path: Path, **changes: Any) -> DataConfig:
    values = {"title": "Mine", "source": "arrays", "path": str(path), "image_size": 8, "channels": 1}
    return DataConfig(**(values | {"mean": [0.5], "std": [0.5]} | changes))


def images(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "mine.npz", **arrays)
    return path / "mine.npz"


def medmnist(n: int = 20, *shape: int) -> dict[str, np.ndarray]:
    """As MedMNIST stores them: labels of shape (N, 1), validation images of its own."""
    found = {}
    for split, size in (("train", n), ("val", n // 2), ("test", n)):
        found |= {f"{split}_images": images(size, *(shape or (8, 8))), f"{split}_labels": (np.arange(size) % 2)[:, None]}
    return found


def test_a_medmnist_file_works_as_it_is(tmp_path: Path) -> None:
    arrays = medmnist()
    dataset = datasets.load(config(saved(tmp_path, **arrays)))
    assert dataset.class_names == ("0", "1") and dataset.test_split == OWN
    assert len(dataset.pool) == 30 and len(dataset.test) == 20  # validation is cut of training and validation images
    assert np.array_equal(np.asarray(dataset.pool.pixels)[20:, 0], arrays["val_images"])
    assert np.array_equal(dataset.test.labels, arrays["test_labels"][:, 0])
    assert dataset.pool.ids[20].startswith("val/00000#")


@pytest.mark.parametrize(
    ("stored", "channels"),
    [
        (images(10, 8, 8, 3), 3),
        (images(10, 3, 8, 8), 3),
        (images(10, 8, 8, 1), 1),
        (images(10, 8, 8).astype(np.int64), 1),
        ((images(10, 8, 8) / 255).astype(np.float32), 1),
    ],
)
def test_shapes_and_kinds_of_pixels(tmp_path: Path, stored: np.ndarray, channels: int) -> None:
    path = saved(tmp_path, x_train=stored, y_train=np.arange(10) % 2, x_test=stored, y_test=np.arange(10) % 2)
    moments = {"mean": [0.5] * channels, "std": [0.5] * channels}
    pixels = np.asarray(datasets.load(config(path, channels=channels, **moments)).pool.pixels)
    expected = stored * 255 if stored.dtype.kind == "f" else stored
    if stored.ndim == 3:
        expected = expected[:, None]
    elif stored.shape[-1] in (1, 3):
        expected = np.moveaxis(expected, -1, 1)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, np.rint(expected))


def test_one_set_is_cut_and_its_classes_are_named(tmp_path: Path) -> None:
    labels = np.array(["dog", "cat"] * 10)
    dataset = datasets.load(config(saved(tmp_path, images=images(20, 8, 12), labels=labels)))
    assert dataset.class_names == ("cat", "dog") and dataset.test_split == CUT
    assert len(dataset.pool) == 16 and len(dataset.test) == 4
    again = saved(tmp_path, images=images(20, 8, 8), labels=np.arange(20) % 2 + 5, class_names=np.array(["five", "six"]))
    datasets.forget()
    assert datasets.load(config(again)).class_names == ("five", "six")


def test_other_images_in_the_same_file_are_other_samples(tmp_path: Path) -> None:
    arrays = medmnist()
    before = datasets.load(config(saved(tmp_path, **arrays))).pool.ids
    arrays["train_images"][3, 0, 0] ^= 1
    datasets.forget()
    after = datasets.load(config(saved(tmp_path, **arrays))).pool.ids
    assert (before != after).tolist() == [index == 3 for index in range(30)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_labels": np.zeros((20, 3))}, "labels must have shape (N,) or (N, 1), got (20, 3)"),
        ({"train_labels": np.full(20, 0.5)}, "whole numbers or text, got 0.5"),
        ({"train_labels": np.zeros(19)}, "20 images and 19 labels"),
        ({"train_images": images(20, 8, 8, 2)}, "C = 1 or 3, got (20, 8, 8, 2)"),
        ({"train_images": images(20, 64)}, "got (20, 64)"),
        ({"train_images": np.full((20, 8, 8), 300)}, "int64 from 300 to 300"),
        ({"train_images": np.full((20, 8, 8), 2.5)}, "floats from 0 to 1, got float64 from 2.5 to 2.5"),
        ({"train_images": np.full((20, 8, 8), np.nan)}, "got 1280 of float64 that are not a number (NaN)"),
        ({"test_labels": np.full(20, 7)}, "test holds the label 7, which no training image has"),
        ({"train_labels": np.where(np.arange(20) % 2, np.inf, 0.0)}, "whole numbers or text, got inf"),
        ({"train_labels": np.zeros(20)}, "all training images are of one class, 0"),
        ({"class_names": np.array(["one"])}, "1 class names for 2 classes"),
        ({"class_names": np.array("one")}, "1 class names for 2 classes"),
        ({"class_names": np.array(["one", "one"])}, "1 class names for 2 classes. Name each class once"),
        ({"train_images": np.array([None] * 20)}, "train_images is an array of Python objects"),
        ({"train_labels": np.array(["a", "b"] * 10, object)}, "train_labels is an array of Python objects"),
    ],
)
def test_arrays_that_are_no_images_or_labels(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = saved(tmp_path, **(medmnist() | changes))
    with pytest.raises(ConfigError) as caught:
        datasets.load(config(path))
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_file_without_training_images_or_no_file(tmp_path: Path) -> None:
    path = saved(tmp_path, pictures=images(3, 8, 8))
    with pytest.raises(ConfigError, match="it holds pictures. Name them train_images and train_labels or"):  # noqa: RUF043
        datasets.load(config(path))
    path.write_bytes(path.read_bytes()[:100])
    datasets.forget()
    with pytest.raises(ConfigError, match="not an .npz file. Write one with"):  # noqa: RUF043
        datasets.load(config(path))
    with pytest.raises(ConfigError, match="no file /nowhere"):
        datasets.load(config(Path("/nowhere.npz")))


@pytest.mark.parametrize("name", ["images", "x_test", "val_images"])
def test_images_without_labels_are_not_passed_over(tmp_path: Path, name: str) -> None:
    whole = {} if name == "images" else {"x_train": images(20, 8, 8), "y_train": np.arange(20) % 2}
    path = saved(tmp_path, **whole, **{name: images(20, 8, 8)})
    with pytest.raises(ConfigError, match=f"holds {name} without .*_?labels|holds {name} without y_test"):
        datasets.load(config(path))


def test_one_array_alone_is_not_such_a_file(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, images(20, 8, 8))
    with pytest.raises(ConfigError, match="not an .npz file"):  # noqa: RUF043
        datasets.load(config(path))
