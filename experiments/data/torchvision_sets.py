"""Labelled image classifications of torchvision by their names, with the splits that their authors published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from numpy.typing import NDArray
from torchvision import datasets

from experiments.config.errors import ConfigError
from experiments.config.loading import nearest
from experiments.config.paths import in_data_dir
from experiments.config.schema import DataConfig
from experiments.data.arrays import distinct, joined, marked
from experiments.data.decoding import fitted, pixels_of
from experiments.data.download import absent
from experiments.data.images import OWN, Dataset, Images, Pixels

Parts = tuple[dict[str, Any], ...]
_TRAIN_AND_TEST: tuple[Parts, Parts] = (({"train": True},), ({"train": False},))
_SPLITS: tuple[Parts, Parts] = (({"split": "train"},), ({"split": "test"},))
_WITH_VAL: tuple[Parts, Parts] = (({"split": "train"}, {"split": "val"}), ({"split": "test"},))
_TRAINVAL: tuple[Parts, Parts] = (({"split": "trainval"},), ({"split": "test"},))
_VAL_AS_TEST: tuple[Parts, Parts] = (({"split": "train"},), ({"split": "val"},))
_UNSPLIT: tuple[Parts, Parts] = (({},), ())

SETS: dict[str, tuple[Parts, Parts]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _TRAIN_AND_TEST),
    **dict.fromkeys(("Food101", "GTSRB", "STL10", "SVHN", "StanfordCars"), _SPLITS),
    **dict.fromkeys(("DTD", "Flowers102", "RenderedSST2"), _WITH_VAL),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _TRAINVAL),
    **dict.fromkeys(("ImageNet", "Imagenette"), _VAL_AS_TEST),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _UNSPLIT),
    "Country211": (({"split": "train"}, {"split": "valid"}), ({"split": "test"},)),
    "EMNIST": (({"split": "balanced", "train": True},), ({"split": "balanced", "train": False},)),
}
"""By name the parts that make the pool, of which validation is cut, and those that make the test set."""


def load(config: DataConfig) -> Dataset:
    """Load the dataset `data.name` from `data.path` or `DATA_DIR`, downloaded where it is not there.

    Raises
    ------
    ConfigError
        If torchvision has no labelled set of images of this name, or its files are missing and cannot be downloaded.
    """
    name = str(config.name)
    if name not in SETS:
        known = "is not supported here" if hasattr(datasets, name) else "is not known to torchvision"
        raise ConfigError(f"{config.title}: `data.name`: {name!r} {known}. {nearest(name, SETS)}")
    pool_parts, test_parts = SETS[name]
    opened = {repr(part): _opened(name, part, config) for part in (*pool_parts, *test_parts)}
    class_names = _class_names(opened[repr(pool_parts[0])], name)

    def images(parts: Parts) -> Images:
        return joined([_images(opened[repr(part)], name, part, config) for part in parts])

    pool = images(pool_parts)
    if test_parts:
        stands_in = "its own validation images, as it has no test split" if test_parts == _VAL_AS_TEST[1] else OWN
        return Dataset(class_names, pool, images(test_parts), stands_in)
    return Dataset.cut(class_names, pool)


def _opened(name: str, part: dict[str, Any], config: DataConfig) -> Any:
    """A part of a dataset: as it lies there, else downloaded."""
    root, cls = in_data_dir(config.path), getattr(datasets, name)
    files = f"the files that torchvision.datasets.{name} expects"
    try:
        return cls(str(root), **part)
    except (OSError, RuntimeError) as missing:
        if config.path or name in ("ImageNet", "StanfordCars"):  # neither can be downloaded
            raise absent(name, root, files, missing) from missing
    try:
        return cls(str(root), download=True, **part)
    except (OSError, RuntimeError) as error:
        raise absent(name, root, files, error) from error


def _class_names(part: Any, name: str) -> tuple[str, ...]:
    """Names as torchvision has them, else the numbers of the classes."""
    names = getattr(part, "classes", None) or getattr(part, "categories", None)
    if not names:
        return tuple(str(label) for label in range(int(_labels(part, name).max()) + 1))
    return distinct([entry if isinstance(entry, str) else ", ".join(entry) for entry in names])


def _labels(part: Any, name: str) -> NDArray[np.int64]:
    """All labels, without decoding an image; torchvision's classes keep them under several names."""
    if hasattr(part, "_samples"):
        return np.array([label for _, label in part._samples], np.int64)
    kept = next((getattr(part, key) for key in ("targets", "labels", "_labels", "y") if hasattr(part, key)), None)
    if kept is None:
        raise ConfigError(f"torchvision {torchvision.__version__} keeps no labels of {name}; use another version.")
    return np.asarray(kept).astype(np.int64).reshape(len(part), -1)[:, 0]  # QMNIST keeps the writer and more beside it


def _images(part: Any, name: str, kind: dict[str, Any], config: DataConfig) -> Images:
    """The images of a part: decoded as any photos where they are files, else taken as torchvision gives them."""
    labels, size, channels = _labels(part, name), config.stored_size, config.channels
    split = "-".join(str(value) for value in kind.values()) or "all"
    pairs = next((getattr(part, key) for key in ("_samples", "imgs") if hasattr(part, key)), None)
    files = (
        [path for path, _ in pairs]
        if pairs
        else next((getattr(part, key) for key in ("_image_files", "_images") if hasattr(part, key)), None)
    )
    pixels: Pixels
    if files:
        pixels = pixels_of([Path(file) for file in files], size, channels, name=name)
    else:
        pixels = np.empty((len(labels), channels, size, size), np.uint8)
        for index in range(len(labels)):
            pixels[index] = fitted(part[index][0], f"{name} {split}, image {index}", size, channels)
    return Images(pixels, labels, marked(split, pixels))
