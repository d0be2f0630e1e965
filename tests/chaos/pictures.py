"""Whole, strange and damaged image files, and whether each is read or refused by name."""

from __future__ import annotations

import io
import multiprocessing
import random
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from experiments.config.errors import ConfigError
from experiments.data.decoding import FORMATS, decode


def whole(draws: random.Random, kind: str) -> bytes:
    """A whole image of some kind."""
    size = (draws.randint(9, 40), draws.randint(9, 40))
    noise = np.random.default_rng(draws.randrange(2**32)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image, buffer = Image.fromarray(noise), io.BytesIO()
    options: dict[str, Any] = {}
    if kind == "GIF":
        image = image.convert("P")
        options = {"save_all": True, "append_images": [image.rotate(90 * turn) for turn in (1, 2)]}
    elif kind == "PNG":
        image = image.convert(draws.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
    elif kind == "JPEG":
        image = image.convert(draws.choice(["L", "RGB", "CMYK"]))
    elif kind == "TIFF":
        image = image.convert(draws.choice(["1", "L", "P", "RGB", "CMYK", "I", "I;16", "F"]))
        options = {"compression": draws.choice([None, "tiff_lzw", "tiff_adobe_deflate"])}
        if image.mode == "F":
            image = image.point(lambda value: value / 255)
    if kind in ("JPEG", "PNG", "WEBP"):
        options["exif"] = exif(draws)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(draws: random.Random) -> bytes:
    """An EXIF block with an orientation, of which some bytes may be wrong."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation], tags[ExifTags.Base.Make] = draws.randint(1, 8), "maker"
    tags[ExifTags.Base.XResolution], tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 72.0, 0.01
    block = bytearray(tags.tobytes())
    for _ in range(draws.choice([0, 1, 4, 20])):
        block[draws.randrange(6, len(block))] = draws.choice([0, 1, 255, draws.randrange(256)])
    return bytes(block)


def spoilt(draws: random.Random) -> tuple[str, bytes]:
    """The suffix and bytes of a file that is no whole image, or a strange one."""
    common = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]
    kind = draws.choice([*common, *common, *sorted(set(FORMATS) & set(Image.SAVE))])
    content = bytearray(whole(draws, kind))
    ways = ["cut", "flip", "head", "empty", "noise", "text", "program", "huge", "other suffix", "doubled"]
    way = draws.choice(["cut", "flip", "flip", "head", *ways])
    suffix = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}.get(kind, f".{kind.lower()}")
    if way == "cut":
        content = content[: draws.randrange(1, len(content))]
    elif way == "flip":
        for _ in range(draws.randint(1, 30)):
            content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    elif way == "head":  # where formats keep sizes, modes, offsets and EXIF
        for _ in range(draws.randint(1, 4)):
            content[draws.randrange(min(200, len(content)))] = draws.choice([0, 1, 255, draws.randrange(256)])
    elif way == "empty":
        content = bytearray()
    elif way == "noise":
        content = content[:8] + bytearray(draws.randbytes(300))
    elif way == "text":
        content = bytearray(b"<svg onload='alert(1)'/>")
    elif way == "program":
        content = bytearray(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    elif way == "huge":
        suffix, content = ".png", bytearray(_bomb(draws))
    elif way == "other suffix":
        suffix = draws.choice([".png", ".jpg", ".gif", ".webp"])
    else:
        content = content + content
    return suffix, bytes(content)


def _bomb(draws: random.Random) -> bytes:
    """A PNG of a few hundred bytes whose header promises very many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width, height = draws.choice([(2**31 - 1, 2**31 - 1), (100_000, 100_000), (0, 0), (60_000, 900), (9_000, 9_000)])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _read(path: Path) -> str:
    """How reading a file ends; called in a process of its own."""
    try:
        pixels = decode(path, 16, 3)
    except ConfigError as error:
        return "refused" if all(fault.startswith(f"{path}: ") for fault in error.faults) else f"unnamed: {error}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "decoded" if pixels.shape == (3, 16, 16) else f"traceback: pixels of shape {pixels.shape}"


def damaged_images(place: Path, examples: int, seed: int = 0) -> dict[str, Any]:
    """Read one damaged file after another: pixels, or a refusal that names it, and within a minute."""
    draws, counts, shown = random.Random(seed), Counter[str](), list[str]()
    place.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(1)
    for number in range(examples):
        suffix, content = spoilt(draws)
        path = place / f"{number}{suffix}"
        path.write_bytes(content)
        try:
            verdict = pool.apply_async(_read, (path,)).get(timeout=60)
        except multiprocessing.TimeoutError:  # also where the process crashed
            verdict = "no end"
            pool.terminate()
            pool = context.Pool(1)
        counts[verdict.partition(":")[0]] += 1
        shown += [f"{path.name}: {verdict}"] if verdict not in ("decoded", "refused") else []
        path.unlink()
    pool.terminate()
    return {
        "damaged_images": examples,
        "decoded": counts["decoded"],
        "refused": counts["refused"],
        "tracebacks": counts["traceback"],
        "refused_without_the_file's_name": counts["unnamed"],
        "hung_or_crashed": counts["no end"],
        "examples": shown[:10],
    }
