"""Image files → pixels: decoded once into a mapped file that is keyed by their content, or batch by batch where that file
would be too large.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import logging
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from experiments.config.errors import ConfigError, reason
from experiments.config.identity import canonical_hash
from experiments.config.machine import usable_cores
from experiments.config.paths import data_dir
from experiments.data.images import Pixels, Rows
from experiments.records.record import unfinished

Result = TypeVar("Result")

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "QOI", "SGI", "PCX", "TGA")
"""Formats that are read, by Pillow's names: pictures that Pillow decodes itself, without another program. TGA is tried last,
since its files have no signature."""

# What Pillow says of metadata. Off for the whole process: in threads `warnings.catch_warnings` may switch off all warnings.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
Image.init()  # Pillow knows its formats and suffixes only then
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
"""Suffixes of files in these formats, in lower case."""

_OPENED = tuple(name for name in FORMATS if name in Image.OPEN)
"""Those that are opened under their own names in this build of Pillow; MPO is opened as JPEG."""

_DECODER = 2
"""Raised when decoding changes, so that older caches are not used."""

_MAX_PIXELS = 50_000_000
"""Larger images are refused: a decompression bomb rather than a photo."""

_MAX_BYTES = 512 * 2**20
"""Larger files are refused unread: the largest image takes 400 MB at 64 bits a pixel, uncompressed."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

_BY_WAY_OF = {"La": "LA", "LAB": "RGB"}
"""Modes that Pillow converts to this one alone."""

_NAME_LENGTH = 40
"""Characters of a folder's name in that of its cache: file systems allow 255 bytes."""

_PIECE = 2**24

_LOCKED_BY_THEN = 60.0
"""Seconds after which a file that is being filled is surely locked."""

CACHE_BYTES = 32 * 2**30
"""Sets of more bytes, decoded, are read from their files batch by batch. A fixed number, and no share of a disk, because
samples are named in another way there: a grid that several machines fill must be one grid."""


