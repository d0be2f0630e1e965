"""Datasets of the Hugging Face hub, or parquet files in its form, read by its library, which is installed for them alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.config.errors import ConfigError, reason
from experiments.config.paths import data_dir, in_data_dir
from experiments.config.schema import DataConfig
from experiments.data.arrays import Part, dataset_of, distinct
from experiments.data.decoding import fitted
from experiments.data.images import Dataset

SPLITS = {"train": ("train", "training"), "val": ("validation", "valid", "val"), "test": ("test", "testing")}
"""Names of splits. Validation images join the training images; without a test split, a fifth is cut."""


def load(config: DataConfig) -> Dataset:
    """Load the dataset `data.name` of the hub, or the parquet files of the folder `data.path`.

    Raises
    ------
    ConfigError
        If the library is not installed, the dataset cannot be loaded, or it is unclear which columns hold images and labels.
    """
    found = _opened(config)
    parts, class_names = {}, tuple[str, ...]()
    for split, names in SPLITS.items():
        table = next((found[name] for name in names if name in found), None)
        if table is None:
            continue
        image, label = _column(table, config, "image"), _column(table, config, "label")
        parts[split] = Part(_pixels(table, image, config, split), labels := _labels(table, label, config, split))
        if split == "train":
            class_names = distinct(getattr(table.features[label], "names", None) or np.unique(labels).astype(str).tolist())
    if "train" not in parts:
        raise ConfigError(f"{config.title}: its splits are {', '.join(found)}; one must be named train.")
    return dataset_of(parts, class_names, config.title)


def _opened(config: DataConfig) -> Any:
    """The splits, by name."""
    try:
        import datasets
    except ImportError as error:
        message = "`data.source: huggingface` needs the library `datasets`: make install WITH=huggingface"
        raise ConfigError(f"{config.title}: {message}") from error
    datasets.disable_progress_bars()
    folder = in_data_dir(config.path) if config.path else None
    if folder and not folder.is_dir():
        raise ConfigError(f"`data.path`: no folder {folder}. Put parquet files there, such as train.parquet.")
    try:
        return datasets.load_dataset(str(folder or config.name), cache_dir=str(data_dir() / "huggingface"))
    except Exception as error:  # the library raises its own and those of many others
        offline = "" if folder else " Without a network, put its parquet files into a folder and set `data.path` to it."
        raise ConfigError(f"{config.title}: {folder or config.name} cannot be loaded ({reason(error)}).{offline}") from error


def _column(table: Any, config: DataConfig, kind: str) -> str:
    """The column of images or of labels: as the config names it, else the only one of its kind."""
    named = dict(config.columns).get(kind)  # type: ignore[call-overload]
    type_of_kind = {"image": "Image", "label": "ClassLabel"}[kind]
    fitting = [name for name, feature in table.features.items() if type(feature).__name__ == type_of_kind]
    if kind == "label" and not fitting:
        plain = [name for name in table.features if name in ("label", "labels", "target", "class")]
        fitting = [name for name in plain if getattr(table.features[name], "dtype", "") in ("int64", "int32", "string")]
    if named in table.features or (named is None and len(fitting) == 1):
        return named or fitting[0]
    held = ", ".join(table.features)
    fix = f"set `data.columns.{kind}` to one of its columns: {held}"
    raise ConfigError(f"{config.title}: {f'no column {named!r}' if named else f'which column holds the {kind}'}; {fix}.")


def _pixels(table: Any, column: str, config: DataConfig, split: str) -> NDArray[np.uint8]:
    size, channels = config.stored_size, config.channels
    pixels = np.empty((len(table), channels, size, size), np.uint8)
    images = table.select_columns([column])  # a row of the table itself decodes its other images, too
    for at in range(len(images)):
        name = f"{config.title}: image {at} of {split}"
        try:
            pixels[at] = fitted(images[at][column], name, size, channels)
        except ConfigError:
            raise
        except Exception as error:  # a missing or damaged image makes the library and its decoder raise nearly anything
            raise ConfigError(
                f"{name}: not a readable image ({reason(error)}). Replace it, or leave its row out."
            ) from error
    return pixels


def _labels(table: Any, column: str, config: DataConfig, split: str) -> NDArray[Any]:
    labels = list(table[column])
    kinds = {type(label) for label in labels}
    if len(kinds) > 1 or not kinds <= {int, str, bool, float}:
        found = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ConfigError(f"{config.title}: the column {column!r} of {split} must hold one label an image, got {found}.")
    return np.asarray(labels)
