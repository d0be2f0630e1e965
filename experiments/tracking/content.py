"""What W&B shows of a finished run beyond numbers: answers to a sample of test images, the confusion matrix, weights.

Made from the run folder alone, so that a run that is sent later shows the same as one that was online.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from experiments.data.images import Pixels
from experiments.metrics import confusion_matrix
from experiments.records.record import EXAMPLES_FILE, PREDICTIONS_FILE, WEIGHTS_FILE, atomic_write
from experiments.tracking.mirror import Mirror, weights_asked

MAX_EXAMPLES = 64
"""Images of a run's predictions table."""
EXAMPLE_BYTES = 2**18
"""Images of so many bytes are kept for the page of a report, where these are more than `MAX_EXAMPLES`."""
MAX_SIDE = 64
"""Pixels of an image's longer side in that table; larger images are shrunk."""
MAX_CLASS_COLUMNS = 10
"""Up to this number of classes the table has a probability for each; above it, the five largest as text."""


class Rows(NamedTuple):
    """A table before it is anybody's table object."""

    columns: list[str]
    rows: list[list[Any]]


def chosen_examples(sample_ids: NDArray[np.str_]) -> NDArray[np.int64]:
    """Positions of test images in the order in which they are shown: the same for every run, by a hash of the id."""
    order = sorted(range(len(sample_ids)), key=lambda index: hashlib.sha256(str(sample_ids[index]).encode()).digest())
    return np.array(order, dtype=np.int64)


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images of shape (N, C, H, W) by block means, so that neither side is longer than `MAX_SIDE`."""
    factor = -(-max(pixels.shape[-2:]) // MAX_SIDE)
    if factor <= 1:
        return pixels
    height, width = (side // factor * factor for side in pixels.shape[-2:])
    blocks = pixels[..., :height, :width].reshape(*pixels.shape[:2], height // factor, factor, width // factor, factor)
    return np.rint(blocks.mean(axis=(3, 5))).astype(np.uint8)


def write_examples(
    folder: Path,
    pixels: Pixels,
    sample_ids: NDArray[np.str_],
    looked: Callable[[NDArray[np.uint8]], NDArray[np.uint8] | None] = lambda pixels: None,
    seen: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda pixels: pixels,
) -> None:
    """Keep images that table and page show, of those of shape (N, C, H, W), in ``examples.npz``.

    `looked` gives where the model looked on such images, (N, rows, columns), or None for a model that does not tell; `seen`
    gives the part of them that it saw, which is what is kept.
    """
    chosen = chosen_examples(sample_ids)
    some = shrunk(pixels[chosen[:MAX_EXAMPLES]])
    count = max(len(some), EXAMPLE_BYTES * len(some) // max(some.nbytes, 1))
    whole = pixels[chosen[:count]]
    attention = looked(whole)
    arrays: dict[str, Any] = {"pixels": shrunk(seen(whole)), "sample_ids": sample_ids[chosen[:count]]}
    arrays |= {} if attention is None else {"attention": attention}
    with atomic_write(folder / EXAMPLES_FILE, "wb") as file:
        np.savez_compressed(file, **arrays)


def predictions_table(folder: Path) -> tuple[Rows, list[NDArray[np.uint8]]] | None:
    """The sample of test images with what the model answered, a row each, and the images, (H, W) or (H, W, 3).

    ``None`` where the run kept no examples, such as a tuning trial.
    """
    try:
        with np.load(folder / EXAMPLES_FILE, allow_pickle=False) as stored:
            pixels, ids = stored["pixels"][:MAX_EXAMPLES], stored["sample_ids"][:MAX_EXAMPLES]
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as stored:
            logits, labels, known, names = (stored[key] for key in ("logits", "labels", "sample_ids", "class_names"))
    except (OSError, KeyError, ValueError):
        return None
    place = {str(sample): index for index, sample in enumerate(known)}
    at = [place[str(sample)] for sample in ids if str(sample) in place]
    if len(at) != len(ids):
        return None
    probabilities = softmax(logits[at].astype(np.float64), axis=1)
    classes = [str(name) for name in names]
    few = len(classes) <= MAX_CLASS_COLUMNS
    rows = []
    for sample, index, p in zip(ids, at, probabilities, strict=True):
        answer, label = int(p.argmax()), int(labels[index])
        best = [f"{classes[k]} {100 * p[k]:.1f}%" for k in np.argsort(-p, kind="stable")[:5]]
        shares = [round(float(value), 6) for value in p] if few else [round(float(p[label]), 6), ", ".join(best)]
        rows.append([str(sample), classes[label], classes[answer], answer == label, round(float(p[answer]), 6), *shares])
    shares_of = [f"p({name})" for name in classes] if few else ["p(label)", "five most likely"]
    images = [image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0) for image in pixels]
    return Rows(["id", "label", "prediction", "correct", "confidence", *shares_of], rows), images


def confusion_table(folder: Path) -> Rows | None:
    """How often each class was answered for each class of the test set, in the columns of W&B's own confusion matrix.

    Above 20 classes, pairs that never occur are left out. ``None`` where the run has no test predictions.
    """
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as stored:
            logits, labels, names = (stored[key] for key in ("logits", "labels", "class_names"))
    except (OSError, KeyError, ValueError):
        return None
    counts = confusion_matrix(logits, labels)
    shown = np.ndindex(counts.shape) if len(names) <= 20 else np.argwhere(counts)
    rows = [[str(names[actual]), str(names[answer]), int(counts[actual, answer])] for actual, answer in shown]
    return Rows(["Actual", "Predicted", "nPredictions"], rows)


def add(run: Any, mirror: Mirror, folder: Path) -> None:
    """Put a run's predictions and confusion matrix into its summary, and its weights into a version where asked for."""
    import wandb

    if confusion := confusion_table(folder):
        run.summary["confusion_matrix"] = table(confusion)
    if found := predictions_table(folder):
        rows, images = found
        shown = [[row[0], wandb.Image(image), *row[1:]] for row, image in zip(rows.rows, images, strict=True)]
        run.summary["predictions"] = table(Rows(["id", "image", *rows.columns[1:]], shown))
    weights = folder / WEIGHTS_FILE
    if weights_asked() and weights.is_file():
        artifact = wandb.Artifact(f"weights-{mirror.id}"[:128], type="model", metadata={"run_id": mirror.run_id})
        artifact.add_file(str(weights))
        run.log_artifact(artifact)


def table(rows: Rows) -> Any:
    """Rows as a ``wandb.Table``."""
    import wandb

    return wandb.Table(columns=[*rows.columns], data=rows.rows, allow_mixed_types=True)
