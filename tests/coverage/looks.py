"""Grids that grow look by look, as ``make decide`` has them: wrong decisions, and the runs that they take.

``python -m tests.coverage.looks`` simulates every regime and writes ``docs/looks.json`` and the tables of ``docs/looks.md``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.power import Spread
from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.contrasts import Answers, Layout
from analysis.statistics.intervals import holm
from analysis.statistics.sequential import LOOKS, SPENDING, outcomes
from experiments.config.paths import ROOT
from experiments.records.record import atomic_write
from tests.coverage.simulate import Counts, count
from tests.coverage.tables import World, cell

FIGURES, DOCUMENT = ROOT / "docs" / "looks.json", ROOT / "docs" / "looks.md"
BEGIN = "<!-- looks: made by `python -m tests.coverage.looks` from looks.json -->\n"
ERROR_RATE = 0.05
BUDGETS = (0.75, 0.92)
"""Accuracies of the reference at two data budgets."""
Pairs = list[tuple[Cell, Cell]]


def simulate_looks(world: World, repetitions: int, seed: int, margin: float, fixed: bool = False) -> Counts:
    """Draw grids of as many seeds as the last look has, and decide the pairs of each model with the first.

    ``wrong``: grids with one wrong decision or more: an equal pair, or the worse of two, called better; a pair that differs
    by the margin or more called equivalent. ``better`` and ``equivalent``: pairs that differ by the margin or more, or are
    equal, and are called so; ``right``: both together. ``runs``: of all that the last look would have. With `fixed`, ``fixed
    S``: what a grid of S seeds for every cell calls rightly, by the marks of its report, after Holm.
    """
    generator, counts = np.random.default_rng(seed), Counts()
    models, budgets = world.shape
    pairs = [(cell(m, f), cell(0, f)) for f in range(budgets) for m in range(1, models)]
    true = np.array([world.truth(a) - world.truth(b) for a, b in pairs])
    beyond = np.abs(true) >= margin - 1e-12
    for _ in range(repetitions):
        answers = world.answers(generator)
        found, runs = grow(answers, pairs, margin)
        called = np.array([{"first": 1, "second": -1}.get(outcome, 0) for outcome in found])
        same = np.array(found) == "equivalent"
        count(counts, "wrong", bool(((called * true <= 0) & (called != 0) | same & beyond).any()))
        count(counts, "better", (called != 0)[beyond])
        count(counts, "equivalent", same[true == 0])
        count(counts, "right", np.where(beyond, called != 0, same)[beyond | (true == 0)])
        count(counts, "runs", np.arange(len(answers) * LOOKS[-1]) < runs)
        for seeds in LOOKS if fixed else ():
            compared = of_seeds(answers, dict.fromkeys(answers, seeds))
            at = [compared.place(*pair) for pair in pairs]
            weights = [{a: 1.0, b: -1.0} for a, b in pairs]
            once = compared.differences(compared.of_pairs[at], *weights)
            different, within = holm(once.p) < ERROR_RATE, holm(once.p_beyond(margin)) < ERROR_RATE
            count(counts, f"fixed {seeds}", np.where(beyond, different, ~different & within)[beyond | (true == 0)])
    return counts


def simulate_plans(world: World, repetitions: int, seed: int, effect: float) -> Counts:
    """Draw grids in which the second model lies below the reference by the effect, and plan each from its first look.

    By the reference's accuracy p: ``found p S``, such pairs that a grid of S seeds finds by the pair's own 95% interval, as
    a plan has it; ``planned p S low high``, plans that say S seeds, from low to high.
    """
    generator, counts = np.random.default_rng(seed), Counts()
    pairs = [(cell(2, f), cell(0, f)) for f in range(len(BUDGETS))]
    for _ in range(repetitions):
        answers = world.answers(generator)
        for seeds in LOOKS:
            compared = of_seeds(answers, dict.fromkeys(answers, seeds))
            at = [compared.place(*pair) for pair in pairs]
            once = compared.differences(compared.of_pairs[at], *({a: 1.0, b: -1.0} for a, b in pairs))
            said = Spread.of(once, seeds, world.n_images).seeds(effect, world.n_images).T
            for level, p, (low, likely, high) in zip(BUDGETS, once.p, said, strict=True):
                count(counts, f"found {level} {seeds}", p < ERROR_RATE)
                if seeds == LOOKS[0]:
                    count(counts, f"planned {level} {likely:.0f} {low:.0f} {high:.0f}", True)
    return counts


def planned_seeds(counts: Counts, level: float) -> tuple[float, float, float, float]:
    """At a budget: seeds that find 80%, the median of what plans say, and the shares of plans that say it within 1.5 times,
    and whose range holds it."""
    shares = np.maximum.accumulate([np.divide(*counts[f"found {level} {seeds}"]) for seeds in LOOKS])
    truth = float(np.exp(np.interp(0.8, shares, np.log(LOOKS))))
    plans = [name.split()[2:] for name, (n, _) in counts.items() if name.startswith(f"planned {level}") for _ in range(n)]
    said, low, high = np.array(plans, dtype=float).T
    within = np.abs(np.log(said / truth)) <= np.log(1.5) + 1e-9
    held = (low <= np.ceil(truth - 1e-9)) & (np.ceil(truth - 1e-9) <= high)  # seeds are whole
    return truth, float(np.median(said)), float(within.mean()), float(held.mean())


def of_seeds(
    answers: dict[Cell, Answers], seeds: dict[Cell, int], spending: tuple[float, float] | None = None
) -> Comparisons:
    """The first seeds of each cell."""
    table = Layout.of({at: (own[: seeds[at]], right[: seeds[at]]) for at, (own, right) in answers.items()})
    return Comparisons.of(replace(table, spending=spending))


def grow(answers: dict[Cell, Answers], pairs: Pairs, margin: float) -> tuple[list[str], int]:
    """Outcomes of pairs, and the runs that they took, of a grid to which seeds are added only for pairs that are open."""
    found, seeds = ["open"] * len(pairs), dict.fromkeys(answers, 0)
    for look in LOOKS:
        still = [at for at, outcome in enumerate(found) if outcome == "open"]
        if not still:
            break
        seeds |= {one: look for at in still for one in pairs[at]}
        told = outcomes(of_seeds(answers, seeds, SPENDING), [pairs[at] for at in still], margin, ERROR_RATE, len(pairs))
        for at, outcome in zip(still, told, strict=True):
            found[at] = outcome
    return found, sum(seeds.values())


def fixed_seeds(counts: Counts) -> float:
    """Seeds of the grid that calls as many pairs rightly, in straight lines of ln S; NaN where the last look does not."""
    power = np.divide(*counts["right"])
    shares = np.maximum.accumulate([np.divide(*counts[f"fixed {seeds}"]) for seeds in LOOKS])
    at = int((shares >= power).argmax())
    if shares[-1] < power:
        return float("nan")
    return LOOKS[0] if at == 0 else float(np.exp(np.interp(power, shares[at - 1 : at + 1], np.log(LOOKS[at - 1 : at + 1]))))


REGIMES = (  # kind, images, seed share, margin
    *(("alike", 364, share, 0.06) for share in (0.0, 0.005, 0.02, 0.1, 0.3)),
    ("alike", 75, 0.02, 0.15),
    ("alike", 2000, 0.003, 0.03),
    ("alike", 2000, 0.02, 0.03),
    *(
        (kind, images, share, margin)
        for kind in ("one family", "small budgets", "heavy", "along curves")
        for images, share, margin in ((364, 0.02, 0.06), (364, 0.2, 0.1), (1000, 0.05, 0.05))
    ),
)
SAVINGS = (  # images, seed share, effect, differences in effects
    *((2000, 0.02, 0.04, steps) for steps in ((0, 1), (1, 1), (0, 3), (1, 3), (2, 4))),
    *((4000, 0.003, 0.02, steps) for steps in ((0, 1), (1, 1), (0, 3), (1, 3), (2, 4))),
)


def world(differences: Iterable[float], images: int, share: float, kind: str = "alike") -> World:
    """A reference and models below it."""
    below = tuple(tuple(round(level - difference, 6) for level in BUDGETS) for difference in differences)
    return World((BUDGETS, *below), LOOKS[-1], images, share, kind)


PLANS = ((364, 0.02, 0.08), (364, 0.1, 0.14), (2000, 0.02, 0.05), (4000, 0.003, 0.02), (4000, 0.02, 0.045))
"""Images, seed share and effect."""
Task = tuple[str, dict[str, Any], World, int, float]
"""A regime's table, its columns, what is drawn, how often, and the margin."""


