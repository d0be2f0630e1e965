"""Where the pixels of a training set wait: on the device, where they fit, or on the host, from which batches are sent ahead.

Both give the same bits: what differs is when pixels travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from experiments.config.machine import free_memory
from experiments.data.images import Pixels, Rows

RESIDENT_SHARE = 0.4
"""Share of the free memory of a device that a training set may take."""

AHEAD = 3
"""Batches that a streaming source makes ready before they are asked for."""


def free_bytes(device: torch.device) -> int:
    """Memory of a device that is free now; of the host, what is free without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def fits(pixels: Pixels, padding: int, device: torch.device) -> bool:
    """Whether a set, with `padding` pixels around each image, may lie on the device for the whole run."""
    n, channels, height, width = pixels.shape
    return n * channels * (height + 2 * padding) * (width + 2 * padding) <= RESIDENT_SHARE * free_bytes(device)


class Resident:
    """All pixels on the device; a batch is a gather in them."""

    name = "resident"

    def __init__(self, pixels: Pixels, padding: int, to_device: Callable[[NDArray[np.int64]], Tensor], device: torch.device):
        self.pixels = pad(torch.from_numpy(np.array(pixels)).to(device), (padding,) * 4)
        self._to_device = to_device

    def __call__(self, step: int, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Padded pixels (M, C, H, W) uint8 on the device, and where in them the images at `index` are, (B,) int64."""
        return self.pixels, self._to_device(index)


class Streamed:
    """Pixels on the host, in memory, in a mapped file or in image files; threads gather, or decode, batches ahead.

    `index_of` gives the indices of the images that a step needs, so that coming batches can be made ready.
    """

    def __init__(
        self, pixels: Pixels, padding: int, device: torch.device, index_of: Callable[[int], NDArray[np.int64]]
    ) -> None:
        self.rows, self.padding, self.device, self.index_of = Rows.of(pixels), padding, device, index_of
        self.name = "streamed" if isinstance(self.rows.base, np.ndarray) else "decoded"
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="batches")
        self._ready: dict[int, Future[Tensor]] = {}

    def _gathered(self, index: NDArray[np.int64]) -> Tensor:
        """In a thread: the images as one tensor, in pinned memory where they go to a GPU."""
        batch = self.rows.gathered(index)
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def __call__(self, step: int, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """As of `Resident`."""
        for coming in range(step, step + AHEAD + 1):
            if coming not in self._ready:
                wanted = index if coming == step else self.index_of(coming)
                self._ready[coming] = self._threads.submit(self._gathered, wanted)
        for passed in [known for known in self._ready if not step <= known <= step + AHEAD]:
            self._ready.pop(passed).cancel()
        batch = self._ready.pop(step).result().to(self.device, non_blocking=True)
        return pad(batch, (self.padding,) * 4), torch.arange(len(index), device=self.device)


def chunks(pixels: Pixels, size: int, device: torch.device) -> Iterator[Tensor]:
    """The images of a set in order, on the device, `size` at a time; the next chunk is gathered while one is used."""
    rows = Rows.of(pixels)
    first, *others = np.split(np.arange(len(rows)), range(size, len(rows), size))
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(rows.gathered, first)
        for other in [*others, first[:0]]:
            ready, coming = coming, thread.submit(rows.gathered, other)
            yield ready.result().to(device)
