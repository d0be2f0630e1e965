"""Subsets nest, are stratified, exact, and hashed; the test cut belongs to the data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from experiments.config.errors import ConfigError
from experiments.data.splits import cut_test, nested_subset, split_hash

LABELS = np.repeat(np.arange(3), [100, 60, 41])


def test_training_and_validation_nest() -> None:
    subsets = [nested_subset(LABELS, fraction, seed=0) for fraction in (0.05, 0.1, 0.3, 1.0)]
    for small, large in pairwise(subsets):
        assert set(small.train) < set(large.train)
        assert set(small.val) <= set(large.val)
    for train, val in subsets:
        assert not set(train) & set(val)
    assert len(subsets[-1].train) + len(subsets[-1].val) == len(LABELS)


def test_sizes_are_exact_ceilings_per_class() -> None:
    train, val = nested_subset(LABELS, 0.07, seed=3)
    chosen = LABELS[np.concatenate([train, val])]
    # ⌈0.07·100⌉ = 7 (binary floating point would give 8), ⌈0.07·60⌉ = ⌈4.2⌉ = 5, ⌈0.07·41⌉ = ⌈2.87⌉ = 3
    assert np.bincount(chosen).tolist() == [7, 5, 3]
    # position 1 alone is validation below 12 images
    assert np.bincount(LABELS[val]).tolist() == [1, 1, 1]


def test_every_tenth_position_from_the_second_validates() -> None:
    _, val = nested_subset(LABELS, 1.0, seed=0)
    assert np.bincount(LABELS[val]).tolist() == [10, 6, 4]  # 41 images: positions 1, 11, 21, 31


def test_seed_zero_is_a_seed_and_seeds_differ() -> None:
    first, again, other = (nested_subset(LABELS, 0.3, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)


def test_a_class_left_with_one_image_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        nested_subset(LABELS, 0.02, seed=0)
    # ⌈0.02·100⌉ = 2 and ⌈0.02·60⌉ = 2 pass; ⌈0.02·41⌉ = 1 does not
    assert "0.02 leaves class 2 with 1 of its 41 images" in caught.value.faults[0]
    assert "above 0.0244" in caught.value.faults[0]


def test_test_cut_is_a_stratified_fifth() -> None:
    pool, test = cut_test(LABELS)
    assert np.bincount(LABELS[test]).tolist() == [20, 12, 9]
    assert sorted([*pool, *test]) == list(range(len(LABELS)))


def test_a_cut_in_blocks_is_the_end_of_each_class() -> None:
    labels = LABELS[np.random.default_rng(0).permutation(len(LABELS))]
    pool, test = cut_test(labels, "blocks")
    assert np.bincount(labels[test]).tolist() == [20, 12, 9]
    assert sorted([*pool, *test]) == list(range(len(labels)))
    assert (np.diff(pool) > 0).all() and (np.diff(test) > 0).all()
    for label in range(3):
        assert pool[labels[pool] == label].max() < test[labels[test] == label].min()


def test_split_hash_sees_ids_and_their_order() -> None:
    a, b, c = np.array(["a", "b"]), np.array(["c"]), np.array(["d"])
    assert split_hash(a, b, c) == split_hash(a.copy(), b, c)
    assert split_hash(a, b, c) != split_hash(a[::-1], b, c)
    assert split_hash(a, b, c) != split_hash(a, c, b)