def tasks(scale: float) -> Iterable[Task]:
    """Every regime; 20 × 500 grids look for wrong decisions."""
    for kind, images, share, margin in REGIMES:
        regime = {"seeds act": kind, "N": images, "K": share, "margin": margin}
        yield "wrong", regime, world((0.0, margin), images, share, kind), int(500 * scale), margin
    for images, share, effect, steps in SAVINGS:
        regime = {"N": images, "K": share, "effect": effect, "differences": f"{steps[0]} and {steps[1]} effects"}
        yield "saved", regime, world([effect * step for step in steps], images, share), int(100 * scale), effect

    for images, share, effect in PLANS:
        yield (
            "planned",
            {"N": images, "K": share, "effect": effect},
            world([0, effect], images, share),
            int(200 * scale),
            effect,
        )


def counted(task: Task) -> list[Any]:
    """What was counted in a regime, whose generator's seed is its own name."""
    table, regime, drawn, grids, margin = task
    seed = zlib.crc32(str(regime).encode())
    if table == "planned":
        return [table, regime, simulate_plans(drawn, grids, seed, margin)]
    return [table, regime, simulate_looks(drawn, grids, seed, margin, fixed=table == "saved")]


def as_markdown(figures: list[list[Any]]) -> str:
    """Both tables."""

    def share(counts: Counts, name: str) -> str:
        hits, of = counts.get(name, (0, 0))
        return f"{hits / of:.3f}".removeprefix("0") if of else ""

    def line(*entries: Any) -> str:
        return f"| {' | '.join(map(str, entries))} |"

    first = [(regime, counts) for table, regime, counts in figures if table == "wrong"]
    every = [sum(counts["wrong"][part] for _, counts in first) for part in (0, 1)]
    lines = [line(*first[0][0], "wrong", "better", "equivalent", "runs", "grids"), "|:--|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for regime, counts in first:
        told = [share(counts, name) for name in ("wrong", "better", "equivalent", "runs")]
        lines.append(line(*regime.values(), *told, counts["wrong"][1]))
    lines += ["", f"All regimes together: {every[0]:,} of {every[1]:,} grids hold a wrong decision.", ""]
    second = [(regime, counts) for table, regime, counts in figures if table == "saved"]
    lines += [line(*second[0][0], "right", "seeds, mean", "fixed seeds", "runs saved", "grids"), "|--:" * 9 + "|"]
    totals = np.zeros(2)
    for regime, counts in second:
        seeds, fixed = LOOKS[-1] * np.divide(*counts["runs"]), fixed_seeds(counts)
        more, fixed = "" if fixed == fixed else "> ", fixed if fixed == fixed else LOOKS[-1]  # counted as the last look
        totals += (seeds, fixed)
        told = [f"{seeds:.1f}", f"{more}{fixed:.1f}", f"{more}{100 * (1 - seeds / fixed):.0f}%"]
        lines.append(line(*regime.values(), share(counts, "right"), *told, counts["wrong"][1]))
    lines += ["", f"All of them together: {100 * (1 - totals[0] / totals[1]):.0f}% fewer runs.", ""]
    third = [(regime, counts) for table, regime, counts in figures if table == "planned"]
    headings = "accuracy", "seeds that find 80%", "planned, median", "within × 1.5", "in its range", "grids"
    lines += [line(*third[0][0], *headings), "|--:" * 9 + "|"]
    for regime, counts in third:
        for level in BUDGETS:
            truth, said, within, held = planned_seeds(counts, level)
            told = [level, f"{truth:.1f}", f"{said:.1f}", f"{within:.2f}", f"{held:.2f}"]
            lines.append(line(*regime.values(), *told, counts[f"found {level} 3"][1]))
    lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Simulate, and write both files, one row of JSON a line."""
    with ProcessPoolExecutor() as pool:
        figures = list(pool.map(counted, tasks(1.0)))
    with atomic_write(FIGURES) as file:
        file.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in figures) + "\n]\n")
    before = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[0]
    with atomic_write(DOCUMENT) as file:
        file.write(before + BEGIN + as_markdown(figures))


if __name__ == "__main__":
    main()
