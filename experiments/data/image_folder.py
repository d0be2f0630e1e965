"""Any tree of photos: ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` (also below ``train/``) alone.

Images are decoded once, brought to the data's size and kept as one array in the cache below `DATA_DIR`, keyed by the
files' names, sizes and times.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from experiments.config import ConfigError, DataConfig, canonical_hash, data_dir
from experiments.data.images import Dataset, Images
from experiments.data.splits import cut_test

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_DECODER = 1
"""Raised when decoding changes, so that older caches are not used."""

_MAX_PIXELS = 50_000_000
"""Larger images are refused: a decompression bomb rather than a photo."""


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


def decode(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """Read one image: first frame, EXIF orientation applied, shorter side to `size`, centre crop.

    Parameters
    ----------
    path : Path
        An image file.
    size : int
        Pixels of a side of the result.
    channels : {1, 3}
        Grey or RGB.

    Returns
    -------
    uint8 array of shape (channels, size, size)

    Raises
    ------
    ConfigError
        If the file is not an image, is truncated, or is larger than 50 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                fitted = _fitted(image, path, size, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError([f"{path}: not a readable image ({reason}). Mend or delete it."]) from error
    array = np.asarray(fitted, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _fitted(image: Image.Image, path: Path, size: int, channels: int) -> Image.Image:
    """Upright, square and of the right mode."""
    if image.width * image.height > _MAX_PIXELS:
        raise ConfigError([f"{path}: {image.width} × {image.height} pixels are more than 50 million. Shrink or delete it."])
    mode = "RGB" if channels == 3 else "L"
    if image.format == "JPEG":
        image.draft(mode, (2 * size, 2 * size))  # decode at a fraction of the size, where that is possible
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("P", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return ImageOps.fit(upright.convert(mode), (size, size), Image.Resampling.BICUBIC)


def _decode_into(pixels: NDArray[np.uint8], files: list[Path], size: int, channels: int) -> None:
    """Decode files in threads (Pillow releases the interpreter lock), collecting every fault."""
    faults: list[str] = []

    def into(index: int) -> None:
        try:
            pixels[index] = decode(files[index], size, channels)
        except ConfigError as error:
            faults.extend(error.faults)

    with ThreadPoolExecutor() as threads:
        list(threads.map(into, range(len(files))))
    if faults:
        shown = sorted(faults)[:20]
        raise ConfigError(shown + ([f"… and {len(faults) - 20} more files."] if len(faults) > 20 else []))


@contextlib.contextmanager
def _mapped(cache: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """A mapped file of this shape to fill, which gets its name once it is whole, so that no set must fit into memory.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk has no room, before anything is decoded.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    try:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with open(temporary, "rb+") as file:  # a full disk would otherwise end the process at some later write
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        yield pixels
        pixels.flush()
        os.replace(temporary, cache)
    finally:
        temporary.unlink(missing_ok=True)


def _pixels(root: Path, files: list[Path], size: int, channels: int) -> NDArray[np.uint8]:
    """Decoded pixels, from the cache where the files are unchanged."""
    stats = [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = canonical_hash([_DECODER, size, channels, stats])
    cache = data_dir() / "cache" / f"{root.name}-{size}px-{key[:16]}.npy"
    if cache.is_file():
        with contextlib.suppress(OSError, ValueError):  # a broken cache is made again
            return np.load(cache, mmap_mode="r", allow_pickle=False)
    shape = (len(files), channels, size, size)
    with contextlib.suppress(OSError):  # a read-only or full disk costs the cache, not the run
        with _mapped(cache, shape) as pixels:
            _decode_into(pixels, files, size, channels)
        return np.load(cache, mmap_mode="r", allow_pickle=False)
    in_memory = np.empty(shape, np.uint8)
    _decode_into(in_memory, files, size, channels)
    return in_memory


def load(config: DataConfig) -> Dataset:
    """Load a folder of images. Without a test split, a stratified fifth of it is cut, the same for every seed."""
    root = Path(config.path or "").expanduser()
    root = root if root.is_absolute() else data_dir() / root
    pool_files, test_files, faults = _tree(root)

    def gather(split: dict[str, list[Path]]) -> Images:
        files = [file for members in split.values() for file in members]
        labels = np.repeat(np.arange(len(split)), [len(members) for members in split.values()]).astype(np.int64)
        pixels = _pixels(root, files, config.image_size, config.channels)
        # The content is part of the name: other photos under the same file names are other samples, and other runs.
        ids = np.array(
            [
                f"{file.relative_to(root).as_posix()}#{zlib.crc32(image):08x}"
                for file, image in zip(files, pixels, strict=True)
            ]
        )
        return Images(pixels, labels, ids)

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
