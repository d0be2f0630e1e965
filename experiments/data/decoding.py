"""Image files → pixels: decoded once into a mapped file that is keyed by their content, or batch by batch where that file
would be too large.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from experiments.config import ConfigError
from experiments.data.images import Pixels, Rows
from experiments.folders import data_dir
from experiments.identity import canonical_hash
from experiments.record import unfinished

_DECODER = 1
"""Raised when decoding changes, so that older caches are not used."""

_MAX_PIXELS = 50_000_000
"""Larger images are refused: a decompression bomb rather than a photo."""

_NAME_LENGTH = 40
"""Characters of a folder's name in that of its cache: file systems allow 255 bytes."""

_LOCKED_BY_THEN = 60.0
"""Seconds after which a file that is being filled is surely locked."""

CACHE_BYTES = 32 * 2**30
"""Sets of more bytes, decoded, are read from their files batch by batch. A fixed number, and no share of a disk, because
samples are named in another way there: a grid that several machines fill must be one grid."""


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


def _decode_into(pixels: NDArray[np.uint8], files: Sequence[Path], size: int, channels: int) -> None:
    """Decode files in threads (Pillow releases the interpreter lock), collecting every fault."""
    faults: list[str] = []

    def into(index: int) -> None:
        try:
            pixels[index] = decode(files[index], size, channels)
        except ConfigError as error:
            faults.extend(error.faults)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(into, range(len(files))))
    if faults:
        shown = sorted(faults)[:20]
        raise ConfigError(shown + ([f"… and {len(faults) - 20} more files."] if len(faults) > 20 else []))


class Photos:
    """Image files as if they were an array: each is decoded whenever its row is asked for.

    Parameters
    ----------
    files : sequence of Path
    size, channels : int
        As in `decode`.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, files: Sequence[Path], size: int, channels: int) -> None:
        self.files, self.shape = files, (len(files), channels, size, size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Rows by position, as an array takes one or many.

        Raises
        ------
        OSError
            If a file cannot be read: that is found in the middle of a run, which goes on once the file is mended.
        """
        wanted = np.arange(len(self))[key]
        _, channels, size, _ = self.shape
        pixels = np.empty((wanted.size, channels, size, size), np.uint8)
        try:
            _decode_into(pixels, [self.files[row] for row in wanted.ravel()], size, channels)
        except ConfigError as error:
            raise OSError(str(error)) from error
        return pixels.reshape(*wanted.shape, channels, size, size)


@contextlib.contextmanager
def _mapped(cache: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """A mapped file of this shape to fill, which gets its name once it is whole, so that no set must fit into memory.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk has no room, before anything is decoded.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    temporary = unfinished(cache)
    try:
        with open(temporary, "xb+") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # tells `_sweep` that somebody fills it
            pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            # A full disk would otherwise end the process at some later write.
            os.posix_fallocate(file.fileno(), 0, os.stat(temporary).st_size)
            yield pixels
            pixels.flush()
            os.replace(temporary, cache)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(cache: Path) -> None:
    """Delete files that a process was filling for this cache when it was killed."""
    for left_over in cache.parent.glob(f".{glob.escape(cache.name)}.*.tmp"):
        with contextlib.suppress(OSError), open(left_over, "rb") as file:
            if time.time() - left_over.stat().st_mtime > _LOCKED_BY_THEN:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
                left_over.unlink()


def _cached(cache: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The mapped file of this name, if it is there and holds such pixels; else it is made again."""
    try:
        pixels = np.load(cache, mmap_mode="r", allow_pickle=False)
    except Exception:  # a damaged file raises nearly anything
        return None
    whole = isinstance(pixels, np.memmap) and pixels.dtype == np.uint8 and pixels.shape == shape
    return pixels if whole and pixels.flags.c_contiguous else None


def _content_key(files: Sequence[Path]) -> list[str]:
    """Digests of the files' bytes, in order.

    Raises
    ------
    ConfigError
        For each file that cannot be read.
    """
    digests, faults = [], []
    for file in files:
        try:
            digests.append(hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest())
        except OSError as error:
            faults.append(f"{file}: not a readable image ({error.strerror}). Mend or delete it.")
    if faults:
        raise ConfigError(faults)
    return digests


def pixels_of(files: Sequence[Path], size: int, channels: int, *, name: str) -> Pixels:
    """Pixels of image files.

    Parameters
    ----------
    files : sequence of Path
    size, channels : int
        As in `decode`.
    name : str
        How the cached file begins, for people who look into the cache.

    Returns
    -------
    uint8 array of shape (N, channels, size, size), or `Rows` of `Photos`
        The array is a mapped file where the cache can be written. A set of more than `CACHE_BYTES` is not decoded here.

    Raises
    ------
    ConfigError
        For all files that are no images.
    """
    shape = (len(files), channels, size, size)
    if np.prod(shape, dtype=np.int64) > CACHE_BYTES:
        return Rows(Photos(files, size, channels), np.arange(len(files)))
    key = canonical_hash([_DECODER, size, channels, _content_key(files)])
    cache = data_dir() / "cache" / f"{name[:_NAME_LENGTH]}-{size}px-{key[:16]}.npy"
    if (cached := _cached(cache, shape)) is not None:
        return cached
    with contextlib.suppress(OSError):  # a read-only or full disk costs the cache, not the run
        with _mapped(cache, shape) as pixels:
            _decode_into(pixels, files, size, channels)
        if (cached := _cached(cache, shape)) is not None:
            return cached
    in_memory = np.empty(shape, np.uint8)
    _decode_into(in_memory, files, size, channels)
    return in_memory
