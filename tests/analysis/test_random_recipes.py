"""The best of k random recipes and who is ahead, by hand and in a whole grid."""

import itertools
from types import SimpleNamespace

import altair as alt
import numpy as np
import pandas as pd
import pytest

from analysis.figures import style
from analysis.figures.curves import random_recipes
from analysis.figures.style import Style
from analysis.statistics.random_recipes import ahead, best_of, expected_best


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_best_of_k_is_the_mean_over_all_choices(k):
    values = [0.3, 0.9, 0.5, 0.5, 0.1]
    by_hand = np.mean([max(chosen) for chosen in itertools.combinations(values, k)])
    assert expected_best(values, k) == pytest.approx(by_hand)


def test_intervals_hold_the_value_and_come_back_the_same():
    values = np.linspace(0.2, 0.9, 12).tolist()
    for k in (1, 4, 12):
        mean, low, high = best_of(values, k)
        assert low <= mean <= high <= 0.9
        assert best_of(values, k) == (mean, low, high)


def test_ahead_counts_wins_under_the_same_recipe():
    found = ahead([0.5, 0.7, 0.2, 0.4], [0.4, 0.7, 0.3, 0.1])
    assert (found.share, found.ties) == (0.5, 1)
    # Wilson: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n) with p = .5, n = 4, z = 1.96
    z = 1.959964
    half = z * np.sqrt(0.25 / 4 + z**2 / 64) / (1 + z**2 / 4)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_the_figure_draws_each_number_of_tries_of_each_model_and_its_interval():
    looks = {name: Style(name, "#000000", "circle", [1, 0], 1.0) for name in ("a", "b")}
    tries = {"a": [0.2, 0.4, 0.8], "b": [0.1, 0.2, 0.3]}
    rows = [
        {"data": "digits", "model": model, "train_fraction": fraction, "trials": 3,
         "best": [(k, *best_of(values, k)) for k in (1, 2, 3)]}
        for model, values in tries.items() for fraction in (0.1, 1.0)
    ]  # fmt: skip
    chart, caption = random_recipes(SimpleNamespace(recipes=pd.DataFrame(rows)), looks)
    spec = style.specification(chart, "Random recipes")
    alt.Root.validate(spec)
    assert "random" in caption and len(spec["concat"]) == 2
    drawn = next(data for data in spec["datasets"].values() if data[0]["model"] == "a")
    assert [(row["model"], row["k"]) for row in drawn] == [(m, k) for m in "ab" for k in (1, 2, 3)]
    assert drawn[2]["mean"] == pytest.approx(80) and drawn[0]["low"] <= drawn[0]["mean"] <= drawn[0]["high"]


def test_there_is_no_figure_without_random_recipes():
    assert random_recipes(SimpleNamespace(recipes=pd.DataFrame()), {}) is None
