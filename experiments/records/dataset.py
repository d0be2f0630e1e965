"""What an experiment was run on: ``data.json`` beside its runs, one description per dataset as it was requested.

The analysis reads it for the page and the captions. Runs published before it was written have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from experiments.records.record import write_json
from experiments.records.state import read_cache

DATA_FILE = "data.json"
SHOWN = 6
"""Reasons and modes that a line shows of many."""

_TEST_SPLITS = {"its own": "the data's own", "stratified 20% cut": "a stratified fifth, cut here"}


def test_split_title(test_split: str) -> str:
    """Where a test split came from, in the words of captions."""
    return _TEST_SPLITS.get(test_split, test_split)


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class PassedOver(_Part):
    """Files that were not read, for one reason."""

    reason: str
    files: int
    example: str


class Files(_Part):
    """Image files below a folder."""

    read: int
    passed_over: list[PassedOver]
    width: tuple[int, int]
    height: tuple[int, int]
    """The smallest and the largest of the files, in pixels, as they are stored."""
    modes: dict[str, int]
    """Files by Pillow's mode: ``RGB``, ``L``, ``P``, …"""


class Equal(_Part):
    """Images of equal pixels: how many, and two of them."""

    images: int
    example: tuple[str, str]


class Duplicates(_Part):
    """Images that are equal at the size at which models see them. ``null`` where there are none."""

    within_train: Equal | None = None
    within_test: Equal | None = None
    """Images that repeat an earlier one of the same split."""
    across: Equal | None = None
    """Test images that are training or validation images too."""
    across_classes: Equal | None = None
    """Images that stand in more than one class."""


class DataDescription(_Part):
    """One dataset."""

    title: str
    test_split: str
    """As in a run's record."""
    train: Annotated[dict[str, int], Field(min_length=1)]
    """Images for training and validation by class, in the order of the labels."""
    test: Annotated[dict[str, int], Field(min_length=1)]
    files: Files | None = None
    """``null`` for data that are not a folder of image files."""
    duplicates: Duplicates | None = None
    """``null`` where they were not looked for: in a set too large to be decoded at once."""
    notes: list[str] = []
    """What may not be as the user thinks."""
    made_of: dict[str, str] = {}
    """Files that the images were made from, such as fonts, with their SHA-256."""
    samples: str
    """Hash of all sample ids."""
    split_hashes: list[str] = []
    """Of the splits that were cut from it: by them a run finds its data."""

    @property
    def summary(self) -> list[str]:
        """The dataset in one or two lines."""
        n_train, n_test = sum(self.train.values()), sum(self.test.values())
        lines = [
            f"{len(self.train)} classes; {n_train:,} images for training and validation, {_per_class(self.train)}; "
            f"{n_test:,} for the test, {_per_class(self.test)}. Test split: {test_split_title(self.test_split)}."
        ]
        if self.files:
            modes = sorted(self.files.modes.items(), key=lambda mode: -mode[1])
            lines.insert(
                0,
                f"{self.files.read:,} image files read, {_passed_over(self.files.passed_over)} passed over; "
                f"{_range(self.files.width)} × {_range(self.files.height)} pixels; "
                f"{', '.join(f'{name} {count:,}' for name, count in modes[:SHOWN])}.",
            )
        return lines

    @property
    def leak(self) -> str:
        """How many test images are training images too; empty where none is."""
        across = self.duplicates and self.duplicates.across
        n_test = sum(self.test.values())
        return f"Test images that are training or validation images too: {across.images:,} of {n_test:,}" if across else ""

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results must know."""
        found = self.duplicates or Duplicates()
        said = [
            (found.across, self.leak),
            (found.within_train, "Training and validation images that repeat another one: {:,}"),
            (found.within_test, "Test images that repeat another one: {:,}"),
            (found.across_classes, "Equal images in different classes: {:,}"),
        ]
        return self.notes + [
            f"{sentence.format(equal.images)}, such as {' = '.join(equal.example)}." for equal, sentence in said if equal
        ]


def _range(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]}–{bounds[1]}"


def _per_class(counts: Mapping[str, int]) -> str:
    """Smallest, middle and largest class."""
    low, middle, high = min(counts.values()), median(counts.values()), max(counts.values())
    return f"{low:,} a class" if low == high else f"{low:,} to {high:,} a class (median {middle:g})"


def _passed_over(entries: list[PassedOver]) -> str:
    """Files that were passed over, with the most frequent reasons."""
    if not entries:
        return "none"
    ordered = sorted(entries, key=lambda entry: -entry.files)
    shown = [f"{entry.files:,} {entry.reason}" for entry in ordered[:SHOWN]]
    rest = sum(entry.files for entry in ordered[SHOWN:])
    total = sum(entry.files for entry in entries)
    return f"{total:,} ({', '.join(shown)}{f', {rest:,} for other reasons' if rest else ''})"


def read_descriptions(folder: Path) -> dict[str, DataDescription]:
    """The descriptions in an experiment's folder by the key of the data; empty where the file is missing or damaged."""
    return read_cache(folder / DATA_FILE, dict[str, DataDescription]) or {}


def keep_descriptions(descriptions: Mapping[str, DataDescription], folder: Path) -> None:
    """Add descriptions to those of an experiment's folder; data that did not change keep the splits that are known."""
    before = read_descriptions(folder)
    kept = dict(before)
    for key, new in descriptions.items():
        old = before.get(key)
        known = old.split_hashes if old and old.samples == new.samples else []
        kept[key] = new.model_copy(update={"split_hashes": sorted({*new.split_hashes, *known})})
    if kept != before:
        write_json(folder / DATA_FILE, {key: value.model_dump() for key, value in kept.items()})
