"""Image files to pixels: every mode, type and format right by hand-computed values, or refused by name."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from pydantic import ValidationError

from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig
from experiments.data import datasets, decoding
from experiments.data.decoding import FORMATS, SUFFIXES, decode
from tests.chaos import pictures


def fault_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        decode(path, 4, 3)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}: ")
    return fault.removeprefix(f"{path}: ")


def grey(path: Path, *, channels: int = 1) -> list[int]:
    """The first row of a file of 8 × 8 pixels, at their own size; all channels alike, and all rows."""
    pixels = decode(path, 8, channels)
    assert pixels.shape == (channels, 8, 8) and (pixels == pixels[:1, :1]).all()
    return pixels[0, 0].tolist()


# ----------------------------------------------------------------------------------------------------------------- types
SIXTEEN = [0, 128, 129, 385, 386, 32768, 65406, 65535]
EIGHT = [0, 0, 1, 1, 2, 128, 254, 255]
"""The same by hand: 128 / 257 = 0.498, 129 / 257 = 0.502, 385 / 257 = 1.498, 386 / 257 = 1.502, 65406 / 257 = 254.498."""


def rows(values: list[int], dtype: str) -> np.ndarray:
    return np.tile(np.array(values, dtype), (8, 1))


def tiff(path: Path, samples: bytes, *, bits: list[int], photometric: int = 1, kind: int = 1, endian: str = "<") -> Path:
    """An uncompressed TIFF file of 8 × 8 pixels; `kind` 1 is unsigned, 2 signed, 3 floats."""
    many = struct.pack(f"{endian}{len(bits)}I", *bits)
    where = 8 + 2 + 10 * 12 + 4  # behind the head and ten fields
    fields = {256: 8, 257: 8, 258: where if len(bits) > 1 else bits[0], 259: 1, 262: photometric, 273: where + len(many)}
    fields |= {277: len(bits), 278: 8, 279: len(samples), 339: kind}
    counts = {258: len(bits)}
    entries = [struct.pack(f"{endian}HHII", tag, 4, counts.get(tag, 1), value) for tag, value in fields.items()]
    head = {"<": b"II*\0", ">": b"MM\0*"}[endian] + struct.pack(f"{endian}IH", 8, len(entries))
    path.write_bytes(head + b"".join(entries) + bytes(4) + many + samples)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_16_bits_is_scaled_by_its_range(tmp_path: Path, channels: int) -> None:
    values = rows(SIXTEEN, "<u2")
    for suffix in (".png", ".tif", ".jp2"):
        Image.fromarray(values).save(tmp_path / f"grey{suffix}")
        assert grey(tmp_path / f"grey{suffix}", channels=channels) == EIGHT, suffix
    (tmp_path / "grey.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    assert grey(tmp_path / "grey.pgm", channels=channels) == EIGHT
    for endian in "<>":
        path = tiff(tmp_path / "endian.tif", values.astype(f"{endian}u2").tobytes(), bits=[16], endian=endian)
        assert grey(path, channels=channels) == EIGHT, endian


def test_tiff_says_more_of_a_type_than_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "typed.tif"
    inverted = tiff(path, rows(SIXTEEN, "<u2").tobytes(), bits=[16], photometric=0)
    assert grey(inverted) == [255, 255, 254, 254, 253, 127, 1, 0]  # white is 0: 65535 − 32768 = 32767, / 257 = 127.498
    # Two values of 12 bits in three bytes: 8 × 255 / 4095 = 0.498, 9 → 0.56, 2047 → 127.47, 2048 → 127.53.
    twelve = bytes.fromhex("000008 009 7ff 800 ffe fff 000".replace(" ", ""))
    assert grey(tiff(path, twelve * 8, bits=[12])) == [0, 0, 1, 127, 128, 255, 255, 0]
    half = [0, 64, 65, 193, 194, 16384, 32766, 32767]  # / 32767 × 255: 64 → 0.498, 65 → 0.506, 193 → 1.502, 194 → 1.51
    assert grey(tiff(path, rows(half, "<i2").tobytes(), bits=[16], kind=2)) == [0, 0, 1, 2, 2, 128, 255, 255]
    seven = [0, 1, 2, 63, 64, 100, 126, 127]  # / 127 × 255: 2.01, 4.02, 126.5, 128.5, 200.8, 252.99
    assert grey(tiff(path, rows(seven, "i1").tobytes(), bits=[8], kind=2)) == [0, 2, 4, 126, 129, 201, 253, 255]
    for kind in (1, 2):
        assert grey(tiff(path, rows(SIXTEEN, "<i4").tobytes(), bits=[32], kind=kind)) == EIGHT
    assert grey(tiff(path, rows([0] * 8, "<i4").tobytes(), bits=[32], kind=2)) == [0] * 8


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_in_the_unit_interval_are_scaled(tmp_path: Path, channels: int) -> None:
    values = np.tile(np.float32([0, 0.0019, 0.002, 0.25, 0.4, 0.75, 0.999, 1]), (8, 1))
    Image.fromarray(values).save(tmp_path / "float.tif")
    expected = [0, 0, 1, 64, 102, 191, 255, 255]  # × 255: 0.48, 0.51, 63.75, 102, 191.25, 254.7
    assert grey(tmp_path / "float.tif", channels=channels) == expected
    path = tiff(tmp_path / "inverted.tif", values.astype(">f4").tobytes(), bits=[32], photometric=0, kind=3, endian=">")
    assert grey(path, channels=channels) == [255 - value for value in expected]


@pytest.mark.parametrize(
    ("values", "dtype", "kind", "told"),
    [
        ([0.0, 254.5], "<f4", 3, "grey values from 0 to 254.5, which do not lie in [0, 1]"),
        ([-0.25, 1.0], "<f4", 3, "grey values from -0.25 to 1, which do not lie in [0, 1]"),
        ([0.5, float("nan")], "<f4", 3, "grey values from 0.5 to 0.5 and NaN, which do not lie in [0, 1]"),
        ([0.5, float("inf")], "<f4", 3, "grey values from 0.5 to inf, which do not lie in [0, 1]"),
        ([0, 65536], "<i4", 2, "grey values from 0 to 65536, which do not lie in [0, 65535]"),
        ([0, 2**32 - 1], "<u4", 1, "grey values from -1 to 0, which do not lie in [0, 65535]"),
        ([-3, 400], "<i4", 2, "grey values from -3 to 400, which do not lie in [0, 65535]"),
        ([0, 255], "<i4", 2, "32-bit grey values from 0 to 255, which may be meant as 8 bits or as 16"),
        ([-1, 9], "<i2", 2, "grey values from -1 to 9, which do not lie in [0, 32767]"),
        ([-128, 9], "i1", 2, "grey values from -128 to 9, which do not lie in [0, 127]"),
    ],
)
def test_values_outside_their_range_are_refused_with_the_range_seen(
    tmp_path: Path, values: list[float], dtype: str, kind: int, told: str
) -> None:
    samples = np.tile(np.array(values, dtype), (8, 4))
    path = tiff(tmp_path / "wide.tif", samples.tobytes(), bits=[8 * samples.itemsize], kind=kind)
    assert fault_of(path) == f"{told}. Scale them and save the image with 8 or 16 bits, or delete it."


@pytest.mark.parametrize(("photometric", "alpha"), [(2, []), (2, [16])])
def test_colours_of_16_bits_keep_their_upper_byte(tmp_path: Path, photometric: int, alpha: list[int]) -> None:
    values = np.full((8, 8, 3 + len(alpha)), 65535, "<u2")
    values[..., :3] = [257 * 200, 257 * 100 + 90, 257 * 40]
    path = tiff(tmp_path / "colours.tif", values.tobytes(), bits=[16] * 3 + alpha, photometric=photometric)
    assert decode(path, 8, 3)[:, 0, 0].tolist() == [200, 100, 40]
    (tmp_path / "colours.ppm").write_bytes(b"P6 8 8 65535\n" + values[..., :3].astype(">u2").tobytes())
    assert decode(tmp_path / "colours.ppm", 8, 3)[:, 0, 0].tolist() == [200, 100, 40]


def test_lab_is_converted(tmp_path: Path) -> None:
    samples = np.zeros((8, 8, 3), np.uint8)
    samples[..., 0] = [0, 255, 136, 136, 136, 136, 136, 136]  # L* in 255ths; a* and b* have a sign
    samples[:, 3:, 1:] = [81, 70]
    pixels = decode(tiff(tmp_path / "lab.tif", samples.tobytes(), bits=[8, 8, 8], photometric=8), 8, 3)[:, 0].T.astype(int)
    # L* = 53.3 is luminance ((53.3 + 16) / 116)³ = 0.213, and sRGB's 1.055 × 0.213^(1/2.4) − 0.055 = 0.498 of 255;
    # (54, 81, 70) is sRGB's red under D50.
    for colour, expected in zip(pixels[:4], ([0] * 3, [255] * 3, [127] * 3, [255, 0, 0]), strict=True):
        assert np.abs(colour - expected).max() <= 6, (colour, expected)


# ----------------------------------------------------------------------------------------------------------------- modes
COLOUR = (200, 100, 40)  # grey is 0.299 × 200 + 0.587 × 100 + 0.114 × 40 = 123.06
PIXELS = {
    "1": (255, [255] * 3),
    "L": (200, [200] * 3),
    "LA": ((200, 0), [200] * 3),  # what is transparent keeps its colour
    "La": ((40, 51), [200] * 3),  # 40 × 255 / 51
    "P": (7, COLOUR),
    "PA": ((7, 0), COLOUR),
    "RGB": (COLOUR, COLOUR),
    "RGBX": ((*COLOUR, 9), COLOUR),
    "RGBA": ((*COLOUR, 0), COLOUR),
    "RGBa": ((40, 20, 8, 51), COLOUR),  # each × 255 / 51
    "CMYK": ((55, 155, 215, 0), COLOUR),  # 255 − each
    # Y = 123.06, Cb = 128 + 0.564 (40 − Y) = 81.2, Cr = 128 + 0.713 (200 − Y) = 182.9
    "YCbCr": ((123, 81, 183), COLOUR),
    "HSV": ((16, 204, 200), COLOUR),  # 60° × (100 − 40) / 160 = 22.5° of 360 in 256ths; 160 / 200 of 255
    "LAB": ((136, 128, 128), [127] * 3),  # as a file's above, with an offset in place of a sign
    "I": (386, [2] * 3),
    "F": (0.4, [102] * 3),
    "I;16": (386, [2] * 3),
    "I;16L": (386, [2] * 3),
    "I;16B": (386, [2] * 3),
    "I;16N": (386, [2] * 3),
}


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_has_the_right_pixels(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, expected = PIXELS[mode]
    if mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        samples = np.full((8, 8), value, ">u2" if mode == "I;16B" else "=u2" if mode == "I;16N" else "<u2")
        image = Image.frombytes(mode, (8, 8), samples.tobytes())
    else:
        image = Image.new(mode, (8, 8), value)
    if mode in ("P", "PA"):
        image.putpalette([0] * 21 + list(COLOUR))
    (tmp_path / "any.png").touch()
    monkeypatch.setattr(Image, "open", lambda *_, **__: image.copy())
    colour, shade = decode(tmp_path / "any.png", 8, 3), decode(tmp_path / "any.png", 8, 1)
    assert np.abs(colour[:, 0, 0].astype(int) - expected).max() <= (4 if mode in ("YCbCr", "HSV", "LAB") else 0)
    assert abs(int(shade[0, 0, 0]) - float(np.dot([0.299, 0.587, 0.114], expected))) <= (3 if mode in ("HSV", "LAB") else 1)
    assert (colour == colour[:, :1, :1]).all() and (shade == shade[0, 0, 0]).all()


def test_pixels_of_8_bits_stay_as_they_are(tmp_path: Path) -> None:
    ramp = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    image, turned = Image.fromarray(ramp), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    palette = image.quantize(8, dither=Image.Dither.NONE)
    few = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(palette)]
    shades = np.asarray(image.convert("L"))[..., None].repeat(3, 2)
    files: dict[str, tuple[Image.Image, dict[str, object], np.ndarray]] = {
        "colour.png": (image, {}, ramp),
        "turned.png": (image, {"exif": turned}, np.rot90(ramp, -1)),
        "turned.tif": (image, {"exif": turned}, np.rot90(ramp, -1)),
        "inks.tif": (image.convert("CMYK"), {}, ramp),
        "clear.png": (image.convert("RGBA"), {}, ramp),
        "key.png": (image, {"transparency": (0, 1, 2)}, ramp),
        "palette.gif": (palette, {"transparency": 3}, few),
        "palette.png": (palette, {"transparency": 3}, few),
        "grey.bmp": (image.convert("L"), {}, shades),
        "grey.png": (image.convert("LA"), {}, shades),
        "shade.png": (image.convert("L"), {"transparency": 3}, shades),
    }
    for name, (stored, options, expected) in files.items():
        stored.save(tmp_path / name, **options)  # type: ignore[arg-type]
        top, left = (side // 2 - 4 for side in expected.shape[:2])
        square = expected[top : top + 8, left : left + 8]
        assert np.array_equal(decode(tmp_path / name, 8, 3), square.transpose(2, 0, 1)), name
        grey = np.asarray(Image.fromarray(np.ascontiguousarray(square)).convert("L"))
        assert np.array_equal(decode(tmp_path / name, 8, 1)[0], grey), name


# --------------------------------------------------------------------------------------------------------------- formats
def test_formats_are_those_that_need_no_other_program() -> None:
    assert set(FORMATS) - {"MPO", "AVIF"} <= set(Image.OPEN)  # MPO is opened as JPEG; not every build has AVIF
    usual = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
    assert usual | {".jfif", ".jpe", ".pgm", ".pbm", ".jp2", ".j2k", ".mpo", ".apng", ".tga", ".qoi", ".pcx"} <= SUFFIXES
    assert not SUFFIXES & {".eps", ".ps", ".wmf", ".emf", ".fits", ".fit", ".pdf", ".psd", ".h5", ".hdf", ".grib", ".mpg"}
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


@pytest.mark.parametrize("name", sorted(set(FORMATS) & set(Image.SAVE)))
def test_every_format_is_read_by_its_content(tmp_path: Path, name: str) -> None:
    image = Image.new("RGB", (16, 16), COLOUR)
    image.save(tmp_path / "picture.jpg", name)  # whatever the suffix says
    assert np.abs(decode(tmp_path / "picture.jpg", 16, 3).astype(int) - np.array(COLOUR)[:, None, None]).max() <= 3


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, started = tmp_path / "bin" / "gs", tmp_path / "started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10 >> {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    (tmp_path / "photo.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert fault_of(tmp_path / "photo.jpg").startswith("not a readable image (not recognised as any of JPEG, MPO, PNG, ")
    assert not started.exists()


def test_only_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (COLOUR, (0, 0, 0))]
    for suffix in (".gif", ".png", ".webp", ".tif"):
        path = tmp_path / f"moving{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {}))
        assert decode(path, 8, 3)[:, 0, 0].tolist() == list(COLOUR), suffix


# ------------------------------------------------------------------------------------------------------------------ EXIF
QUARTERS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8).repeat(8, 0).repeat(8, 1)
UPRIGHT = {  # by the orientation's definition: which corner of what is stored the 0th row and 0th column are
    1: QUARTERS, 2: QUARTERS[:, ::-1], 3: QUARTERS[::-1, ::-1], 4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2), 6: np.rot90(QUARTERS, -1), 7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(QUARTERS),
}  # fmt: skip


def saved(path: Path, exif: bytes) -> Path:
    Image.fromarray(QUARTERS).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def is_upright(pixels: np.ndarray, orientation: int) -> bool:
    centres = pixels.transpose(1, 2, 0)[4::8, 4::8].astype(int)
    return bool(np.abs(centres - UPRIGHT[orientation][4::8, 4::8]).max() < 40)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_value_that_cannot_be_written_again_loses_no_pixels(tmp_path: Path, suffix: str, orientation: int) -> None:
    # Compression has 16 bits in the standard, and 32 here.
    entries = struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", ExifTags.Base.Compression, 4, 1, 70_000)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    assert is_upright(decode(saved(tmp_path / f"turned{suffix}", exif), 16, 3), orientation)


def test_no_damage_of_exif_loses_pixels(tmp_path: Path) -> None:
    draws = random.Random(0)
    for number in range(150):
        path = saved(tmp_path / f"damaged{draws.choice(['.jpg', '.png', '.webp'])}", pictures.exif(draws))
        pixels = decode(path, 16, 3)
        assert any(is_upright(pixels, orientation) for orientation in UPRIGHT), number
    assert is_upright(decode(saved(tmp_path / "none.png", b"Exif\0\0nothing at all"), 16, 3), 1)


# ---------------------------------------------------------------------------------------------------------------- faults
FAULTS = [
    *(
        kind("no")
        for kind in (struct.error, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, RecursionError)
    ),
    *(kind() for kind in (zlib.error, ZeroDivisionError, IndexError, AssertionError, NotImplementedError, SyntaxError)),
    *(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), OSError(5, "Input/output error")),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["open", "Image.load"])
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, error: Exception, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(path)
    owner = Image if method == "open" else Image.Image
    monkeypatch.setattr(owner, method.rpartition(".")[2], broken)
    assert fault_of(path).startswith("not a readable image (")
    with pytest.raises(ConfigError, match=r"photo\.png: not a readable image"):
        decoding.pixels_of([path], 8, 3, name="photos")


def test_what_is_no_fault_of_the_file_is_not_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(Image, "open", broken)

    path = tmp_path / "photo.png"
    path.touch()
    raising(MemoryError())
    assert fault_of(path).startswith("the memory does not suffice to read this image")
    raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        decode(path, 8, 3)


def test_warnings_of_others_stay_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    monkeypatch.setattr(warnings, "catch_warnings", None)  # which undoes itself in the wrong order in threads
    assert decode(tmp_path / "photo.png", 8, 3).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "large"])
def test_kind_and_size_come_before_content(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("photo.jpg")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 513 * 2**20)
    told = "513.0 MiB are more than 512" if kind == "large" else f"a {kind}, not an image file"
    assert fault_of(path).startswith(told)
    with pytest.raises(ConfigError, match=rf"photo\.jpg: {told}"):
        decoding.pixels_of([path], 8, 3, name="photos")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert (
        fault_of(tmp_path / "absent.png")
        == "not a readable image (No such file or directory). Replace it, or move it out of the folder."
    )


def test_content_is_known_by_its_digest(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(700_001)
    (tmp_path / "photo.jpg").write_bytes(content)
    assert decoding._content_key([tmp_path / "photo.jpg"]) == [hashlib.blake2b(content, digest_size=16).hexdigest()]


def test_damaged_images_are_read_or_refused_by_name(tmp_path: Path) -> None:
    found = pictures.damaged_images(tmp_path / "images", 300)
    assert found["decoded"] + found["refused"] == 300, found
    assert found["decoded"] > 50 and found["refused"] > 100


def test_a_folder_of_16_bits_is_as_many_images_as_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, centre in (("bright", 40_000), ("dark", 4_000)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            values = (centre + rng.normal(0, 800, (20, 20))).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "photos" / name / f"{number}.png")
    dataset = datasets.load(data_config(path=str(tmp_path / "photos")))
    images = np.concatenate([np.asarray(part.pixels) for part in (dataset.pool, dataset.test)])
    labels = np.concatenate([dataset.pool.labels, dataset.test.labels])
    assert len(np.unique(images.reshape(12, -1), axis=0)) == 12
    # 40,000 / 257 = 155.6 and 4,000 / 257 = 15.6, each with noise of 3.1
    for label, expected in enumerate((155.6, 15.6)):
        assert images[labels == label].mean() == pytest.approx(expected, abs=0.5)


# ---------------------------------------------------------------------------------------------------------- mean and std
def data_config(**changes: object) -> DataConfig:
    values = {"title": "Photos", "source": "image_folder", "path": "/photos", "image_size": 8, "channels": 3}
    return DataConfig.model_validate(values | {"mean": [0.5] * 3, "std": [0.5] * 3} | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mean": [123.675, 116.28, 103.53]}, r"`mean` is of pixels in \[0, 1\].*got \[123\.675, .*; divide by 255"),
        ({"mean": [0.5, 0.5, -0.01]}, r"`mean` is of pixels in \[0, 1\]"),
        ({"std": [58.395, 57.12, 57.375]}, r"`std` is of pixels in \[0, 1\].*got \[58\.395, .*; divide by 255"),
        ({"std": [0.229 / 255] * 3}, r"`std` .* must lie in \[0\.001, 1\]"),
        ({"std": [0.5, 0.5, 0.0]}, r"`std` .* must lie in \[0\.001, 1\]"),
        ({"std": [0.5, 0.5, -0.5]}, r"`std` .* must lie in \[0\.001, 1\]"),
        ({"std": [0.5, 0.5, float("inf")]}, "finite number"),
        ({"mean": [0.5, 0.5, float("nan")]}, "finite number"),
        ({"mean": [0.5]}, r"`mean` must have one value per channel \(3\)"),
        ({"std": [0.5, 0.5]}, r"`std` must have one value per channel \(3\)"),
        ({"mean": [True, False, True]}, "valid number"),
    ],
)
def test_mean_and_std_of_another_scale_are_refused(changes: dict[str, list[float]], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        data_config(**changes)


def test_mean_and_std_at_their_bounds_are_taken() -> None:
    assert data_config(mean=[0, 1, 0.5], std=[1, 0.5, 1 / 255]).std == [1, 0.5, 1 / 255]


def test_mean_of_another_scale_is_refused_as_an_override() -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load_experiment("smoke", loading.parse_overrides(["data.mean=[77.8]"]))
    assert "ARGS data.mean=[77.8]" in str(caught.value) and "`mean` is of pixels in [0, 1]" in str(caught.value)
