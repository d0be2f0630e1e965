"""The studies of ``make coverage``. To add one: a function that returns rows, named in `STUDIES`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tests.coverage.limits import simulate_limits
from tests.coverage.simulate import Counts, simulate
from tests.coverage.tables import World

CURVE = (0.6, 0.8, 0.9, 0.97)
CEILING = (0.9, 0.98, 0.995, 0.9995)


@dataclass(frozen=True)
class Row:
    """One regime: how it is called, column by column, and what was counted in `tables` simulated tables."""

    regime: dict[str, str | int | float]
    tables: int
    counts: Counts


@dataclass(frozen=True)
class Study:
    """A question, its rows when asked, and which counts the document shows: column title to a pattern of counts.

    Where the pattern matches several, the lowest share is shown.
    """

    title: str
    rows: Callable[[float], Iterable[Row]]
    columns: Mapping[str, str]


def row(
    regime: Mapping[str, str | int | float],
    world: World,
    tables: float,
    simulation: Callable[[World, int, int], Counts] = simulate,
) -> Row:
    """Simulate one regime. Its generator's seed is its own name: other rows may come and go."""
    name = ", ".join(f"{key} {value}" for key, value in regime.items())
    return Row(dict(regime), int(tables), simulation(world, int(tables), zlib.crc32(name.encode())))


def equal(accuracies: tuple[float, ...], models: int = 4) -> tuple[tuple[float, ...], ...]:
    return (accuracies,) * models


WORLDS = (  # kind, seeds, images, seed share
    *(("alike", 3, 364, share) for share in (0.0, 0.005, 0.02, 0.1, 0.3, 0.5, 0.9)),
    ("alike", 3, 75, 0.02),
    ("alike", 3, 4000, 0.003),
    ("alike", 5, 364, 0.01),
    ("alike", 5, 10_000, 0.01),
    ("alike", 10, 364, 0.02),
    ("alike", 10, 4000, 0.1),
    *(
        (kind, *size)
        for kind in ("one family", "small budgets", "heavy", "along curves")
        for size in ((3, 364, 0.02), (3, 364, 0.2), (5, 4000, 0.05))
    ),
)


def tables(scale: float) -> Iterable[Row]:
    """Tables of four equal models: whatever is marked is marked wrongly."""
    for kind, seeds, images, share in WORLDS:
        regime = {"seeds act": kind, "S": seeds, "N": images, "K": share}
        yield row(regime, World(equal(CURVE), seeds, images, share, kind), scale * (400 if images < 1000 else 200))
    regime = {"seeds act": "alike, cells missing", "S": 4, "N": 364, "K": 0.02}
    yield row(regime, World(equal(CURVE), 4, 364, 0.02, missing=True), scale * 400)


def unequal(scale: float) -> Iterable[Row]:
    """Three equal models and one behind: 12 of 24 differences are none; marks on the others make room for theirs."""
    for seeds, images, share in ((3, 364, 0.02), (3, 4000, 0.003), (10, 364, 0.02)):
        world = World((*equal(CURVE, 3), (0.4, 0.65, 0.8, 0.9)), seeds, images, share)
        yield row({"S": seeds, "N": images, "K": share}, world, scale * (400 if images < 1000 else 200))


def ceiling(scale: float) -> Iterable[Row]:
    """Equal models whose accuracies are .9, .98, .995 and .9995."""
    for images in (75, 364, 5000):
        for seeds in (3, 5, 10):
            world = World(equal(CEILING), seeds, images, 0.01)
            yield row({"S": seeds, "N": images, "K": 0.01}, world, scale * (300 if images < 1000 else 200))


def pair(scale: float) -> Iterable[Row]:
    """Two equal models at one budget: nothing else shows how seeds vary."""
    for seeds, images, share in (
        *((3, 364, share) for share in (0.0, 0.005, 0.02, 0.1, 0.3)),
        (3, 75, 0.02),
        (3, 5000, 0.02),
        (5, 364, 0.02),
        (10, 364, 0.02),
        (10, 5000, 0.1),
    ):
        world = World(equal((0.9,), 2), seeds, images, share)
        yield row({"S": seeds, "N": images, "K": share}, world, scale * (1000 if images < 1000 else 500))


