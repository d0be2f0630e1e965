"""The types that carry images from disk to the training loop, and the seal on the test set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes
    ----------
    pixels : uint8 array of shape (N, C, H, W)
    labels : int64 array of shape (N,)
    ids : str array of shape (N,)
        What names a sample for ever, such as its path inside the dataset; splits are hashed over it.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise ValueError(f"pixels must be uint8 of shape (N, C, H, W), got {self.pixels.dtype} {self.pixels.shape}")
        if not len(self.pixels) == len(self.labels) == len(self.ids):
            raise ValueError(f"{len(self.pixels)} images, {len(self.labels)} labels and {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Images:
        """The samples at `index`, in that order."""
        return Images(self.pixels[index], self.labels[index], self.ids[index])


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


@dataclass(frozen=True)
class Dataset:
    """Class names, the pool that training and validation are cut from, and the test set."""

    class_names: tuple[str, ...]
    pool: Images
    test: Images
    test_was_cut: bool = False
    """Whether the data came without a test split, and a stratified fifth of it was cut."""

    def seal(self) -> SealedTest:
        """The test set under a fresh seal, for one run."""
        return SealedTest(self.test)
