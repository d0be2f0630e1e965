"""Datasets: the embedded digits, IDX files, folders of images, and what is said when they are not right."""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig
from experiments.data import datasets, decoding, image_folder
from experiments.data.images import Dataset, Images, Rows, SealedTest
from experiments.grid import driver
from experiments.grid.ledger import read_splits


def folder_config(path: Path, **changes: object) -> DataConfig:
    values = {
        "title": "Photos",
        "source": "image_folder",
        "path": str(path),
        "image_size": 16,
        "channels": 3,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    return DataConfig.model_validate(values | changes)


def make_tree(root: Path, splits: tuple[str, ...], per_class: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for split in splits:
        for index, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                pixels[..., 0] = 250 if index else 5
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def faults_of(config: DataConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        datasets.load(config)
    return "\n".join(caught.value.faults)


def test_digits_in_blocks() -> None:
    cut = {name: datasets.load(loading.load_part("data", name)) for name in ("digits", "digits_blocks")}
    blocks, random = cut["digits_blocks"], cut["digits"]
    for part in ("pool", "test"):  # the same numbers of every digit
        counts = [np.bincount(getattr(dataset, part).labels).tolist() for dataset in (blocks, random)]
        assert counts[0] == counts[1]
    assert not set(blocks.pool.ids) & set(blocks.test.ids)
    # Nearly one stretch of the file: 374 positions for 364 images.
    assert (blocks.test.ids[0], blocks.test.ids[-1]) == ("digits/01423", "digits/01796")
    assert (blocks.pool.ids > blocks.test.ids[0]).sum() == 10


def test_only_digits_are_cut_in_blocks() -> None:
    values = loading.load_part("data", "fashion_mnist").model_dump() | {"test_cut": "blocks"}
    with pytest.raises(ValidationError, match=r"`test_cut` is for digits, .* delete it for fashion_mnist"):
        DataConfig.model_validate(values)


def test_digits() -> None:
    config = DataConfig(title="Digits", source="digits", image_size=8, channels=1, mean=[0.3], std=[0.4])
    dataset = datasets.load(config)
    assert dataset.pool.pixels.shape[1:] == (1, 8, 8)
    assert dataset.pool.pixels.max() == 255
    assert len(dataset.pool) + len(dataset.test) == 1797
    assert not set(dataset.pool.ids) & set(dataset.test.ids)
    assert len(dataset.class_names) == 10


def test_folder_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder_config(make_tree(tmp_path / "photos", ("train", "test")))
    first = image_folder.load(config)
    monkeypatch.setattr(decoding, "decode", None)  # a second decoding would fail
    assert np.array_equal(image_folder.load(config).pool.pixels, first.pool.pixels)


def test_changed_file_is_decoded_again(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", ("train", "test"))
    loaded = image_folder.load(folder_config(root)).pool
    before, first_id = loaded.pixels.copy(), loaded.ids[0]
    Image.new("RGB", (40, 40), (1, 2, 3)).save(root / "train" / "cat" / "0.png")
    after = image_folder.load(folder_config(root)).pool.pixels
    assert not np.array_equal(before[0], after[0])
    assert image_folder.load(folder_config(root)).pool.ids[0] != first_id
    assert np.array_equal(before[1], after[1])


def test_cache_knows_content_not_place_nor_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(tmp_path / "photos", ("train", "test"))
    loaded = image_folder.load(folder_config(root))
    copy = shutil.copytree(root, tmp_path / "elsewhere" / "photos", copy_function=shutil.copyfile)  # with other times
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", None)  # a second decoding would fail
        copied = image_folder.load(folder_config(copy))
    assert np.array_equal(copied.pool.ids, loaded.pool.ids) and np.array_equal(copied.pool.pixels, loaded.pool.pixels)
    small, large = sorted((root / "train" / "cat").glob("[01].png"), key=lambda file: file.stat().st_size)
    before = large.stat()
    large.write_bytes(small.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = image_folder.load(folder_config(root)).pool
    assert np.array_equal(changed.pixels[0], changed.pixels[1])
    assert changed.ids[int(large.stem)] != loaded.pool.ids[int(large.stem)]


def cache_file(tmp_path: Path) -> Path:
    return next((tmp_path / "data_dir" / "cache").glob("*.npy"))


@pytest.mark.parametrize("content", ["empty", "zip", "float32", "fewer rows", "another size", "column order", "scalar"])
def test_a_cache_that_does_not_fit_is_made_again(tmp_path: Path, content: str) -> None:
    root = make_tree(tmp_path / "photos", ("",))
    first = np.array(image_folder.load(folder_config(root)).pool.pixels)
    path = cache_file(tmp_path)
    whole = np.load(path)
    kinds = {
        "float32": whole.astype(np.float32),
        "fewer rows": whole[:-1],
        "another size": whole[..., :8, :8],
        "column order": np.asfortranarray(whole),
        "scalar": np.uint8(3),
    }
    if content == "empty":
        path.write_bytes(b"")
    elif content == "zip":
        with open(path, "wb") as file:
            np.savez(file, pixels=whole)
    else:
        np.save(path, kinds[content])
    assert np.array_equal(image_folder.load(folder_config(root)).pool.pixels, first)
    assert np.array_equal(np.load(path), whole)


def test_what_a_killed_process_left_in_the_cache_is_swept(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", ("",))
    image_folder.load(folder_config(root))
    path = cache_file(tmp_path)
    left, new, filled = (path.with_name(f".{path.name}.{name}.tmp") for name in ("left", "new", "filled"))
    for file in (left, new, filled):
        file.write_bytes(b"half")
    for file in (left, filled):
        os.utime(file, (0, 0))
    path.unlink()
    with open(filled, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        image_folder.load(folder_config(root))
    assert path.exists() and not left.exists() and new.exists() and filled.exists()


@pytest.mark.parametrize("name", ["n" * 235, "写" * 80])
def test_a_folder_of_any_name_is_cached(tmp_path: Path, name: str) -> None:
    config = folder_config(make_tree(tmp_path / name, ("",)))
    assert isinstance(image_folder.load(config).pool.pixels, Rows) and cache_file(tmp_path).exists()


def test_a_set_too_large_for_the_cache_is_decoded_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(tmp_path / "photos", ("train", "test"))
    cached = image_folder.load(folder_config(root))
    monkeypatch.setattr(decoding, "CACHE_BYTES", 20 * 3 * 16 * 16 - 1)
    large = image_folder.load(folder_config(root))
    assert isinstance(large.pool.pixels, Rows) and isinstance(large.pool.pixels.base, decoding.Photos)
    file = root / "train" / "cat" / "0.png"
    assert large.pool.ids[0] == f"train/cat/0.png#{file.stat().st_size}b"
    assert np.array_equal(np.asarray(large.pool.pixels), cached.pool.pixels)
    chosen = np.array([19, 0, 7, 7])
    assert np.array_equal(np.asarray(large.pool.take(chosen).pixels), cached.pool.pixels[chosen])
    assert np.array_equal(large.pool.pixels[3], cached.pool.pixels[3])
    file.unlink()
    with pytest.raises(OSError, match=r"train/cat/0\.png: not a readable image"):
        large.pool.pixels[0]


def test_decode_turns_crops_and_flattens(tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by a quarter turn
    upright.paste("blue", (0, 0, 20, 20))
    upright.save(tmp_path / "turned.png", exif=exif)
    pixels = decoding.decode(tmp_path / "turned.png", 8, 3)
    assert pixels.shape == (3, 8, 8)
    assert pixels[2, 0, 4] > 200 and pixels[0, 7, 4] > 200  # blue is on top after the turn
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decoding.decode(tmp_path / "clear.png", 8, 1).shape == (1, 8, 8)
    frames = [Image.new("P", (9, 9), colour) for colour in (0, 1)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert decoding.decode(tmp_path / "moving.gif", 8, 3).shape == (3, 8, 8)


def test_every_unreadable_image_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", ("train", "test"))
    whole = (root / "train" / "cat" / "1.png").read_bytes()
    (root / "train" / "cat" / "1.png").write_bytes(whole[:200])
    (root / "test" / "dog" / "2.png").write_text("no image", encoding="utf-8")
    text = faults_of(folder_config(root))
    assert "train/cat/1.png: not a readable image" in text
    (root / "train" / "cat" / "1.png").write_bytes(whole)
    assert "test/dog/2.png: not a readable image" in faults_of(folder_config(root))


def test_decompression_bomb_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", ("train", "test"))
    Image.new("1", (10_000, 10_000)).save(root / "train" / "cat" / "bomb.png")
    assert "bomb.png: 10000 × 10000 pixels are more than 50 million" in faults_of(folder_config(root))


@pytest.mark.parametrize("damage", ["cut", "flip", "short", "foreign", "label", "empty"])
def test_broken_idx_files_are_named(tmp_path: Path, damage: str) -> None:
    write_idx(tmp_path / "idx", packed=True)
    path = tmp_path / "idx" / "train-labels-idx1-ubyte.gz"
    packed, content = bytearray(path.read_bytes()), gzip.decompress(path.read_bytes())
    packed[-12] ^= 0xFF
    broken = {
        "cut": path.read_bytes()[:20],
        "flip": bytes(packed),
        "short": gzip.compress(content[:-3]),
        "foreign": (tmp_path / "idx" / "t10k-labels-idx1-ubyte.gz").read_bytes(),
        "label": gzip.compress(content[:-1] + b"\x0a"),
        "empty": b"",
    }
    path.write_bytes(broken[damage])
    config = DataConfig(
        title="F", source="fashion_mnist", path=str(tmp_path / "idx"), image_size=28, channels=1, mean=[0.3], std=[0.3]
    )
    assert "train-labels-idx1-ubyte.gz" in faults_of(config)


def write_idx(folder: Path, *, packed: bool) -> None:
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("t10k", 20)):
        images = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents = {
            f"{split}-images-idx3-ubyte": struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes(),
            f"{split}-labels-idx1-ubyte": struct.pack(">II", 2049, count) + labels.tobytes(),
        }
        for name, content in contents.items():
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_files_that_are_there(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path / "idx", packed=packed)
    config = DataConfig(
        title="F", source="fashion_mnist", path=str(tmp_path / "idx"), image_size=28, channels=1, mean=[0.3], std=[0.3]
    )
    dataset = datasets.load(config)
    assert dataset.pool.pixels.shape == (30, 1, 28, 28)
    assert dataset.pool.pixels[0, 0, 0, :3].tolist() == [0, 1, 2]
    assert dataset.test.labels[:3].tolist() == [0, 1, 2]


def test_cifar_without_files_says_where_to_put_them(tmp_path: Path) -> None:
    config = DataConfig(
        title="C", source="cifar10", path=str(tmp_path), image_size=32, channels=3, mean=[0.5] * 3, std=[0.5] * 3
    )
    text = faults_of(config)
    assert "cifar-10-batches-py" in text and str(tmp_path) in text


def test_other_sizes_are_made_once_for_all_models() -> None:
    config = DataConfig(title="Digits", source="digits", image_size=16, channels=1, mean=[0.3], std=[0.4])
    assert datasets.load(config).test.pixels.shape[1:] == (1, 16, 16)


def test_wrong_channel_count_is_told() -> None:
    config = DataConfig(title="Digits", source="digits", image_size=8, channels=3, mean=[0.3] * 3, std=[0.4] * 3)
    assert "Set data.channels=1" in faults_of(config)


def test_the_seal_breaks_once() -> None:
    images = Images(np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1]), np.array(["a", "b"]))
    sealed = Dataset(("x", "y"), images, images).seal()
    assert isinstance(sealed, SealedTest) and len(sealed) == 2
    assert sealed.open() is images
    with pytest.raises(RuntimeError, match="opened twice"):
        sealed.open()


def test_a_source_that_is_not_there_is_named_with_the_nearest() -> None:
    config = DataConfig(title="Mine", source="digit", image_size=8, channels=1, mean=[0.3], std=[0.4])
    for ask in (datasets.load, datasets.is_published):
        with pytest.raises(ConfigError, match=r"Mine: `data.source`: no source is named 'digit'. Did you mean 'digits'"):
            ask(config)


@pytest.mark.parametrize("published", [True, False])
def test_only_published_images_are_not_read_again(published: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, read = loading.load_experiment("smoke", {}), list[str]()
    cells = driver.plan(experiment)
    monkeypatch.setitem(datasets.SOURCES, "digits", datasets.Source(datasets.SOURCES["digits"].load, published))
    monkeypatch.setattr(driver, "cell_status", lambda cell, folder: ("done", None))
    monkeypatch.setattr(driver, "compute_splits", lambda experiment, folder: read.append("again") or read_splits(folder))
    assert [cell.run_id for cell in driver.plan(experiment)] == [cell.run_id for cell in cells]
    assert read == ([] if published else ["again"])
