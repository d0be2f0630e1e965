"""Batches are full, in the same order for all, and pure functions of the step; augmentation does what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import crop, hflip, pad

from experiments.config.schema import Augmentation
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches
from experiments.data.images import Dataset, Images
from experiments.data.order import SampleOrder
from experiments.data.seeding import generator

CPU = torch.device("cpu")


def some_images(n: int = 10, size: int = 6, channels: int = 3) -> Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    return Images(pixels, np.arange(n) % 2, np.array([str(i) for i in range(n)]))


def batches(images: Images, *, seed: int = 0, batch_size: int = 4, **augmentation: object) -> TrainBatches:
    plain = Normalise([0.0] * 3, [1.0] * 3, CPU)
    options = Augmentation.model_validate(augmentation)
    return TrainBatches(images, plain, batch_size=batch_size, seed=seed, augmentation=options, device=CPU)


def test_batches_cross_epochs_and_are_always_full() -> None:
    order = SampleOrder(n=10, batch_size=4, seed=0)
    stream = np.concatenate([order.indices(step) for step in range(5)])
    assert len(stream) == 20
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))  # each epoch is a permutation
    assert not np.array_equal(stream[:10], stream[10:])


def test_a_batch_may_hold_several_epochs() -> None:
    assert np.bincount(SampleOrder(n=3, batch_size=8, seed=0).indices(0)).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_position_is_a_function_of_the_step_alone() -> None:
    images = some_images()
    onward = batches(images, crop_padding=1, horizontal_flip=True)
    for step in range(7):
        expected = onward(step)
    jumped = batches(images, crop_padding=1, horizontal_flip=True)(6)
    assert torch.equal(expected[0], jumped[0]) and torch.equal(expected[1], jumped[1])


def test_seeds_differ_and_seed_zero_counts() -> None:
    first, again, other = (SampleOrder(100, 50, seed).indices(0) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_crop_and_flip_equal_torchvision() -> None:
    images, padding, step = some_images(), 2, 3
    augmented, labels = batches(images, seed=5, crop_padding=padding, horizontal_flip=True)(step)
    index = SampleOrder(10, 4, seed=5).indices(step)
    flips = generator(5, "flip", step).random(4) < 0.5
    offsets = generator(5, "crop", step).integers(0, 2 * padding + 1, (2, 4, 1))
    assert flips.any() and not flips.all()  # both cases are seen
    for slot, sample in enumerate(index):
        image = torch.from_numpy(images.pixels[sample])
        expected = crop(pad(image, [padding] * 4), int(offsets[0, slot, 0]), int(offsets[1, slot, 0]), 6, 6)
        expected = hflip(expected) if flips[slot] else expected
        assert torch.allclose(augmented[slot], expected / 255)
        assert labels[slot] == images.labels[sample]


def test_without_augmentation_images_are_untouched() -> None:
    images = some_images()
    plain, _ = batches(images)(0)
    assert torch.allclose(plain, torch.from_numpy(images.pixels[SampleOrder(10, 4, 0).indices(0)]) / 255)


def test_normalise_by_hand() -> None:
    normalise = Normalise([0.5], [0.25], CPU)
    values = normalise(torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8))
    assert values.flatten().tolist() == pytest.approx([-2.0, 2.0, -1.2])  # (0.2 − 0.5) / 0.25 = −1.2


def test_evaluation_sees_each_image_once_in_order() -> None:
    images = some_images(n=7)
    chunks = list(EvaluationBatches(images, Normalise([0.0] * 3, [1.0] * 3, CPU), device=CPU, batch_size=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert torch.allclose(torch.cat(chunks), torch.from_numpy(images.pixels) / 255)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("processes", [1, 3, 9])
def test_shares_of_processes_make_up_the_set_even_where_some_are_empty(processes: int, resident: bool) -> None:
    images, normalise = some_images(n=7), Normalise([0.0] * 3, [1.0] * 3, CPU)
    asked = {"device": CPU, "batch_size": 3, "resident": resident}
    parts = [EvaluationBatches(images, normalise, part=(at, processes), **asked) for at in range(processes)]
    found = torch.cat([torch.cat(list(part)) for part in parts])
    assert torch.equal(found, normalise(torch.from_numpy(images.pixels)))


def test_a_permutation_comes_after_all_augmentation_and_is_one_for_all() -> None:
    images, options = some_images(n=9, size=8), Augmentation(crop_padding=2, horizontal_flip=True, erase=0.5, cutmix=1.0)
    plain, permuted, other = (Normalise([0.5] * 3, [0.25] * 3, CPU, 8, permutation=seed) for seed in (None, 3, 4))
    places = torch.from_numpy(generator(3, "permutation").permutation(64))
    asked = {"batch_size": 4, "augmentation": options, "device": CPU, "n_classes": 2}
    for seed, step in ((0, 0), (1, 5)):  # the run's seed and the step change what is drawn, and not the permutation
        (seen, labels), (expected, wanted) = (
            TrainBatches(images, normalise, seed=seed, **asked)(step)  # type: ignore[arg-type]
            for normalise in (permuted, plain)
        )
        assert torch.equal(seen.flatten(2), expected.flatten(2)[..., places]) and torch.equal(labels, wanted)
    for normalise, order in ((permuted, places), (other, None)):
        seen, expected = (torch.cat(list(EvaluationBatches(images, n, device=CPU))) for n in (normalise, plain))
        assert torch.equal(seen.flatten(2), expected.flatten(2)[..., places]) == (order is not None)
        assert torch.equal(seen.flatten(2).sort().values, expected.flatten(2).sort().values)  # nothing is lost


def test_training_refuses_a_sealed_test_set() -> None:
    images = some_images()
    sealed = Dataset(("a", "b"), images, images).seal()
    with pytest.raises(TypeError, match="training takes Images, got SealedTest"):
        batches(sealed)  # type: ignore[arg-type]
