"""How fast each of the data paths makes batches, without a model that takes them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments.config.schema import Augmentation
from experiments.data.batches import Normalise, TrainBatches
from experiments.data.decoding import Photos, decode
from experiments.data.images import Images, Pixels, Rows
from experiments.training import cost

SIZE, STORED_SIZE = 224, 320
"""Pixels of a side: as batches have it, and as the files do."""


def _write_photos(folder: Path, n: int) -> list[Path]:
    """JPEG files of smooth random images, about as hard to decode as photos."""
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(n)]
    for file in files:
        coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        coarse.resize((STORED_SIZE, STORED_SIZE), Image.Resampling.BICUBIC).save(file, quality=90)
    return files


def images_per_second(device: torch.device, *, n: int = 256, batch_size: int = 64, steps: int = 16) -> dict[str, float]:
    """Augmented training images of 224 × 224 per second, by where the pixels wait.

    Returns
    -------
    dict
        ``resident``: on the device; ``mapped``: in the mapped cache; ``decoded``: in JPEG files of 320 × 320 pixels.
    """
    with tempfile.TemporaryDirectory() as name:
        files = _write_photos(Path(name), n)
        np.save(Path(name) / "cache.npy", np.stack([decode(file, SIZE, 3) for file in files]))
        mapped = np.load(Path(name) / "cache.npy", mmap_mode="r")
        photos = Rows(Photos(files, SIZE, 3), np.arange(n))
        kinds: dict[str, tuple[Pixels, bool]] = {
            "resident": (mapped, True),
            "mapped": (mapped, False),
            "decoded": (photos, False),
        }
        return {
            kind: _rate(pixels, resident, device, batch_size=batch_size, steps=steps)
            for kind, (pixels, resident) in kinds.items()
        }


def _rate(pixels: Pixels, resident: bool, device: torch.device, *, batch_size: int, steps: int) -> float:
    images = Images(pixels, np.zeros(len(pixels), np.int64), np.arange(len(pixels)).astype(str))
    normalise = Normalise([0.5] * 3, [0.25] * 3, device)
    augmentation = Augmentation(crop_padding=4, horizontal_flip=True)
    batches = TrainBatches(
        images, normalise, batch_size=batch_size, seed=0, augmentation=augmentation, device=device, resident=resident
    )
    batches(0)
    cost.synchronise(device)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        batches(step)
    cost.synchronise(device)
    return steps * batch_size / (time.perf_counter() - start)
