"""Datasets in the hub's form, from local parquet files; skipped without the library, which `make install` leaves out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig
from experiments.data import datasets

RNG = np.random.default_rng(0)


def config(path: Path | None = None, **changes: Any) -> DataConfig:
    values = {"title": "Hub", "source": "huggingface", "image_size": 8, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    return DataConfig(**(values | ({"path": str(path)} if path else {}) | changes))


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="make install WITH=huggingface"):
        datasets.load(config(name="mnist"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parquet files with an image column and a class label, as the hub has them."""
    library = pytest.importorskip("datasets", reason="`make install WITH=huggingface` installs it")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    features = library.Features({"picture": library.Image(), "kind": library.ClassLabel(names=["cat", "dog"])})
    place = tmp_path / "parquet"
    place.mkdir()
    for split, n in (("train", 12), ("test", 4)):
        pixels = RNG.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        rows = {"picture": [Image.fromarray(image) for image in pixels], "kind": [at % 2 for at in range(n)]}
        library.Dataset.from_dict(rows, features=features).to_parquet(place / f"{split}.parquet")
        np.save(tmp_path / f"{split}.npy", pixels)
    return place


def test_a_folder_of_parquet_files(folder: Path) -> None:
    dataset = datasets.load(config(folder))
    assert dataset.class_names == ("cat", "dog") and dataset.test_split == "its own"
    assert np.array_equal(np.asarray(dataset.pool.pixels), np.load(folder.parent / "train.npy").transpose(0, 3, 1, 2))
    assert dataset.test.labels.tolist() == [0, 1, 0, 1]


def test_columns_that_cannot_be_told_are_asked_for(folder: Path) -> None:
    assert len(datasets.load(config(folder, columns={"image": "picture", "label": "kind"})).pool) == 12
    with pytest.raises(
        ConfigError, match=r"no column 'photo'; set `data.columns.image` to one of its columns: picture, kind"
    ):
        datasets.load(config(folder, columns={"image": "photo"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"picture": None}, "Hub: image 3 of train: not a readable image"),
        ({"picture": {"bytes": b"junk", "path": None}}, "Hub: image 3 of train: not a readable image"),
        ({"kind": None}, "the column 'kind' of train must hold one label an image, got NoneType and int"),
    ],
)
def test_a_row_that_is_not_whole_is_named(folder: Path, changes: dict[str, Any], said: str) -> None:
    library = pytest.importorskip("datasets", reason="`make install WITH=huggingface` installs it")
    features = library.Features({"picture": library.Image(), "kind": library.ClassLabel(names=["cat", "dog"])})
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    rows = [{"picture": image, "kind": at % 2} | (changes if at == 3 else {}) for at in range(6)]
    library.Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    with pytest.raises(ConfigError) as caught:
        datasets.load(config(folder))
    assert said in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no folder /nowhere"):
        datasets.load(config(Path("/nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        datasets.load(config(tmp_path / "empty"))


def test_other_images_of_a_row_are_not_read(folder: Path) -> None:
    library = pytest.importorskip("datasets", reason="`make install WITH=huggingface` installs it")
    kinds = {"picture": library.Image(), "mask": library.Image(), "kind": library.ClassLabel(names=["cat", "dog"])}
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    rows = [{"picture": image, "mask": {"bytes": b"junk", "path": None}, "kind": at % 2} for at in range(6)]
    for split in ("train", "test"):
        library.Dataset.from_list(rows, features=library.Features(kinds)).to_parquet(folder / f"{split}.parquet")
    assert len(datasets.load(config(folder, columns={"image": "picture"})).pool) == 6
