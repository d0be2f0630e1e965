"""Images and labels as arrays in one ``.npz`` file, under the names of MedMNIST or of Keras."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.config.errors import ConfigError, reason
from experiments.config.paths import in_data_dir
from experiments.config.schema import DataConfig
from experiments.data.images import OWN, Dataset, Images, Pixels, Rows

NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("X_train", "y_train"), ("images", "labels")),
    "val": (("val_images", "val_labels"), ("x_val", "y_val"), ("X_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test"), ("X_test", "y_test")),
}
"""Names of images and labels, by split. Validation images join the training images, of which validation is cut."""

Arrays = Mapping[str, NDArray[Any]]


class Part(NamedTuple):
    """A split: uint8 pixels of shape (N, C, H, W), and a number or text for each image."""

    pixels: NDArray[np.uint8]
    labels: NDArray[Any]


def load(config: DataConfig) -> Dataset:
    """Load the arrays of the file `data.path`. Without test arrays a stratified fifth is cut, the same for every seed.

    Raises
    ------
    ConfigError
        If the file cannot be read, or an array is not of the kind, shape or range of images or of class labels.
    """
    path = in_data_dir(config.path)
    arrays = _read(path)
    parts = {split: found for split in NAMES if (found := _part(arrays, split, path))}
    if "train" not in parts:
        wanted, held = " or ".join(" and ".join(pair) for pair in NAMES["train"]), ", ".join(sorted(arrays)) or "nothing"
        raise ConfigError(f"{path}: no training images; it holds {held}. Name them {wanted}.")
    names = np.ravel(arrays.get("class_names", np.unique(parts["train"].labels)))
    return dataset_of(parts, tuple(map(str, names)), str(path))


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise ConfigError(f"`data.path`: no file {path}. Put the .npz file there, or set `data.path` to where it is.")
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path}: not an .npz file. Write one with numpy.savez(file, images=..., labels=...).")
    arrays: dict[str, NDArray[Any]] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                arrays[name] = file[name]
    except MemoryError as error:
        raise ConfigError(f"{path}: the memory does not suffice. Free memory, or store smaller images.") from error
    except Exception as error:  # a damaged archive raises nearly anything
        if "Object arrays" in str(error):
            raise ConfigError(
                f"{path}: {name} is an array of Python objects, which is not read. Save numbers or text, as by .astype(str)."
            ) from error
        raise ConfigError(f"{path}: not a readable .npz file of plain arrays ({reason(error)}). Save it again.") from error
    return arrays


def _part(arrays: Arrays, split: str, path: Path) -> Part | None:
    """The images and labels of a split, under whichever names they are."""
    for images, labels in NAMES[split]:
        if images in arrays and labels in arrays:
            return part(arrays[images], arrays[labels], f"{path}: {images}", f"{path}: {labels}")
    for images, labels in NAMES[split]:
        if images in arrays:
            raise ConfigError(f"{path}: holds {images} without {labels}. Add {labels}, or leave out {images}.")
    return None


def part(images: NDArray[Any], labels: NDArray[Any], name: str, name_of_labels: str = "") -> Part:
    """A split, checked; the names are for messages.

    Raises
    ------
    ConfigError
        If an array is not of the kind, shape or range of images or of class labels.
    """
    found = Part(_pixels(images, name), _labels(labels, name_of_labels or f"{name} labels"))
    if len(found.pixels) != len(found.labels):
        counts = f"{len(found.pixels)} images and {len(found.labels)} labels"
        raise ConfigError(f"{name}: {counts}. Give one label an image.")
    return found


def _pixels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Images as uint8 of shape (N, C, H, W) with H = W: a centre crop of what is not square."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        shapes = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"
        raise ConfigError(f"{name}: images must have shape {shapes}, got {array.shape}.")
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        if array.dtype.kind == "f" and low >= 0 and high <= 1:
            array = np.rint(array * 255)
        elif array.dtype.kind not in "iu" or low < 0 or high > 255:
            found = f"{array.dtype} from {low} to {high}"
            if low != low:
                found = f"{np.isnan(array).sum()} of {array.dtype} that are not a number (NaN)"
            raise ConfigError(f"{name}: pixels must be whole numbers from 0 to 255, or floats from 0 to 1, got {found}.")
    side = min(array.shape[2:])
    top, left = ((length - side) // 2 for length in array.shape[2:])
    return np.ascontiguousarray(array[:, :, top : top + side, left : left + side], dtype=np.uint8)


def _labels(array: NDArray[Any], name: str) -> NDArray[Any]:
    """One label an image: whole numbers or text."""
    if array.ndim == 2 and array.shape[1] == 1:  # as MedMNIST has them
        array = array[:, 0]
    if array.ndim != 1:
        raise ConfigError(f"{name}: labels must have shape (N,) or (N, 1), got {array.shape}: one label an image.")
    if array.dtype.kind == "f" and (array == np.rint(array)).all() and np.isfinite(array).all():
        array = array.astype(np.int64)
    if array.dtype.kind == "f":
        odd = array[array != np.rint(array)] if np.isfinite(array).all() else array[~np.isfinite(array)]
        raise ConfigError(f"{name}: labels must be whole numbers or text, got {odd[0]}.")
    if array.dtype.kind not in "iuU":
        raise ConfigError(f"{name}: labels must be whole numbers or text, got {array.dtype}.")
    return array


def dataset_of(parts: Mapping[str, Part], class_names: tuple[str, ...], name: str) -> Dataset:
    """A dataset of splits ``train`` and, where they exist, ``val`` and ``test``, over the classes of its training images.

    `class_names` are in the order of the labels; `name` is for messages.

    Raises
    ------
    ConfigError
        If there is one class alone, its names are too few, too many or alike, or a label is of no training image.
    """
    classes = np.unique(parts["train"].labels)
    if len(classes) < 2:
        raise ConfigError(f"{name}: all training images are of one class, {classes[0]}. Add images of another class.")
    if not len(class_names) == len(set(class_names)) == len(classes):
        raise ConfigError(f"{name}: {len(set(class_names))} class names for {len(classes)} classes. Name each class once.")
    images: dict[str, Images] = {}
    for split, own in parts.items():
        if len(foreign := np.setdiff1d(own.labels, classes)):
            raise ConfigError(f"{name}: {split} holds the label {foreign[0]}, which no training image has.")
        labels = np.searchsorted(classes, own.labels).astype(np.int64)
        images[split] = Images(own.pixels, labels, marked(split, own.pixels))
    pool = joined([images[split] for split in ("train", "val") if split in images])
    if "test" in images:
        return Dataset(class_names, pool, images["test"], OWN)
    return Dataset.cut(class_names, pool)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of a published set's classes, with their numbers where two are alike, as ImageNet has two of ``crane``."""
    times = Counter(names)
    return tuple(f"{name} ({index})" if times[name] > 1 else name for index, name in enumerate(names))


def joined(parts: list[Images]) -> Images:
    """Several sets as one."""
    if len(parts) == 1:
        return parts[0]
    pixels = np.concatenate([np.asarray(part.pixels) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Images(pixels, labels, np.concatenate([part.ids for part in parts]))


def marked(split: str, pixels: Pixels) -> NDArray[np.str_]:
    """Ids of split, position and a mark of the content: other images in the same place are other samples, and other runs.

    Images of a set that is too large to be read for it have no mark.
    """
    marks = ("" if isinstance(pixels, Rows) else f"#{zlib.crc32(pixels[at].tobytes()):08x}" for at in range(len(pixels)))
    return np.array([f"{split}/{index:05d}{mark}" for index, mark in enumerate(marks)])
