"""What the document says was simulated, is kept, and can be simulated again."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest

from tests.coverage.__main__ import BEGIN, DOCUMENT, FIGURES, as_markdown, with_tables
from tests.coverage.limits import true_crossover, true_ratio
from tests.coverage.simulate import simulate, terms
from tests.coverage.studies import CURVE, STUDIES, equal, row
from tests.coverage.tables import World

COMMITTED = json.loads(FIGURES.read_text(encoding="utf-8"))


def slack(share: float, tables: int) -> float:
    """Two standard errors of a share of independent tables, 2·√(p(1 − p)/R): the pairs of one table are not independent."""
    return 2 * math.sqrt(share * (1 - share) / tables)


def broken(found: dict, least: float = 0.93) -> list[str]:
    """Promises that a row breaks: coverage of `least`, a wrong † or direction in 6% and a wrong ≡ or crossover in 2.5%."""
    tables, shares = found["tables"], {name: hits / of for name, (hits, of) in found["counts"].items()}
    most = {"wrong †": 0.06, "wrong ≡": 0.025, "wrong direction": 0.06, "wrong crossover": 0.025}
    faults = [name for name, share in most.items() if shares.get(name, 0) > share + slack(share, tables)]
    intervals = [name for name in ("accuracy", *terms(World(equal(CURVE))), "not refuted", "crossover") if name in shares]
    printed = {name: min(found["counts"][name][1], tables) for name in intervals}
    return faults + [name for name in intervals if shares[name] < least - slack(least, printed[name])]


def test_the_document_shows_what_was_simulated() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_tables(document, COMMITTED)
    assert list(COMMITTED) == list(STUDIES)
    assert len((DOCUMENT.parent / "method.md").read_text(encoding="utf-8").splitlines()) < 200


def test_every_row_of_every_study_was_simulated() -> None:
    for name, study in STUDIES.items():
        assert [found["regime"] for found in COMMITTED[name]] == [again.regime for again in study.rows(0)]


def test_a_simulation_can_be_repeated() -> None:
    world = World(((0.9,), (0.8,)), 3, 75)
    first, second = (row({"S": 3}, world, 10).counts for _ in range(2))
    assert first == second != simulate(world, 10, 0)
    again = next(iter(STUDIES["equivalence"].rows(1)))
    assert asdict(again) == COMMITTED["equivalence"][0]


def test_true_limits_are_those_of_the_curves() -> None:
    # Errors .4, .2, .1 reach .2 at 100 of 1,000 images; .4 → .1 meets .2 half-way, in logarithms, from 10 to 100.
    n = np.array([10.0, 100, 1000])
    assert true_ratio(n, np.array([0.4, 0.2, 0.1]), 0.2) == pytest.approx(10)
    assert true_ratio(n, np.array([0.4, 0.2, 0.1]), 0.1) == pytest.approx(1)
    assert [true_ratio(n, np.array([0.4, 0.2, 0.1]), target) for target in (0.05, 0.5)] == [0, math.inf]
    place, leader = true_crossover(n[:2], np.array([0.4, 0.1]), np.array([0.2, 0.2]))
    assert (place, leader) == (pytest.approx(math.sqrt(1000)), 0)
    assert true_crossover(n[:2], np.array([0.4, 0.3]), np.array([0.2, 0.2]))[1] == -1


def test_worlds_have_the_accuracies_that_they_state() -> None:
    for kind in ("alike", "heavy", "small budgets"):
        world = World(equal(CURVE), 40, 4000, 0.05, kind)
        means = world.draw(np.random.default_rng(0)).mean.reshape(world.shape)
        np.testing.assert_allclose(means.mean(axis=0), CURVE, atol=0.03)


def test_a_row_is_shown_with_its_lowest_share() -> None:
    counts = {"accuracy": [9, 10], "Δ": [19, 20], "Δ 0": [4, 10], "Δ 1": [3, 10], "wrong †": [0, 10]}
    text = as_markdown({"tables": [{"regime": {"S": 3}, "tables": 1000, "counts": counts}]})
    assert text.splitlines()[-1] == "| 3 | .900 | .950 | .300 |  |  |  |  | .000 |  | 1,000 |"
    assert BEGIN in DOCUMENT.read_text(encoding="utf-8")


def test_broken_promises_are_seen() -> None:
    # .93 − 2·√(.93·.07/400) = .9045; .06 + 2·√(.06·.94/400) = .0837.
    assert broken({"tables": 400, "counts": {"Δ": [905, 1000], "wrong †": [33, 400], "wrong ≡": [0, 9]}}) == []
    assert broken({"tables": 400, "counts": {"Δ": [904, 1000], "wrong †": [34, 400], "wrong ≡": [9, 9]}}) == [
        "wrong †",
        "wrong ≡",
        "Δ",
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_what_was_simulated_keeps_the_promises(name: str) -> None:
    rows = [found for found in COMMITTED[name] if np.divide(*found["counts"].get("no mark", (0, 1))) < 0.5]
    assert [(found["regime"], broken(found)) for found in rows if broken(found)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_the_first_rows_of_each_study_come_out_again(name: str) -> None:
    for found, again in zip(COMMITTED[name], islice(STUDIES[name].rows(1), 2), strict=False):
        assert asdict(again) == found
        assert broken(found) == []
