"""Augmentation against its definition: torchvision's functional operations, and formulas by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms import autoaugment

from experiments.config.schema import Augmentation
from experiments.data import mixing, resized_crop, source, trivial_augment
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches
from experiments.data.decoding import Photos
from experiments.data.images import Images, Rows
from experiments.data.seeding import generator

CPU = torch.device("cpu")
TORCHVISION_NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


def some_images(n: int, channels: int = 3, size: int = 16) -> Images:
    """Smooth shapes and noise, one flat image and one of few values, so that every special case is seen."""
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 200, size)[None, None, :, None] + np.linspace(0, 40, size)
    pixels = (ramp + rng.integers(0, 16, (n, channels, size, size))).astype(np.uint8)
    pixels[0] = 77
    pixels[1] = rng.integers(0, 2, (channels, size, size)) * 90
    return Images(pixels, np.arange(n) % 3, np.array([str(i) for i in range(n)]))


def batches(
    images: Images, *, part: tuple[int, int] = (0, 1), batch_size: int = 12, resident: bool | None = None, **options: object
) -> TrainBatches:
    return TrainBatches(
        images, Normalise([0.5] * 3, [0.25] * 3, CPU), batch_size=batch_size, seed=3, n_classes=3, part=part,
        augmentation=Augmentation.model_validate(options), device=CPU, mixed_steps=5,
        resident=resident,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ TrivialAugment
def test_the_space_is_that_of_torchvision() -> None:
    theirs = autoaugment.TrivialAugmentWide()._augmentation_space(trivial_augment.STRENGTHS)
    assert [TORCHVISION_NAMES[name] for name in trivial_augment.OPERATIONS] == list(theirs)
    for name, operation in trivial_augment.OPERATIONS.items():
        magnitudes, signed = theirs[TORCHVISION_NAMES[name]]
        assert operation.signed == signed
        if magnitudes.ndim:  # operations without a strength have one number there
            assert np.allclose(operation.magnitudes, magnitudes.numpy())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", trivial_augment.OPERATIONS)
def test_operations_equal_torchvision(name: str, channels: int) -> None:
    operation = trivial_augment.OPERATIONS[name]
    images = torch.from_numpy(some_images(12, channels).pixels)
    rng = np.random.default_rng(0)
    magnitude = operation.magnitudes[rng.integers(0, trivial_augment.STRENGTHS, 12)]
    magnitude = magnitude * np.where(rng.random(12) < 0.5, -1, 1) if operation.signed else magnitude
    ours = operation.apply(images, torch.from_numpy(magnitude.astype(np.float32)))
    theirs = torch.stack(
        [
            autoaugment._apply_op(image, TORCHVISION_NAMES[name], float(m), autoaugment.InterpolationMode.NEAREST, fill=None)
            for image, m in zip(images, magnitude, strict=True)
        ]
    )
    assert ours.dtype == torch.uint8 and ours.shape == images.shape
    # A point between two pixels may round to either of them, and a product of floats to the next integer.
    differ = (ours.int() - theirs.int()).abs()
    if name.startswith(("shear", "rotate")):
        assert (differ > 0).float().mean() < 0.01
    else:
        assert differ.max() <= 1 and (differ > 0).float().mean() < 0.06


def test_each_image_has_its_own_operation_and_the_input_stays() -> None:
    images = torch.from_numpy(some_images(60).pixels)
    before, choice = images.clone(), trivial_augment.draw(generator(0, "policy", 0), 60)
    assert len(set(choice.operation)) > 10
    changed = trivial_augment.apply(images, choice, torch.from_numpy)
    for slot, (number, magnitude) in enumerate(zip(*choice, strict=True)):
        operation = list(trivial_augment.OPERATIONS.values())[number]
        alone = operation.apply(images[slot : slot + 1], torch.tensor([magnitude], dtype=torch.float32))
        assert torch.equal(changed[slot], alone[0])
    assert torch.equal(images, before)


def test_operations_are_drawn_uniformly_with_signs() -> None:
    choice = trivial_augment.draw(generator(0, "policy", 0), 28_000)
    counts = np.bincount(choice.operation, minlength=14)
    assert counts.min() > 1800 and counts.max() < 2200  # 2,000 each, σ = 43
    rotations = choice.magnitude[choice.operation == 5]
    assert rotations.min() == -135 and rotations.max() == 135 and abs((rotations < 0).mean() - 0.484) < 0.04


# -------------------------------------------------------------------------------------------------------------- erasing
def test_erasing_sets_one_rectangle_of_the_declared_size_to_the_mean() -> None:
    boxes = mixing.draw_erased(generator(0, "erase", 0), 4000, 32, 0.25)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    erased = height * width > 0
    assert abs(erased.mean() - 0.25) < 0.03
    assert boxes.min() >= 0 and boxes.max() <= 32 and boxes[:, 3].max() == 32
    area = (height * width / 32**2)[erased]
    assert area.min() > 0.01 and area.max() < 0.36 and abs(area.mean() - 0.175) < 0.02  # uniform over 0.02 … 0.33
    log_aspect = np.log(height[erased] / width[erased])
    assert abs(log_aspect.mean()) < 0.1 and np.abs(log_aspect).max() < math.log(1 / 0.3) + 0.5
    images = torch.ones(2, 3, 6, 6)
    made = mixing.erased(images, torch.tensor([[1, 2, 3, 6], [0, 0, 0, 0]]))
    expected = torch.ones(2, 3, 6, 6)
    expected[0, :, 1:3, 2:6] = 0
    assert torch.equal(made, expected)


# --------------------------------------------------------------------------------------------------------------- mixing
def test_mixup_is_its_equation() -> None:
    images, options = some_images(20), {"mixup": 0.8}
    plain, labels = batches(images)(2)
    mixed, soft = batches(images, **options)(2)
    share = mixing.draw_mix(generator(3, "mix", 2), 12, 16, mixup=0.8, cutmix=0, probability=1).share
    for i in range(12):
        expected = share[i] * plain[i] + (1 - share[i]) * plain[i - 1]
        assert torch.allclose(mixed[i], expected.float(), atol=1e-5)
        target = np.zeros(3)
        target[labels[i]] += share[i]
        target[labels[i - 1]] += 1 - share[i]
        assert soft[i].tolist() == pytest.approx(target.tolist(), abs=1e-6)


def test_cutmix_takes_a_box_of_the_neighbour_and_its_area_of_the_label() -> None:
    images = some_images(20)
    plain, labels = batches(images)(2)
    mixed, soft = batches(images, cutmix=1.0)(2)
    drawn = mixing.draw_mix(generator(3, "mix", 2), 12, 16, mixup=0, cutmix=1.0, probability=1)
    assert not drawn.blended.any()
    for i, (top, left, bottom, right) in enumerate(drawn.boxes):
        expected = plain[i].clone()
        expected[:, top:bottom, left:right] = plain[i - 1][:, top:bottom, left:right]
        assert torch.equal(mixed[i], expected)
        if labels[i] != labels[i - 1]:
            assert soft[i, labels[i - 1]].item() == pytest.approx((bottom - top) * (right - left) / 256)
    assert torch.allclose(soft.sum(1), torch.ones(12))


def test_mixup_and_cutmix_share_the_images_that_mix() -> None:
    drawn = mixing.draw_mix(generator(0, "mix", 0), 8000, 32, mixup=0.8, cutmix=1.0, probability=0.5)
    cut = (drawn.boxes[:, 2] > drawn.boxes[:, 0]) & (drawn.boxes[:, 3] > drawn.boxes[:, 1])
    assert not (cut & drawn.blended).any()
    assert abs(drawn.blended.mean() - 0.25) < 0.02 and abs(cut.mean() - 0.24) < 0.02
    assert (drawn.share[~cut & ~drawn.blended] == 1).all()
    cut_area = 1 - drawn.share[cut]
    assert 0.2 < cut_area.mean() < 0.5  # ½ on average before boxes are cut at the border


def test_mixing_ends_where_it_is_told_to() -> None:
    images = some_images(20)
    mixing_batches = batches(images, mixup=0.8)
    assert mixing_batches(4)[1].shape == (12, 3)
    images_after, labels_after = mixing_batches(5)
    plain, labels = batches(images)(5)
    assert torch.equal(images_after, plain) and torch.equal(labels_after, labels)


# ------------------------------------------------------------------------------------------------------------ all of it
STRONG = {
    "crop_padding": 2, "horizontal_flip": True, "policy": "trivial_augment", "erase": 0.5, "mixup": 0.8, "cutmix": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("step", [1, 7])
def test_slices_of_processes_make_up_the_batch(processes: int, step: int) -> None:
    images = some_images(20)
    whole = batches(images, **STRONG)(step)
    parts = [batches(images, part=(process, processes), **STRONG)(step) for process in range(processes)]
    for position in (0, 1):
        assert torch.equal(torch.cat([part[position] for part in parts]), whole[position])


@pytest.mark.parametrize("part", [(0, 1), (1, 3)])
def test_streamed_batches_are_the_resident_ones_bit_by_bit(part: tuple[int, int], tmp_path: Path) -> None:
    images = some_images(20)
    np.save(tmp_path / "pixels.npy", images.pixels)
    mapped = Images(np.load(tmp_path / "pixels.npy", mmap_mode="r"), images.labels, images.ids)
    order = np.random.default_rng(0).permutation(20)
    streamed = batches(mapped.take(order), part=part, resident=False, **STRONG)
    resident = batches(images.take(order), part=part, resident=True, **STRONG)
    assert streamed.source.name == "streamed" and resident.source.name == "resident"
    for step in (0, 1, 2, 7, 3, 4, 5, 6):  # onward, a jump, and over the end of mixing
        for a, b in zip(streamed(step), resident(step), strict=True):
            assert torch.equal(a, b)


def test_batches_decoded_from_files_are_the_resident_ones_bit_by_bit(tmp_path: Path) -> None:
    images = some_images(20)
    files = [tmp_path / f"{number}.png" for number in range(20)]
    for file, pixels in zip(files, images.pixels, strict=True):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file)
    size = images.pixels.shape[-1]
    lazy = Images(Rows(Photos(files, size, 3), np.arange(20)), images.labels, images.ids)
    order = np.random.default_rng(0).permutation(20)
    decoded = batches(lazy.take(order), resident=False, **STRONG)
    resident = batches(images.take(order), resident=True, **STRONG)
    assert decoded.source.name == "decoded"
    for step in (0, 1, 5):
        for a, b in zip(decoded(step), resident(step), strict=True):
            assert torch.equal(a, b)
    files[order[decoded.order.indices(12)[0]]].unlink()
    with pytest.raises(OSError, match="not a readable image"):
        decoded(12)


def test_streamed_evaluation_is_the_resident_one(tmp_path: Path) -> None:
    images = some_images(11)
    np.save(tmp_path / "pixels.npy", images.pixels)
    mapped = Images(np.load(tmp_path / "pixels.npy", mmap_mode="r"), images.labels, images.ids).take(np.arange(11)[::-1])
    kinds = [
        EvaluationBatches(
            mapped, Normalise([0.5] * 3, [0.25] * 3, CPU), device=CPU, batch_size=4, part=(1, 2), resident=resident
        )
        for resident in (True, False)
    ]
    for a, b in zip(*kinds, strict=True):
        assert torch.equal(a, b)
    assert [len(chunk) for chunk in kinds[1]] == [4, 2]


def test_a_set_that_fits_is_resident_and_a_larger_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((10, 3, 8, 8), np.uint8)
    monkeypatch.setattr(source, "free_bytes", lambda device: 10_000)
    assert source.fits(pixels, 0, CPU)  # 1,920 of 4,000 bytes
    assert source.fits(pixels, 1, CPU)  # 3,000
    assert not source.fits(pixels, 2, CPU)  # 4,320


def test_a_mapped_file_is_not_read_to_choose_from_it(tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", some_images(20).pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    chosen = Images(mapped, np.arange(20), np.array(["x"] * 20)).take(np.array([3, 1])).take(np.array([1, 0, 1]))
    assert chosen.pixels.base is mapped and chosen.pixels.index.tolist() == [1, 3, 1]  # type: ignore[union-attr]
    assert np.array_equal(np.array(chosen.pixels), some_images(20).pixels[[1, 3, 1]])


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="12 does not divide among 5"):
        batches(some_images(20), part=(0, 5))


def test_strong_batches_are_functions_of_the_step() -> None:
    images = some_images(20)
    onward = batches(images, **STRONG)
    for step in range(4):
        expected = onward(step)
    again = batches(images, **STRONG)(3)
    assert torch.equal(expected[0], again[0]) and torch.equal(expected[1], again[1])


# ----------------------------------------------------------------------------------------- resized crops, RandAugment
@pytest.mark.parametrize(("stored", "size"), [(40, 32), (32, 32), (24, 32), (120, 64)])
def test_resized_crops_are_those_of_an_antialiased_resize(stored: int, size: int) -> None:
    pixels = torch.randint(0, 256, (20, 3, stored, stored), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = resized_crop.draw(generator(0, "resized_crop", 0), 20, stored, 0.08)
    flip = torch.arange(20) % 2 == 0
    ours = resized_crop.apply(pixels, torch.from_numpy(boxes), size, flip)
    for image, (top, left, height, width), mirrored, found in zip(pixels, boxes, flip, ours, strict=True):
        crop = image[None, :, top : top + height, left : left + width].double()
        exact = interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        exact = exact.flip(-1) if mirrored else exact
        # Images one by one are rounded after the rows and again after the columns.
        assert found.dtype == torch.uint8 and (found - exact).abs().max() <= (1.01 if stored > resized_crop.LARGE else 0.51)


def test_crops_have_the_areas_and_aspects_of_the_paper() -> None:
    top, left, height, width = resized_crop.draw(generator(0, "resized_crop", 0), 20_000, 100, 0.25).T
    assert top.min() == left.min() == 0 and (top + height).max() == (left + width).max() == 100
    area, aspect = height * width / 10_000, height / width
    assert 0.24 < area.min() < 0.27 and aspect.min() > 0.73 and aspect.max() < 1.37
    assert abs(np.log(aspect).mean()) < 0.01
    lower, upper = ((low <= area) & (area < low + 0.25) for low in (0.25, 0.5))  # what is below three quarters always fits
    assert abs(lower.sum() / upper.sum() - 1) < 0.06


@pytest.mark.parametrize("strength", [0, 9, 30])
def test_rand_augment_has_the_space_of_torchvision(strength: int) -> None:
    theirs = autoaugment.RandAugment()._augmentation_space(31, (64, 64))
    drawn = trivial_augment.draw_rand(generator(0, "policy", 0), 5000, strength, 64)
    for number, (name, operation) in enumerate(trivial_augment.OPERATIONS.items()):
        values, signed = theirs[TORCHVISION_NAMES[name]]
        expected = float(values[strength]) if values.ndim else 0.0
        found = np.unique(drawn.magnitude[drawn.operation == number])
        assert operation.signed == signed
        assert found == pytest.approx(sorted({-expected, expected}) if signed else [expected], rel=1e-6)


def test_crops_and_policies_are_functions_of_the_step_and_give_what_a_model_sees() -> None:
    options = {"resized_crop": 0.3, "horizontal_flip": True, "policy": "rand_augment", "erase": 0.5, "mixup": 0.8}
    images = some_images(20, size=24)

    def made(part: tuple[int, int] = (0, 1)) -> TrainBatches:
        return TrainBatches(
            images, Normalise([0.5] * 3, [0.25] * 3, CPU, 16), batch_size=8, seed=0, n_classes=5, device=CPU, part=part,
            augmentation=Augmentation.model_validate(options),
        )  # fmt: skip

    whole, again = made(), made()
    again(5)
    for step in (0, 3):
        pixels, labels = whole(step)
        assert pixels.shape == (8, 3, 16, 16) and labels.shape == (8, 5)
        assert torch.equal(pixels, again(step)[0])
        slices = [made((process, 2))(step)[0] for process in (0, 1)]
        assert torch.equal(torch.cat(slices), pixels)


def test_what_is_stored_larger_is_cropped_at_the_centre_and_resized() -> None:
    pixels = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    pixels[..., 2:18, 2:18] = 255
    seen = Normalise([0.0], [1.0], CPU, 8, 0.8)(pixels)
    assert seen.shape == (1, 1, 8, 8) and seen.min() == 1.0  # 80% of a side is the white square
    assert Normalise([0.0], [1.0], CPU, 8, 1.0)(pixels).min() < 0.5


def test_two_ways_to_crop_are_refused() -> None:
    with pytest.raises(ValueError, match="two ways to crop"):
        Augmentation(resized_crop=0.5, crop_padding=4)
