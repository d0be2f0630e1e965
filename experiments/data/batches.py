"""Batches for training and evaluation, from uint8 images that live on the device.

Shapes: ``B`` batch, ``C`` channels, ``H`` and ``W`` pixels, ``P`` padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from experiments.config import Augmentation
from experiments.data.images import Images
from experiments.seeding import generator


def batch_positions(step: int, batch_size: int) -> range:
    """Positions in the endless stream of samples that make up the batch of one step, counted from 0."""
    return range(step * batch_size, (step + 1) * batch_size)


class SampleOrder:
    """The endless stream: one seeded permutation of the n samples after another.

    Batches are cut across the borders of epochs, so that every batch is full and its place is a function of the step alone.

    Parameters
    ----------
    n : int
        Samples in the training set.
    batch_size : int
        Samples per step.
    seed : int
        The run's seed.
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
        positions = batch_positions(step, self.batch_size)
        start, pieces = positions.start, []
        while start < positions.stop:
            epoch, offset = divmod(start, self.n)
            piece = self._permuted(epoch)[offset : offset + positions.stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)


class Normalise:
    """uint8 pixels → floats with the data's mean and standard deviation, in one multiplication and one addition."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        means, stds = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
        self.scale = (1 / (255 * stds)).float().to(device)
        self.shift = (-means / stds).float().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → float32."""
        return torch.addcmul(self.shift, pixels.float(), self.scale)


class TrainBatches:
    """Training batches: a pure function of the step.

    Parameters
    ----------
    images : Images
        The training set, never the test set.
    normalise : Normalise
        Brings uint8 pixels to floats.
    batch_size, seed : int
    augmentation : Augmentation
        Its parameters are drawn on the CPU for the whole batch, keyed by (seed, operation, step), and applied on the device.
    device : torch.device
        Where the images live.
    """

    def __init__(
        self,
        images: Images,
        normalise: Normalise,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        device: torch.device,
    ) -> None:
        if not isinstance(images, Images):
            raise TypeError(f"training takes Images, got {type(images).__name__}")
        self.order = SampleOrder(len(images), batch_size, seed)
        self.normalise, self.augmentation, self.seed, self.device = normalise, augmentation, seed, device
        self.size = images.pixels.shape[-1]
        padding = augmentation.crop_padding
        self.pixels = pad(torch.from_numpy(np.array(images.pixels)).to(device), (padding,) * 4)  # N C H+2P W+2P
        self.labels = torch.from_numpy(images.labels).to(device)

    def _to_device(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of one step: images (B, C, H, W) float32 and labels (B,) int64."""
        index = self._to_device(self.order.indices(step))
        return self.normalise(self._augmented(index, step)), self.labels[index]

    def _augmented(self, index: Tensor, step: int) -> Tensor:
        """Select, crop and flip in one gather."""
        options = self.augmentation
        if not (options.crop_padding or options.horizontal_flip):
            return self.pixels[index]
        batch, pixels = len(index), np.arange(self.size)
        rows = np.broadcast_to(pixels, (batch, self.size))
        columns = rows
        if options.horizontal_flip:
            flip = generator(self.seed, "flip", step).random(batch) < 0.5
            columns = np.where(flip[:, None], columns[:, ::-1], columns)
        if options.crop_padding:
            offsets = generator(self.seed, "crop", step).integers(0, 2 * options.crop_padding + 1, (2, batch, 1))
            rows, columns = rows + offsets[0], columns + offsets[1]
        where = self._to_device(np.stack([rows, columns]).astype(np.int64))
        gathered = self.pixels[index[:, None, None], :, where[0][:, :, None], where[1][:, None, :]]  # B H W C
        return gathered.permute(0, 3, 1, 2).contiguous()


class EvaluationBatches:
    """The images of one set in order, in large batches, without augmentation.

    Parameters
    ----------
    images : Images
    normalise : Normalise
    device : torch.device
    batch_size : int
        Bounds memory only; the results do not depend on it beyond rounding.
    """

    def __init__(self, images: Images, normalise: Normalise, *, device: torch.device, batch_size: int = 500) -> None:
        self.pixels = torch.from_numpy(np.array(images.pixels)).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.normalise, self.batch_size = normalise, batch_size

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.normalise(chunk) for chunk in self.pixels.split(self.batch_size))
