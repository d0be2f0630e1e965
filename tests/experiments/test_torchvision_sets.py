"""Datasets of torchvision by name, from files in the form that torchvision expects; nothing is downloaded."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as published

from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig
from experiments.data import arrays, datasets, torchvision_sets
from experiments.data.images import CUT, OWN

RNG = np.random.default_rng(0)


def config(name: str, path: Path, **changes: Any) -> DataConfig:
    values = {"title": name, "source": "torchvision", "name": name, "path": str(path), "image_size": 16, "channels": 3}
    return DataConfig(**(values | {"mean": [0.5] * 3, "std": [0.5] * 3} | changes))


def photos(folder: Path, n: int, size: int = 20, suffix: str = "jpg") -> None:
    folder.mkdir(parents=True)
    for at in range(n):
        Image.fromarray(RNG.integers(0, 256, (size, size + 4, 3), dtype=np.uint8)).save(folder / f"{at}.{suffix}")


def idx(path: Path, values: np.ndarray, kind: int = 8) -> None:
    header = np.array([256 * kind + values.ndim, *values.shape], ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(header + values.tobytes()))
    path.write_bytes(header + values.tobytes())


def test_arrays_with_splits_of_their_own(tmp_path: Path) -> None:
    pixels = {
        "train": RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "t10k": RNG.integers(0, 256, (10, 28, 28), np.uint8),
    }
    for split, values in pixels.items():
        idx(tmp_path / "KMNIST" / "raw" / f"{split}-images-idx3-ubyte", values)
        idx(tmp_path / "KMNIST" / "raw" / f"{split}-labels-idx1-ubyte", (np.arange(len(values)) % 10).astype(np.uint8))
    grey = {"image_size": 28, "channels": 1, "mean": [0.5], "std": [0.5]}
    dataset = datasets.load(config("KMNIST", tmp_path, **grey))
    assert len(dataset.class_names) == 10 and dataset.test_split == OWN
    assert np.array_equal(np.asarray(dataset.pool.pixels)[:, 0], pixels["train"])
    assert np.array_equal(np.asarray(dataset.test.pixels)[:, 0], pixels["t10k"])
    assert dataset.test.labels.tolist() == list(range(10))


def test_labels_that_are_a_row_each_begin_with_the_class(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("test", 10)):
        labels = np.tile(np.arange(n)[:, None] % 10, 8) + np.arange(8) * 100  # class, then writer, partition and so on
        idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{split}-images-idx3-ubyte", np.zeros((n, 28, 28), np.uint8))
        idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{split}-labels-idx2-int", labels.astype(">i4"), kind=12)
    dataset = datasets.load(config("QMNIST", tmp_path, image_size=28, channels=1, mean=[0.5], std=[0.5]))
    assert dataset.pool.labels.tolist() == [*range(10)] * 3 and dataset.test.labels.tolist() == [*range(10)]


def test_a_path_lies_below_the_folder_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    for name in ("Forest", "River"):
        photos(tmp_path / "mine" / "eurosat" / "2750" / name, 10)
    mine = config("EuroSAT", Path("mine"))
    assert len(datasets.load(mine).pool) == 16
    for source in ("fashion_mnist", "cifar10"):
        with pytest.raises(ConfigError, match=str(tmp_path / "mine")):
            datasets.load(mine.model_copy(update={"source": source, "name": None}))


def test_photos_without_a_split_are_cut(tmp_path: Path) -> None:
    for name in ("Forest", "River"):
        photos(tmp_path / "eurosat" / "2750" / name, 10)
    dataset = datasets.load(config("EuroSAT", tmp_path))
    assert dataset.class_names == ("Forest", "River") and dataset.test_split == CUT
    assert dataset.pool.pixels.shape == (16, 3, 16, 16) and len(dataset.test) == 4


def test_validation_images_stand_in_where_there_is_no_test_split(tmp_path: Path) -> None:
    for split, n in (("train", 6), ("val", 3)):
        for name in ("n01440764", "n02102040"):
            photos(tmp_path / "imagenette2" / split / name, n, suffix="JPEG")
    dataset = datasets.load(config("Imagenette", tmp_path))
    assert dataset.class_names[1] == "English springer, English springer spaniel"
    assert (len(dataset.pool), len(dataset.test)) == (12, 6) and "validation" in dataset.test_split


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SVHM", "'SVHM' is not known to torchvision. Did you mean 'SVHN'?"),
        ("CelebA", "'CelebA' is not supported here."),
        ("DTD", "DTD is not in "),
    ],
)
def test_what_is_not_there_is_one_message(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        datasets.load(config(name, tmp_path))
    assert words in str(caught.value)


def test_every_set_exists_and_takes_its_parts(tmp_path: Path) -> None:
    for name, (pool, test) in torchvision_sets.SETS.items():
        cls = getattr(published, name)
        for part in (*pool, *test):
            with pytest.raises((OSError, RuntimeError)):  # absent; a wrong argument is a TypeError or ValueError
                cls(str(tmp_path), **part)


def test_classes_of_one_name_are_told_apart_by_their_numbers() -> None:
    assert arrays.distinct(["crane", "owl", "crane"]) == ("crane (0)", "owl", "crane (2)")
