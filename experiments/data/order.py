"""Which training images make up the batch of a step: a pure function of seed and step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments.data.seeding import generator


class SampleOrder:
    """The endless stream: one seeded permutation of the n samples after another.

    Batches are cut across the borders of epochs, so that every batch is full and its place is a function of the step alone.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, generator(self.seed, "order", epoch).permutation(self.n)
        return self._permutation

    def indices(self, step: int) -> NDArray[np.int64]:
        """Indices of the batch of one step, shape (batch_size,)."""
        start, stop, pieces = step * self.batch_size, (step + 1) * self.batch_size, []
        while start < stop:
            epoch, offset = divmod(start, self.n)
            piece = self._permuted(epoch)[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)
