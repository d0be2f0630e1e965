"""Photos through a trained model: classes with probabilities, and where a Vision Transformer looked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiments.config.errors import ConfigError
from experiments.data.decoding import SUFFIXES, decode
from experiments.inference.trained import Trained
from experiments.records.record import atomic_write
from vit_scratch import VisionTransformer
from vit_scratch.attention import class_token_maps

_SIDE, _STRIP = 336, 28
"""Pixels of a side of a photo in the picture of attention, and of the strip with its name and prediction above it."""
_HEAT = ((24, 8, 64), (106, 23, 110), (187, 55, 84), (249, 142, 9), (252, 255, 164))
"""Colours from little to much, of a lightness that only grows: after Matplotlib's inferno."""


class Guess(NamedTuple):
    """One class and the probability that the model gives it."""

    name: str
    probability: float


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and the image files below the folders among them, by name.

    Raises
    ------
    ConfigError
        For a folder without any.
    """
    found = list[Path]()
    for path in paths:
        below = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if path.is_dir() and not below:
            raise ConfigError(f"{path}: no image file in this folder or below it.")
        found += below if path.is_dir() else [path]
    return found


@torch.inference_mode()
def predict(trained: Trained, paths: list[Path], top: int) -> list[list[Guess]]:
    """The `top` most probable classes of each photo, best first; all where there are fewer.

    Raises
    ------
    ConfigError
        Naming every file that is missing or no image.
    """
    probabilities = torch.cat([trained.model(images).softmax(dim=1) for images in trained.batches(paths)])  # B classes
    best = probabilities.topk(min(top, len(trained.class_names)), dim=1)
    return [
        [Guess(trained.class_names[index], value) for index, value in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def as_json(paths: list[Path], guesses: list[list[Guess]]) -> list[dict[str, Any]]:
    """Predictions as plain values for programs."""
    return [
        {"image": str(path), "top": [guess._asdict() for guess in own]} for path, own in zip(paths, guesses, strict=True)
    ]


def attention(trained: Trained, paths: list[Path]) -> NDArray[np.float32]:
    """Where the class token's state comes from, by attention rollout: (B, rows, columns) of patches, each summing to 1.

    Raises
    ------
    ConfigError
        If the run's model is not this project's Vision Transformer, or saw permuted pixels.
    """
    model = trained.model
    if not isinstance(model, VisionTransformer):
        raise ConfigError(
            f"--attention: the run's model {trained.record.model} is not this project's own ViT, whose attention can be "
            "read; leave --attention out, or give a run of a model with `source: scratch`."
        )
    if trained.data.permute_pixels is not None:
        raise ConfigError(f"--attention: {trained.folder} saw permuted pixels, whose patches are no places; leave it out.")
    return torch.cat([class_token_maps(model, images) for images in trained.batches(paths)]).numpy()


def draw_attention(trained: Trained, paths: list[Path], best: list[Guess], target: Path) -> None:
    """Write a picture with a row per photo: the photo, and a heat map of where the model looked with what it saw there.

    Under the heat map the photo is grey and of equal contrast, so that both can be read on dark and on bright photos. Heat
    is relative: from the patch that counts least, dark violet, to the one that counts most, yellow.

    Raises
    ------
    ConfigError
        As `attention`, or if the picture's folder or format is not there.
    """
    check_target(target, {".png", ".jpg", ".jpeg", ".webp"}, "--attention")
    rows, side = [], round(_SIDE / trained.data.crop_fraction)
    seen = slice((side - _SIDE) // 2, (side + _SIDE) // 2)  # of each axis: the model looked at the centre alone
    for path, patches, guess in zip(paths, attention(trained, paths), best, strict=True):
        photo = decode(path, side, trained.data.channels)[:, seen, seen].transpose(1, 2, 0)
        photo = np.broadcast_to(photo, (_SIDE, _SIDE, 3))
        row = Image.fromarray(np.concatenate([photo, heat_map(photo, patches)], axis=1))
        picture = Image.new("RGB", (2 * _SIDE, _SIDE + _STRIP), "white")
        picture.paste(row, (0, _STRIP))
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_STRIP - 12)
        for left, text in ((8, path.name), (_SIDE + 8, f"{guess.name}: {100 * guess.probability:.0f}%")):
            draw.text((left, 4), shown(text, font, _SIDE - 16), "black", font)
        rows.append(np.asarray(picture))
    with atomic_write(target, "wb") as file:
        Image.fromarray(np.concatenate(rows)).save(file, format=target.suffix[1:].lower().replace("jpg", "jpeg"))


def heat_map(photo: NDArray[np.uint8], patches: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A photo (H, W, 3) in grey under the colours of `patches` (rows, columns), of which the largest counts most."""
    shares = (patches - patches.min()) / max(float(np.ptp(patches)), 1e-12)
    image = Image.fromarray(np.uint8(np.rint(255 * shares))).resize(photo.shape[1::-1], Image.Resampling.BICUBIC)
    heat = np.asarray(image, np.float32)[..., None] / 255
    colours = np.concatenate(
        [np.interp(heat, np.linspace(0, 1, len(_HEAT)), channel) for channel in zip(*_HEAT, strict=True)], 2
    )
    grey = photo.mean(axis=2, keepdims=True)
    grey = (grey - grey.min()) * 255 / max(float(np.ptp(grey)), 1.0)
    return np.rint(0.4 * grey + 0.6 * colours).astype(np.uint8)


def shown(text: str, font: Any, width: float) -> str:
    """A line's text as far as there is room; the picture's font has no letters beyond Latin, which become ``?``."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    while font.getlength(text) > width:
        text = f"{text[:-4]}..." if len(text) > 4 else ""
    return text


def check_target(target: Path, suffixes: set[str], option: str) -> None:
    """Refuse a file to write whose folder is not there or whose suffix says another format.

    Raises
    ------
    ConfigError
        Naming the option, the file and what would do.
    """
    if target.suffix.lower() not in suffixes:
        raise ConfigError(f"{option}: {target} must end in {' or '.join(sorted(suffixes))}.")
    if not target.parent.is_dir():
        raise ConfigError(f"{option}: no folder {target.parent} to write {target.name} to. Make it first.")
