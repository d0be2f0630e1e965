"""What a dataset is, found before anything is trained on it: images per class and split, duplicates, sizes and modes."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.config.identity import canonical_hash
from experiments.config.text import printable
from experiments.data.decoding import header, in_threads
from experiments.data.images import Dataset, Images, Rows
from experiments.records.dataset import DataDescription, Duplicates, Equal, Files, PassedOver


def describe(dataset: Dataset, title: str, before: DataDescription | None = None) -> DataDescription:
    """Describe a dataset, which tables call `title`. Where its images are those of `before`, no file is opened again.

    Raises
    ------
    ConfigError
        For each image file that cannot be opened.
    """
    samples = canonical_hash([*dataset.pool.ids.tolist(), *dataset.test.ids.tolist()])
    known = before.files if before and before.samples == samples else None
    return DataDescription(
        title=title,
        test_split=dataset.test_split,
        train=_per_class(dataset, dataset.pool),
        test=_per_class(dataset, dataset.test),
        files=_files(dataset, known),
        duplicates=_duplicates(dataset),
        notes=list(dataset.notes),
        made_of=dict(dataset.made_of),
        samples=samples,
    )


def _per_class(dataset: Dataset, images: Images) -> dict[str, int]:
    counts = np.bincount(images.labels, minlength=len(dataset.class_names))
    return dict(zip(dataset.class_names, counts.tolist(), strict=True))


def _files(dataset: Dataset, known: Files | None) -> Files | None:
    """The files of a folder. Sizes and modes are read from their headers, once for the same images."""
    if dataset.listing is None:
        return None
    passed = [
        PassedOver(reason=reason, files=count, example=example)
        for reason, (count, example) in dataset.listing.passed_over.items()
    ]
    if known:
        return known.model_copy(update={"passed_over": passed})
    paths = [dataset.listing.root / _name(dataset, sample) for part in (dataset.pool, dataset.test) for sample in part.ids]
    widths, heights, modes = zip(*in_threads(lambda at: header(paths[at]), len(paths)), strict=True)
    return Files(
        read=len(paths),
        passed_over=passed,
        width=(min(widths), max(widths)),
        height=(min(heights), max(heights)),
        modes=dict(Counter(modes)),
    )


def _name(dataset: Dataset, sample: str) -> str:
    """What a sample is called for people: its path without the mark of its content, or its id."""
    return str(sample).rpartition("#")[0] if dataset.listing else str(sample)


def _checksums(dataset: Dataset, images: Images) -> NDArray[np.uint32]:
    """CRC-32 of the pixels of each image, which the ids of image files end in."""
    if dataset.listing:
        return np.array([int(sample.rpartition("#")[2], 16) for sample in images.ids.tolist()], np.uint32)
    return np.array([zlib.crc32(image) for image in np.asarray(images.pixels)], np.uint32)


def _duplicates(dataset: Dataset) -> Duplicates | None:
    """Images of equal pixels. Check sums find candidates, and a digest of all their pixels decides."""
    parts = (dataset.pool, dataset.test)
    if any(isinstance(part.pixels, Rows) and not isinstance(part.pixels.base, np.ndarray) for part in parts):
        return None
    checksums = np.concatenate([_checksums(dataset, part) for part in parts])
    n_pool = len(dataset.pool)
    _, group, size = np.unique(checksums, return_inverse=True, return_counts=True)
    alike: dict[bytes, list[int]] = {}
    for at in np.flatnonzero(size[group] > 1).tolist():
        part, row = (dataset.pool, at) if at < n_pool else (dataset.test, at - n_pool)
        alike.setdefault(hashlib.sha256(part.pixels[row].tobytes()).digest(), []).append(at)
    ids, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "labels"))
    found: dict[str, list[tuple[int, int]]] = {}
    for members in alike.values():
        pool, test = ([at for at in members if (at < n_pool) == in_pool] for in_pool in (True, False))
        other = next((at for at in members if labels[at] != labels[members[0]]), None)
        pairs: dict[str, list[tuple[int, int]]] = {
            "within_train": [(at, pool[0]) for at in pool[1:]],
            "within_test": [(at, test[0]) for at in test[1:]],
            "across": [(at, pool[0]) for at in test if pool],
            "across_classes": [
                (at, other if labels[at] == labels[members[0]] else members[0]) for at in members if other is not None
            ],
        }
        for kind, own in pairs.items():
            found.setdefault(kind, []).extend(own)
    return Duplicates(**{kind: _equal(dataset, ids, pairs) for kind, pairs in found.items() if pairs})


def _equal(dataset: Dataset, ids: NDArray[np.str_], pairs: list[tuple[int, int]]) -> Any:
    first, second = (printable(_name(dataset, ids[at])) for at in min(pairs))
    return Equal(images=len(pairs), example=(first, second))
