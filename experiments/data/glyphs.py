"""Characters drawn in the fonts of a folder: as many images as are wanted, tested on typefaces that training never saw.

Each image is a character in one font, white on black, at a random size, width, angle and place, which follow from the font's
bytes and the character alone: another font in the folder changes no image of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from experiments.config.errors import ConfigError
from experiments.config.loading import nearest
from experiments.config.paths import in_data_dir
from experiments.config.schema import DataConfig
from experiments.data.arrays import marked
from experiments.data.images import Dataset, Images
from experiments.data.seeding import generator

SUFFIXES = {".ttf", ".otf", ".ttc"}
POINTS = 64
"""Size at which a character is drawn before it is brought to its place."""
NO_CHARACTER = "\uffff"
"""Stands for nothing in Unicode: a font draws it as it draws every character that it lacks."""
UNSEEN = "typefaces unseen in training"
DEFAULTS = {"characters": "0123456789", "variants": 10}
TEST_SHARE = 5
"""One family of so many is in the test set."""


class Font(NamedTuple):
    """A font file that has all characters."""

    file: str
    """Its path below the folder."""
    family: str
    """First word of its name. ``DejaVu Sans`` and ``DejaVu Serif`` are one family: near relatives do not part."""
    digest: str
    drawn: tuple[Image.Image, ...]
    """Its characters."""


def load(config: DataConfig) -> Dataset:
    """Draw the dataset from the fonts below `data.path`.

    ``data.arguments`` are `characters`, the classes, and `variants`, images of a character in one font. A fifth of the
    families, by a hash of their names, is the test set, so that a further font moves no other from one set to the other.

    Raises
    ------
    ConfigError
        If there is no such folder, or no font in it, none that has the characters, or fonts of one family alone.
    """
    characters, variants = _arguments(config)
    folder = in_data_dir(config.path)
    fonts, notes = _fonts(folder, characters)
    parts = {test: [font for font in fonts if _is_test(font.family) == test] for test in (False, True)}
    if not all(parts.values()):
        families = ", ".join(sorted({font.family for font in fonts})[:6])
        raise ConfigError(
            f"`data.path`: the fonts below {folder} ({families}) do not give two sets of families. Add other typefaces."
        )
    pool, test = (_images(parts[part], len(characters), variants, config.stored_size) for part in (False, True))
    of_test, of_all = (len({font.family for font in some}) for some in (parts[True], fonts))
    notes.append(f"{len(fonts)} fonts of {of_all} families, of which {of_test} are in the test set.")
    return Dataset(
        tuple(characters), pool, test, UNSEEN, made_of={font.file: font.digest for font in fonts}, notes=tuple(notes)
    )


def _arguments(config: DataConfig) -> tuple[str, int]:
    """Characters and variants."""
    if unknown := sorted(config.arguments.keys() - DEFAULTS.keys()):
        raise ConfigError(f"{config.title}: `data.arguments` has no {unknown[0]!r}. {nearest(unknown[0], DEFAULTS)}")
    characters, variants = (DEFAULTS | config.arguments).values()
    if not isinstance(characters, str) or len(set(characters)) < max(2, len(characters)) or not characters.isprintable():
        raise ConfigError(
            f"`data.arguments.characters` must be two or more different characters in quotes, got {characters!r}."
        )
    if type(variants) is not int or not 1 <= variants <= 10_000:
        raise ConfigError(f"`data.arguments.variants` must be a whole number from 1 to 10,000, got {variants!r}.")
    return characters, variants


def _is_test(family: str) -> bool:
    return int(hashlib.sha256(family.encode()).hexdigest()[:8], 16) % TEST_SHARE == 0


def _fonts(folder: Path, characters: str) -> tuple[list[Font], list[str]]:
    """The fonts below a folder that have all characters, one file a name, and sentences on those that were passed over.

    Whether a font draws the right signs is not checked.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ConfigError(
            f"`data.path`: no font (.ttf, .otf, .ttc) below {folder}. Name a folder of fonts, such as /usr/share/fonts."
        )
    fonts, names, passed = list[Font](), set[tuple[str | None, ...]](), dict[str, list[str]]()
    for path in files:
        file = path.relative_to(folder).as_posix()
        try:
            font = ImageFont.truetype(str(path), POINTS)
            drawn, lacking = tuple(_drawn(font, character) for character in characters), _drawn(font, NO_CHARACTER)
        except (OSError, ValueError, SyntaxError):
            passed.setdefault("cannot be read", []).append(file)
            continue
        if any(not image.width or image == lacking for image in drawn):
            passed.setdefault(f"lack one of {characters!r}", []).append(file)
        elif len({image.tobytes() for image in drawn}) < len(drawn):
            passed.setdefault("draw two characters alike", []).append(file)
        elif (name := font.getname()) in names:
            passed.setdefault("have the name of another", []).append(file)
        else:
            names.add(name)
            family = (name[0] or path.stem).split()[0].partition("-")[0].casefold()
            fonts.append(Font(file, family, hashlib.sha256(path.read_bytes()).hexdigest(), drawn))
    notes = [f"{len(found)} of {len(files)} fonts {reason}, such as {found[0]}." for reason, found in passed.items()]
    if not fonts:
        raise ConfigError(f"`data.path`: no font below {folder} has the characters. {' '.join(notes)} Add other fonts.")
    return fonts, notes


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """A character, white on black, cut to what it covers; without width where it covers nothing."""
    mask = font.getmask(character, mode="L")
    image = Image.frombytes("L", mask.size, bytes(mask))
    return image.crop(image.getbbox() or (0, 0, 0, 0))


def _images(fonts: list[Font], classes: int, variants: int, size: int) -> Images:
    """Every character in every font, `variants` times each."""
    pixels = np.stack([image for font in fonts for image in _variants(font, variants, size)])[:, None]
    labels = np.tile(np.repeat(np.arange(classes), variants), len(fonts))
    return Images(pixels, labels, marked("glyphs", pixels))


def _variants(font: Font, variants: int, size: int) -> Iterator[NDArray[np.uint8]]:
    """The images of one font: each character at four times the size, then brought down to it."""
    rng = generator(int(font.digest[:8], 16), "glyphs")
    canvas = 4 * size
    for character in font.drawn:
        for scale, width, angle, *place in rng.uniform((0.7, 0.8, -12, 0, 0), (1.0, 1.25, 12, 1, 1), (variants, 5)):
            tall = scale * canvas / max(character.height, character.width * width)
            sides = (max(1, round(character.width * width * tall)), max(1, round(character.height * tall)))
            turned = character.resize(sides, Image.Resampling.BILINEAR).rotate(angle, Image.Resampling.BILINEAR, expand=True)
            drawn = Image.new("L", (canvas, canvas))
            room = (canvas - turned.width, canvas - turned.height)
            left, top = (round(free * (0.25 + 0.5 * share)) for free, share in zip(room, place, strict=True))
            drawn.paste(turned, (left, top))
            yield np.asarray(drawn.resize((size, size), Image.Resampling.BOX))
