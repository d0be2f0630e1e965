"""The types that carry images from disk to the training loop, and the seal on the test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.data.splits import cut_test

if TYPE_CHECKING:
    from torch import Tensor


class Base(Protocol):
    """What rows are taken of: a mapped file, or files that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]: ...


class Rows:
    """The rows at `index` of a mapped file or of image files of shape (N, C, H, W), without a copy in memory."""

    def __init__(self, base: Base, index: NDArray[np.int64]) -> None:
        self.base, self.index = base, index
        self.shape = (len(index), *base.shape[1:])

    @classmethod
    def of(cls, pixels: Pixels) -> Rows:
        """Pixels of either kind as rows."""
        return pixels if isinstance(pixels, Rows) else cls(pixels, np.arange(len(pixels)))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        return self.base[self.index[key]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.base[self.index], dtype=dtype)

    def gathered(self, key: NDArray[np.int64]) -> Tensor:
        """The rows at `key` of these rows as a tensor; other threads go on meanwhile."""
        import warnings

        import torch

        if not isinstance(self.base, np.ndarray):
            return torch.from_numpy(self.base[self.index[key]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a mapped file is read-only, and is only read
            base = torch.from_numpy(self.base)
        return base.index_select(0, torch.from_numpy(self.index[key]))


Pixels = NDArray[np.uint8] | Rows
"""uint8 of shape (N, C, H, W): an array in memory, or rows of a mapped file or of image files."""


@dataclass(frozen=True)
class Images:
    """Labelled images, in memory, in a mapped file or in image files."""

    pixels: Pixels
    labels: NDArray[np.int64]
    """Of shape (N,)."""
    ids: NDArray[np.str_]
    """What names each sample for ever, such as its path inside the dataset; splits are hashed over it."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Images:
        """The samples at `index`, in that order."""
        pixels = self.pixels
        if isinstance(pixels, np.memmap | Rows):  # a mapped file stays on the disk
            rows = Rows.of(pixels)
            return Images(Rows(rows.base, rows.index[index]), self.labels[index], self.ids[index])
        return Images(pixels[index], self.labels[index], self.ids[index])


@dataclass
class SealedTest:
    """The test set, which opens once.

    The training code takes `Images` and cannot be handed this by mistake; the size and the ids are open, since splits are
    hashed over them.
    """

    _images: Images
    _opened: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def ids(self) -> NDArray[np.str_]:
        """Sample ids, without images or labels."""
        return self._images.ids

    def open(self) -> Images:
        """Break the seal, at the end of a run.

        Raises
        ------
        RuntimeError
            On the second call: the test set is evaluated once.
        """
        if self._opened:
            raise RuntimeError("the test set was opened twice; it is evaluated once, on the last checkpoint")
        self._opened = True
        return self._images


OWN, CUT = "its own", "stratified 20% cut"
"""Where a test split came from: with the data, or cut here because they came without one."""


@dataclass(frozen=True)
class Listing:
    """What a folder of images holds beside the images that are read."""

    root: Path
    """The ids of the images are paths from here, with ``#`` and a mark of the content at their end."""
    passed_over: dict[str, tuple[int, str]]
    """By reason the number of files and the first of them."""


@dataclass(frozen=True)
class Dataset:
    """Class names, the pool that training and validation are cut from, and the test set."""

    class_names: tuple[str, ...]
    pool: Images
    test: Images
    test_split: str = OWN
    """`OWN`, `CUT`, or words on another split that stands in for a test split."""
    listing: Listing | None = None
    """Of a folder of images."""
    made_of: Mapping[str, str] = field(default_factory=dict)
    """Files that the images were made from, such as fonts, with their SHA-256."""
    notes: tuple[str, ...] = ()
    """Sentences on what may not be as the user thinks."""

    @classmethod
    def cut(cls, class_names: tuple[str, ...], images: Images, kind: str = "random") -> Dataset:
        """A dataset of images without a test set of their own: a fifth is cut, see `experiments.data.splits.cut_test`."""
        pool, test = cut_test(images.labels, kind)
        return cls(class_names, images.take(pool), images.take(test), CUT)

    def seal(self) -> SealedTest:
        """The test set under a fresh seal, for one run."""
        return SealedTest(self.test)