def power(scale: float) -> Iterable[Row]:
    """Three equal models and one ahead by 6, 5, 3 and 1.5 points."""
    for seeds, images, share in ((3, 364, 0.02), (3, 4000, 0.003), (5, 4000, 0.01), (10, 4000, 0.01)):
        world = World((*equal(CURVE, 3), (0.66, 0.85, 0.93, 0.985)), seeds, images, share)
        yield row({"S": seeds, "N": images, "K": share}, world, scale * 150)


def equivalence(scale: float) -> Iterable[Row]:
    """Two models of .97 or .993 that differ by more than half a point, and two that do not differ."""
    for accuracy, difference in ((0.97, 0.006), (0.97, 0.0075), (0.993, 0.0075)):
        for images in (75, 364, 5000):
            world = World(((accuracy,), (round(accuracy - difference, 4),)), 3, images, 0.003)
            yield row({"accuracy": accuracy, "true Δ": difference, "S": 3, "N": images}, world, scale * 500)
    for images, difference in ((5000, 0.0), (20_000, 0.0), (20_000, 0.0051), (20_000, 0.006)):
        world = World(((0.97,), (0.97 - difference,)), 5, images, 0.0005)
        yield row({"accuracy": 0.97, "true Δ": difference, "S": 5, "N": images}, world, scale * 300)


def power_law(error: float, exponent: float, budgets: int = 4) -> tuple[float, ...]:
    """Accuracies whose errors fall as a power of n to `error`; each budget has three times the images of the one before."""
    return tuple(1 - min(error * 3 ** (exponent * left), 0.6) for left in reversed(range(budgets)))


STEEP, SHALLOW, PHOTO = power_law(0.08, 0.5), power_law(0.2, 0.05), power_law(0.32, 0.25, 3)
CURVES = {  # the first model's, and that of two others
    "steep": (power_law(0.12, 0.5), STEEP),
    "shallow": (power_law(0.21, 0.05), SHALLOW),
    "of photos": (power_law(0.4, 0.25, 3), PHOTO),
    "crossing": (power_law(0.12, 0.35), power_law(0.06, 0.7)),
    "crossing, shallow": (power_law(0.21, 0.05), power_law(0.195, 0.1)),
    "identical": (STEEP, STEEP),
    "identical, shallow": (SHALLOW, SHALLOW),
}
SIZES = ((3, 364, 0.01), (5, 364, 0.01), (10, 364, 0.01), (3, 4000, 0.003))
SMALL = ((3, 75, 0.02), (10, 75, 0.02))


def limits(scale: float) -> Iterable[Row]:
    """A model against two equal ones: images needed, and where their curves cross."""
    for name, (first, others) in CURVES.items():
        for seeds, images, share in SMALL if name == "of photos" else SIZES:
            world = World((first, others, others), seeds, images, share)
            yield row({"curves": name, "S": seeds, "N": images, "K": share}, world, scale * 100, simulate_limits)


def columns(*patterns: str) -> dict[str, str]:
    """Columns that are called as what they count."""
    return {pattern: pattern for pattern in patterns}


OTHERS = ("ΔAULC", "across budgets", "of differences", "wrong †")
EACH = {f"{what} {level}": f"{what} {f}" for what in ("accuracy", "Δ") for f, level in enumerate(CEILING)}
BY_PART = {"accuracy": "accuracy", "Δ": "Δ", "worst budget": "Δ [0-9]", "first model": "Δ of the first"}
LIMITS = columns("images needed", "bounded", "not refuted", "wrong direction", "crossover", "crossed", "wrong crossover")
FOUND = {"found by †": "found", "by t tests": "t"}

STUDIES = {
    "tables": Study("Four equal models at four budgets", tables, BY_PART | columns(*OTHERS, "no mark")),
    "unequal": Study("Three equal models and one behind", unequal, columns("accuracy", "Δ", *OTHERS)),
    "ceiling": Study("Four equal models near 100%", ceiling, EACH | columns("wrong †")),
    "pair": Study("Two equal models at one budget", pair, columns("accuracy", "Δ", "wrong †", "no mark")),
    "power": Study("Three equal models and one ahead", power, FOUND | columns("wrong †")),
    "equivalence": Study("Two models at one budget", equivalence, columns("wrong ≡", "right ≡")),
    "limits": Study("Images needed and crossovers of a model and two others", limits, LIMITS),
}
