"""Batches for training and evaluation, augmented and normalised on the device.

Shapes: ``B`` batch, ``C`` channels, ``H`` and ``W`` pixels, ``P`` padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from experiments.config.schema import Augmentation, DataConfig
from experiments.data import mixing, resized_crop, source, trivial_augment
from experiments.data.images import Images, Rows
from experiments.data.order import SampleOrder
from experiments.data.seeding import generator

Some = TypeVar("Some", NDArray[np.uint8], Tensor)


class Normalise:
    """uint8 pixels → what a model sees: floats with the data's mean and standard deviation.

    Parameters
    ----------
    mean, std : list of float
        Of each channel, for pixels in [0, 1].
    size : int, optional
        Pixels of a side that a model sees. Larger images are cropped at their centre and resized, with antialiasing.
    crop_fraction : float
        Share of a larger image's side in that crop.
    permutation : int, optional
        Seed of a fixed permutation of the positions of the `size` × `size` pixels.
    """

    def __init__(
        self,
        mean: list[float],
        std: list[float],
        device: torch.device,
        size: int | None = None,
        crop_fraction: float = 1.0,
        permutation: int | None = None,
    ) -> None:
        self.size, self.crop_fraction, self.places = size, crop_fraction, None
        if permutation is not None and size is not None:
            order = generator(permutation, "permutation").permutation(size * size)
            self.places = torch.from_numpy(order).to(device)
        means, stds = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
        self.scale = (1 / (255 * stds)).float().to(device)
        self.shift = (-means / stds).float().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → what a model sees, float32 (B, C, size, size)."""
        return self.permuted(self.scaled(pixels))

    def permuted(self, images: Tensor) -> Tensor:
        """Images (B, C, size, size) with their pixels at other places, where the data are to be permuted."""
        return images if self.places is None else images.flatten(2)[..., self.places].view_as(images)

    def seen(self, pixels: Some) -> Some:
        """The part of images (B, C, H, W), arrays or tensors, that a model sees: of larger ones the centre."""
        stored = pixels.shape[-1]
        side = stored if self.size in (None, stored) else round(self.crop_fraction * stored)
        start = (stored - side) // 2
        return pixels[..., start : start + side, start : start + side]

    def scaled(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → float32 (B, C, size, size), each pixel at its place, as augmentation wants it."""
        if self.size is not None and pixels.shape[-1] != self.size:
            size = (self.size, self.size)
            pixels = interpolate(self.seen(pixels).float(), size, mode="bilinear", antialias=True).round()
        return torch.addcmul(self.shift, pixels.float(), self.scale)


def normalised(data: DataConfig, device: torch.device) -> Normalise:
    """What brings a dataset's images to a model."""
    return Normalise(data.mean, data.std, device, data.image_size, data.crop_fraction, data.permute_pixels)


class TrainBatches:
    """Training batches: a pure function of the step.

    Parameters
    ----------
    images : Images
        The training set, never the test set.
    batch_size, seed : int
        Images of a step over all processes, and the run's seed.
    augmentation : Augmentation
        Its parameters are drawn on the CPU for the whole batch, keyed by (seed, operation, step), and applied on the device.
    n_classes : int, optional
        Needed where labels are mixed.
    mixed_steps : int, optional
        Steps from the first on that mix; all by default.
    part : (int, int)
        This process and the number of processes, which share each batch in equal slices.
    resident : bool, optional
        Whether all pixels lie on the device; by default where they fit. The batches are the same.
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
        n_classes: int | None = None,
        mixed_steps: int | None = None,
        part: tuple[int, int] = (0, 1),
        resident: bool | None = None,
    ) -> None:
        if not isinstance(images, Images):
            raise TypeError(f"training takes Images, got {type(images).__name__}")
        process, processes = part
        if batch_size % processes:
            raise ValueError(f"a batch of {batch_size} does not divide among {processes} processes")
        self.order = SampleOrder(len(images), batch_size, seed)
        self.normalise, self.augmentation, self.seed, self.device = normalise, augmentation, seed, device
        self.stored, self.n_classes = images.pixels.shape[-1], n_classes
        self.size = normalise.size or self.stored
        self.mixes = bool(augmentation.mixup or augmentation.cutmix)
        self.mixed_steps = mixed_steps
        if self.mixes and n_classes is None:
            raise ValueError("mixing labels needs the number of classes")
        self.slots = np.arange(batch_size).reshape(processes, -1)[process]
        padding = augmentation.crop_padding
        self.source: source.Resident | source.Streamed
        if source.fits(images.pixels, padding, device) if resident is None else resident:
            self.source = source.Resident(images.pixels, padding, self._to_device, device)
        else:
            self.source = source.Streamed(images.pixels, padding, device, lambda step: self._places(step)[1])
        self.labels = torch.from_numpy(images.labels).to(device)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of one step: images (B, C, H, W) float32, and labels: (B,) int64, or (B, K) float32 where they mix."""
        slots, index = self._places(step)
        images, labels = self._images(index, slots, step), self.labels[self._to_device(index)]
        if self._mixes_at(step):
            images, labels = self._mixed(images, labels, step)
        return self.normalise.permuted(images), labels

    def _mixes_at(self, step: int) -> bool:
        return self.mixes and (self.mixed_steps is None or step < self.mixed_steps)

    def _places(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots of the batch that this process makes at a step, and the training images in them.

        Where images mix, a slice's first neighbour belongs to another process, and is made here too.
        """
        slots, batch_size = self.slots, self.order.batch_size
        if self._mixes_at(step) and len(slots) < batch_size:
            slots = np.concatenate([slots[:1] - 1, slots]) % batch_size
        return slots, self.order.indices(step)[slots]

    def _images(self, index: NDArray[np.int64], slots: NDArray[np.int64], step: int) -> Tensor:
        """Augmented and normalised images, up to mixing and permutation, at some slots of the batch."""
        options, batch_size = self.augmentation, self.order.batch_size
        pixels = self._cropped(index, slots, step)
        for drawn in self._policy(generator(self.seed, "policy", step), pixels.shape[-1]):
            mine = trivial_augment.Choice(drawn.operation[slots], drawn.magnitude[slots])
            pixels = trivial_augment.apply(pixels, mine, self._to_device)
        images = self.normalise.scaled(pixels)
        if options.erase:
            boxes = mixing.draw_erased(generator(self.seed, "erase", step), batch_size, self.size, options.erase)
            images = mixing.erased(images, self._to_device(boxes[slots]))
        return images

    def _policy(self, rng: np.random.Generator, size: int) -> list[trivial_augment.Choice]:
        """The operations of a policy for the whole batch, in their order."""
        options, batch_size = self.augmentation, self.order.batch_size
        if options.policy == "trivial_augment":
            return [trivial_augment.draw(rng, batch_size)]
        rounds = options.policy_operations if options.policy == "rand_augment" else 0
        return [trivial_augment.draw_rand(rng, batch_size, options.policy_strength, size) for _ in range(rounds)]

    def _cropped(self, index: NDArray[np.int64], slots: NDArray[np.int64], step: int) -> Tensor:
        """Select, crop and flip in one gather."""
        options, (pixels, selected) = self.augmentation, self.source(step, index)
        batch_size, flip = self.order.batch_size, None
        if options.horizontal_flip:
            flip = generator(self.seed, "flip", step).random(batch_size)[slots] < 0.5
        if options.resized_crop is not None:
            rng = generator(self.seed, "resized_crop", step)
            boxes = self._to_device(resized_crop.draw(rng, batch_size, self.stored, options.resized_crop)[slots])
            mirrored = None if flip is None else self._to_device(flip)
            return resized_crop.apply(pixels[selected], boxes, self.size, mirrored)
        if not options.crop_padding and flip is None:
            return pixels[selected]
        rows = np.broadcast_to(np.arange(self.stored), (len(slots), self.stored))
        columns = rows
        if flip is not None:
            columns = np.where(flip[:, None], columns[:, ::-1], columns)
        if options.crop_padding:
            offsets = generator(self.seed, "crop", step).integers(0, 2 * options.crop_padding + 1, (2, batch_size, 1))
            rows, columns = rows + offsets[0, slots], columns + offsets[1, slots]
        where = self._to_device(np.stack([rows, columns]).astype(np.int64))
        gathered = pixels[selected[:, None, None], :, where[0][:, :, None], where[1][:, None, :]]  # B H W C
        return gathered.permute(0, 3, 1, 2).contiguous()

    def _mixed(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The batch with each image mixed with the one before it, the first with the last of the whole batch."""
        options, batch_size = self.augmentation, self.order.batch_size
        whole = len(self.slots) == batch_size
        neighbours = (images.roll(1, 0), labels.roll(1, 0)) if whole else (images[:-1], labels[:-1])
        if not whole:
            images, labels = images[1:], labels[1:]
        mix = mixing.draw_mix(
            generator(self.seed, "mix", step),
            batch_size,
            self.size,
            mixup=options.mixup,
            cutmix=options.cutmix,
            probability=options.mix_probability,
        )
        share = self._to_device(mix.share[self.slots].astype(np.float32))
        boxes, blended = self._to_device(mix.boxes[self.slots]), self._to_device(mix.blended[self.slots])
        return (
            mixing.mixed_images(images, neighbours[0], share, blended, boxes),
            mixing.mixed_labels(labels, neighbours[1], share, self.n_classes or 0),
        )


class EvaluationBatches:
    """The images of one set in order, in large batches, without augmentation.

    `batch_size` bounds memory only; the results do not depend on it beyond rounding. Processes share the images in slices
    that differ by one at most. `part` and `resident` are as in `TrainBatches`.
    """

    def __init__(
        self,
        images: Images,
        normalise: Normalise,
        *,
        device: torch.device,
        batch_size: int = 500,
        part: tuple[int, int] = (0, 1),
        resident: bool | None = None,
    ) -> None:
        process, processes = part
        mine = slice(len(images) * process // processes, len(images) * (process + 1) // processes)
        rows = Rows.of(images.pixels)
        share = Rows(rows.base, rows.index[mine])
        self.pixels: Tensor | Rows = share
        if source.fits(share, 0, device) if resident is None else resident:
            self.pixels = torch.from_numpy(np.array(images.pixels[mine])).to(device)
        self.labels = images.labels
        self.normalise, self.batch_size, self.device = normalise, batch_size, device

    def __iter__(self) -> Iterator[Tensor]:
        if isinstance(self.pixels, Tensor):
            return (self.normalise(chunk) for chunk in self.pixels.split(self.batch_size))
        return (self.normalise(chunk) for chunk in source.chunks(self.pixels, self.batch_size, self.device))