def decode(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """Read one image: first frame, EXIF orientation applied, shorter side to `size`, centre crop.

    Grey values of other types than 8 bits are scaled by the range of their type. Returns uint8 of shape
    (channels, size, size), grey for 1 channel, RGB for 3.

    Raises
    ------
    ConfigError
        If the file is not a regular file, is not an image in one of `FORMATS`, is truncated, has values outside the range of
        their type, or is larger than 50 megapixels or 512 MiB.
    """
    with _open(path) as image:
        return fitted(image, str(path), size, channels)


def header(path: Path) -> tuple[int, int, str]:
    """Width, height and Pillow's mode of an image file as it is stored; no pixel is decoded.

    Raises
    ------
    ConfigError
        As `decode`, as far as the header tells.
    """
    with _open(path) as image:
        return image.width, image.height, image.mode


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """An image file, of a kind and size that may be read."""
    try:
        _check_kind_and_size(path)
        with Image.open(path, formats=_OPENED) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ConfigError(
                    f"{path}: {image.width} × {image.height} pixels are more than 50 million. Shrink or delete it."
                )
            yield image
    except ConfigError:
        raise
    except Exception as error:  # a damaged file makes a decoder raise nearly anything
        raise ConfigError(_unreadable(path, error)) from error


def _check_kind_and_size(path: Path) -> None:
    """Before anything is read: a pipe or a device may never end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        kind = {"d": "folder", "p": "pipe", "s": "socket"}.get(stat.filemode(about.st_mode)[0], "device")
        raise ConfigError(f"{path}: a {kind}, not an image file. Replace or delete it.")
    if about.st_size > _MAX_BYTES:
        raise ConfigError(
            f"{path}: {about.st_size / 2**20:.1f} MiB are more than {_MAX_BYTES // 2**20}. Shrink or delete it."
        )


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{path}: the memory does not suffice to read this image. Free memory, or shrink or delete it."
    if isinstance(error, UnidentifiedImageError):
        told = f"not recognised as any of {', '.join(FORMATS)}"
    else:
        told = (error.strerror if isinstance(error, OSError) else None) or reason(error)
    return f"{path}: not a readable image ({told}). Replace it, or move it out of the folder."


def fitted(image: Image.Image, name: str, size: int, channels: int) -> NDArray[np.uint8]:
    """The pixels of an opened image as `decode` gives them; `name` is for messages."""
    mode = "RGB" if channels == 3 else "L"
    if image.format == "JPEG":
        image.draft(mode, (2 * size, 2 * size))  # decode at a fraction of the size, where that is possible
    image.load()
    turn = _turn(image)
    image = _eight_bits(image, name)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    array = np.asarray(ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BICUBIC), dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns it upright; `ImageOps.exif_transpose` would write the EXIF block anew, and fail where that is damaged."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever the block holds, the pixels are there
        return None


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey values scaled by the range of their type: Pillow itself clips those of more than 8 bits."""
    tags = getattr(image, "tag_v2", {})  # a TIFF file's, which tell the type better than the mode
    signed = tags.get(ExifTags.Base.SampleFormat, (1,))[0] == 2
    if image.mode[0] not in "IF" and not signed:
        return image
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    values = np.asarray(image).view(np.int8) if bits == 8 else np.asarray(image)
    wide = image.mode == "I" and bits == 32  # integers that no camera fills: they hold 16 bits
    white = 1 if image.mode == "F" else 65535 if wide else 2 ** (bits - signed) - 1
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    seen = f"grey values from {low:g} to {high:g}"
    fault = ""
    if not (values.min() >= 0 and values.max() <= white):  # nor is NaN
        fault = f"{seen}{' and NaN' if np.isnan(values).any() else ''}, which do not lie in [0, {white}]"
    elif wide and 0 < high < 256:
        fault = f"32-bit {seen}, which may be meant as 8 bits or as 16"
    if fault:
        raise ConfigError(f"{name}: {fault}. Scale them and save the image with 8 or 16 bits, or delete it.")
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # Pillow inverts such values of up to 8 bits alone
        values = white - values
    return Image.fromarray(np.rint(values * np.float32(255 / white)).astype(np.uint8))


def in_threads(work: Callable[[int], Result], count: int) -> list[Result]:
    """What `work` returns for 0 to `count` − 1, computed in threads: Pillow releases the interpreter lock.

    Raises
    ------
    ConfigError
        With the faults of all calls.
    """
    faults: list[str] = []

    def kept(index: int) -> Any:
        try:
            return work(index)
        except ConfigError as error:
            return faults.extend(error.faults)

    with ThreadPoolExecutor(usable_cores()) as threads:
        results = list(threads.map(kept, range(count)))
    if faults:
        raise ConfigError(*sorted(faults))
    return results


def _decode_into(pixels: NDArray[np.uint8], files: Sequence[Path], size: int, channels: int) -> None:
    """Decode files, collecting every fault."""

    def into(index: int) -> None:
        pixels[index] = decode(files[index], size, channels)

    in_threads(into, len(files))


class Photos:
    """Image files as if they were an array: each is decoded, as by `decode`, whenever its row is asked for."""

    def __init__(self, files: Sequence[Path], size: int, channels: int) -> None:
        self.files, self.shape = files, (len(files), channels, size, size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Rows by position, as an array takes one or many.

        Raises
        ------
        OSError
            If a file cannot be read: that is found in the middle of a run, which goes on once the file is repaired.
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
            with contextlib.suppress(OSError):  # a file system without locks, where nothing is swept
                fcntl.flock(file, fcntl.LOCK_SH)  # tells `_sweep` that somebody fills it
            pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            _take_room(file, pixels.offset, os.stat(temporary).st_size)
            yield pixels
            pixels.flush()
            os.replace(temporary, cache)
    finally:
        temporary.unlink(missing_ok=True)


def _take_room(file: IO[bytes], start: int, end: int) -> None:
    """Let the disk keep these bytes, which are zero; a full disk would otherwise end the process at some later write."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, end)
        return
    file.seek(start)  # macOS
    for at in range(start, end, _PIECE):
        file.write(bytes(min(_PIECE, end - at)))
    file.flush()


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
    """Digests of the files' bytes, in order; raises ConfigError for all files that cannot be read."""

    def digest(index: int) -> str:
        file = files[index]
        try:
            _check_kind_and_size(file)
            with open(file, "rb") as content:
                return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise ConfigError(_unreadable(file, error)) from error

    return in_threads(digest, len(files))


def pixels_of(files: Sequence[Path], size: int, channels: int, *, name: str) -> Pixels:
    """Pixels of image files as of `decode`: uint8 of shape (N, channels, size, size), or `Rows` of `Photos`.

    The array is a mapped file where the cache can be written, whose name begins with `name`, for people who look into it. A
    set of more than `CACHE_BYTES` is not decoded here.

    Raises
    ------
    ConfigError
        For all files that are not images.
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
