"""Any tree of photos: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` (also below ``train/``) alone.

`experiments.data.decoding` turns the files into pixels.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from experiments.config import ConfigError, DataConfig
from experiments.data.decoding import pixels_of
from experiments.data.images import Dataset, Images, Rows
from experiments.data.splits import cut_test
from experiments.folders import data_dir

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, both sorted by name; hidden files and other suffixes are passed over."""
    return {
        entry.name: sorted(
            file
            for file in entry.iterdir()
            if file.suffix.lower() in SUFFIXES and file.name[0] != "." and not file.is_fifo()
        )
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }


def _tree(root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]] | None, list[str]]:
    """Files of the pool and of the test split, if there is one, without those that cannot be opened, and all faults.

    Raises
    ------
    ConfigError
        If there is no folder.
    """
    if not root.is_dir():
        raise ConfigError([f"`data.path`: no folder {root}. Set it to a folder that holds train/<class>/* or <class>/*."])
    base = root / "train" if (root / "train").is_dir() else root
    splits = {base: _classes(base)}
    if base != root and (root / "test").is_dir():
        splits[root / "test"] = _classes(root / "test")
    faults = []
    if len(splits[base]) < 2:
        faults.append(f"`data.path`: {base} holds {len(splits[base])} class folders; at least 2 are needed.")
    faults += [
        f"{folder / name}: the class folder holds no image ({' '.join(sorted(SUFFIXES))}). Add images or delete the folder."
        for folder, classes in splits.items()
        for name, files in classes.items()
        if not files
    ]
    for classes in splits.values():
        for name, files in classes.items():
            told = {file: fault for file in files if (fault := _fault(file))}
            faults += told.values()
            classes[name] = [file for file in files if file not in told]
    pool, test = splits[base], splits.get(root / "test")
    if test is not None and set(test) != set(pool):
        odd = ", ".join(sorted(set(test) ^ set(pool)))
        faults.append(f"{root}: train and test must hold the same classes; only one of them has {odd}.")
    return pool, test, faults


def _fault(file: Path) -> str | None:
    """Why a file cannot even be looked at."""
    try:
        str(file).encode()
        file.stat()
    except UnicodeEncodeError:
        return f"{str(file)!a}: its name is not valid UTF-8. Rename it."
    except OSError as error:  # a link that leads nowhere, or in a circle
        return f"{file}: not a readable image ({error.strerror}). Mend or delete it."
    return None


def load(config: DataConfig) -> Dataset:
    """Load a folder of images. Without a test split, a stratified fifth of it is cut, the same for every seed."""
    root = Path(config.path or "").expanduser()
    root = root if root.is_absolute() else data_dir() / root
    pool_files, test_files, faults = _tree(root)

    def gather(split: dict[str, list[Path]]) -> Images:
        files = [file for members in split.values() for file in members]
        labels = np.repeat(np.arange(len(split)), [len(members) for members in split.values()]).astype(np.int64)
        pixels = pixels_of(files, config.image_size, config.channels, name=root.name)
        # The content is part of the name: other photos under the same file names are other samples, and other runs.
        if isinstance(pixels, Rows):  # of a set too large to be decoded for its names
            contents = [f"{file.stat().st_size}b" for file in files]
        else:
            contents = [f"{zlib.crc32(image):08x}" for image in pixels]
        ids = [f"{file.relative_to(root).as_posix()}#{content}" for file, content in zip(files, contents, strict=True)]
        return Images(pixels, labels, np.array(ids))

    gathered = []
    for split in (pool_files, test_files) if test_files is not None else (pool_files,):
        try:
            gathered.append(gather(split))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    pool, *test = gathered
    if test:
        return Dataset(tuple(pool_files), pool, test[0])
    pool_index, test_index = cut_test(pool.labels)
    return Dataset(tuple(pool_files), pool.take(pool_index), pool.take(test_index), test_was_cut=True)
