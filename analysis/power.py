"""What a grid can tell before it runs: variances of past comparisons, projected to other numbers of seeds and test images.

The same two parts as in every interval, see `analysis.statistics.intervals`: seeds and test images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from analysis.run_folder import Refused, read_predictions
from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.contrasts import Layout
from analysis.statistics.intervals import ALPHA, KAPPA, MIN_SEEDS_FOR_MARKS, Estimates, Floats
from experiments.config.cells import setting_label
from experiments.config.identity import fraction_label
from experiments.config.schema import Experiment
from experiments.records.intended import Power, Range
from experiments.records.record import PREDICTIONS_FILE, RECORD_FILE, RecordError, read_record

POWER = 0.8
"""Share of grids in which a difference shall be found."""
Pair = tuple[str, str, float]
"""Two models, in the order of their names, and a train fraction."""


@dataclass(frozen=True)
class Spread:
    """Variance of differences by its sources, arrays of shape (G,): what S seeds and N images leave is
    ``images/N + residual/(S·N) + κ·shift/S``."""

    images: Floats
    residual: Floats
    shift: Floats
    kappa: Floats
    """5% and 95% points of κ and, between them, the geometric mean of its median and its mean, (3, G): few seeds do not know
    κ, and their intervals are wider than the median's would be (simulated, ``docs/looks.md``)."""

    @classmethod
    def of(cls, found: Estimates, n_seeds: Floats | int, n_images: int) -> Spread:
        """Take it from estimates of `n_seeds`, for each or all, on `n_images` test images."""
        points = [(found.posterior.cumsum(axis=1) < point).sum(axis=1) for point in (0.05, 0.5, 0.95)]
        images = (found.rest - found.residual) * n_images
        kappa = KAPPA[np.array(points).clip(max=KAPPA.size - 1)]
        kappa[1] = np.sqrt(kappa[1] * (found.posterior @ KAPPA))
        return cls(images, found.residual * n_seeds * n_images, found.shift * n_seeds, kappa)

    def __getitem__(self, chosen: Sequence[int]) -> Spread:
        return Spread(*(part[..., chosen] for part in vars(self).values()))

    @classmethod
    def together(cls, several: Sequence[Spread]) -> Spread:
        """Several as one."""
        return cls(*(np.concatenate(parts, axis=-1) for parts in zip(*(vars(one).values() for one in several), strict=True)))

    def told(self, n_seeds: int, n_images: int) -> Floats:
        """Differences that a pair's own 95% interval finds with a power of 80%, at the likely κ, (G,)."""
        variance = self.images / n_images + (self.residual / n_images + self.kappa[1] * self.shift) / n_seeds
        return np.asarray(_reach(ALPHA) * np.sqrt(variance))

    def seeds(self, effect: float, n_images: int, alpha: float = ALPHA) -> Floats:
        """Seeds that a difference of `effect` takes, at the three points of κ, (3, G); infinite where the images alone are
        too few.

        References
        ----------
        Hillis, Obuchowski and Berbaum (2011), Power estimation for multireader ROC methods, Academic Radiology 18(2):
        129–142, for the projection of variance components.
        """
        room = (effect / _reach(alpha)) ** 2 - self.images / n_images
        each = self.residual / n_images + self.kappa * self.shift
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(room > 0, np.maximum(np.ceil(each / room), MIN_SEEDS_FOR_MARKS), np.inf)

    def test_images(self, effect: float, alpha: float = ALPHA) -> Floats:
        """Test images from which on some number of seeds is enough, (G,)."""
        return np.asarray(np.floor(self.images * (_reach(alpha) / effect) ** 2) + 1)


def _reach(alpha: float) -> float:
    """Standard errors between 0 and a difference that is found with `POWER`."""
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(POWER))


class Known(NamedTuple):
    """Pairs that past runs compared, and how they varied."""

    name: str
    """Of the experiment's folder, such as ``results/vit_small_data``."""
    data: str
    pairs: list[Pair]
    spread: Spread


def known(folder: Path, data: str | None, faults: list[str]) -> list[Known]:
    """What the records of an experiment's folder show, one entry for each test set with two seeds of two models.

    `data` is a dataset's name, None for all; `faults` gets a sentence for each record that cannot be used.
    """
    answers: dict[tuple[str, str], dict[Cell, dict[str, dict[int, np.ndarray]]]] = {}
    newest: dict[str, str] = {}
    for path in sorted(folder.glob(f"*/{RECORD_FILE}")):
        try:
            record = read_record(path)
            if record.status != "done" or record.trial is not None or data not in (None, record.data):
                continue
            arrays = read_predictions(path.parent / PREDICTIONS_FILE)
        except (RecordError, Refused) as error:
            faults.append(f"{error} No variance is taken from it.")
            continue
        test = record.data, hashlib.sha256(arrays["sample_ids"].tobytes()).hexdigest()
        cell = setting_label(record.varied), record.model, record.train_fraction
        right = arrays["logits"].argmax(axis=1) == arrays["labels"]
        answers.setdefault(test, {}).setdefault(cell, {}).setdefault(record.settings_hash, {})[record.seed] = right
        newest[record.settings_hash] = max(record.finished, newest.get(record.settings_hash, ""))
    found = []
    for (name, _), cells in answers.items():
        # Seeds of other settings are no seeds of a cell: it takes the settings with the most of them, the newest of several.
        of_cells = {cell: max(own.items(), key=lambda one: (len(one[1]), newest[one[0]]))[1] for cell, own in cells.items()}
        usable = {cell: (list(runs), np.stack(list(runs.values()))) for cell, runs in of_cells.items() if len(runs) > 1}
        compared = Comparisons.of(Layout.of(usable)) if usable else None
        if compared and compared.pairs:
            weights = compared.layout.weights(*({a: 1.0, b: -1.0} for a, b in compared.pairs))
            estimates, seeds = compared.layout.estimates(weights, compared.of_pairs), compared.layout.n_seeds(weights)
            spread = Spread.of(estimates, seeds.astype(float), compared.layout.n_images)
            pairs = [pair_of(a[1], b[1], a[2]) for a, b in compared.pairs]
            found.append(Known(f"{folder.parent.name}/{folder.name}", name, pairs, spread))
    return found


def pair_of(a: str, b: str, fraction: float) -> Pair:
    """Two models in the order of their names."""
    return min(a, b), max(a, b), fraction


def chosen(wanted: Sequence[Pair], own: Sequence[Known], others: Sequence[Known]) -> tuple[Spread, str]:
    """How wanted pairs will vary: as the same pairs of the same data in `own`, else as all of `own`, else as `others`.

    One row for each wanted pair, and what they were taken from, for people.
    """
    rows, names, lent = list[Spread](), dict[str, None](), 0
    for pair in wanted:
        if exact := next((one for one in own if pair in one.pairs), None):
            rows.append(exact.spread[[exact.pairs.index(pair)]])
            names[exact.name] = None
        else:
            lent += 1
            rows.append(_median(Spread.together([_near(one, pair[2]) for one in own or others])))
            names |= dict.fromkeys(one.name if own else f"{one.name} (other data)" for one in own or others)
    note = f"; {lent} of {len(wanted)} pairs as others vary" if lent and own else ""
    return Spread.together(rows), ", ".join(names) + note


def _near(of: Known, fraction: float) -> Spread:
    """The pairs at the nearest fraction."""
    nearest = min((pair[2] for pair in of.pairs), key=lambda other: abs(np.log(other / fraction)))
    return of.spread[[at for at, pair in enumerate(of.pairs) if pair[2] == nearest]]


def _median(spread: Spread) -> Spread:
    """One row that stands for all."""
    return Spread(*(np.median(part, axis=-1, keepdims=True) for part in vars(spread).values()))


def powers(
    experiment: Experiment,
    effect: float,
    n_test: Mapping[str, int],
    hours: Mapping[str, float],
    folders: Sequence[Path],
    alpha: float = ALPHA,
) -> tuple[list[Power], list[str]]:
    """What the pairs of each data budget can tell, and a sentence for each thing that is not known.

    Parameters
    ----------
    effect : float
        Difference of accuracies.
    n_test : mapping of str to int
        Test images by data.
    hours : mapping of str to float
        Device hours of one seed of all models by ``<data>/<train fraction>``.
    folders : sequence of Path
        Folders of experiments, the most trusted first.
    alpha : float
        Level at which the effect is to be found.
    """
    found, faults, n_seeds = list[Power](), list[str](), len(experiment.seeds)
    for data in experiment.data:
        own = [one for folder in folders for one in known(folder, data, faults)]
        others = own or [one for folder in folders for one in known(folder, None, [])]
        for fraction in sorted(experiment.train_fractions, reverse=True):
            wanted = [pair_of(a, b, fraction) for a, b in combinations(experiment.models, 2)]
            if not others or not wanted:
                faults.append(_nothing_known(data) if wanted else "power: one model alone is compared with nothing.")
                break
            spread, source = chosen(wanted, own, others)
            low, likely, high = (float(value) for value in _middle(spread.seeds(effect, n_test[data], alpha)))
            cost = hours[f"{data}/{fraction_label(fraction)}"]
            power = Power(
                data=data,
                train_fraction=fraction,
                n_test=n_test[data],
                n_seeds=n_seeds,
                source=source,
                told=_range(spread.told(n_seeds, n_test[data])),
                seeds=(_finite(low), _finite(likely), _finite(high)),
                seed_hours=_finite(cost * likely),
                test_images=int(_middle(spread.test_images(effect, alpha))),
            )
            found.append(power)
    return found, faults


def _middle(values: Floats) -> Floats:
    """The median pair, of two the one that takes more."""
    return np.asarray(np.quantile(values, 0.5, axis=-1, method="higher"))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def told_by(comparisons: Comparisons, fraction: float) -> Range | None:
    """Differences that grids like this one find with a power of 80%, of its pairs at a fraction; None with one seed."""
    at = [place for place, (a, _) in enumerate(comparisons.pairs) if a[2] == fraction]
    terms = ({comparisons.pairs[place][0]: 1.0, comparisons.pairs[place][1]: -1.0} for place in at)
    found = _reach(ALPHA) * comparisons.differences(comparisons.of_pairs[at], *terms).se
    return _range(found[np.isfinite(found)]) if np.isfinite(found).any() else None


def _nothing_known(data: str) -> str:
    return (
        f"power: no folder of runs or of results/ holds two models with two seeds each to take variances from, of {data} or "
        'other data. Run one look first, as in ARGS="seeds=[0,1,2]", and plan again.'
    )


def _range(values: Floats) -> Range:
    return float(values.min()), float(np.median(values)), float(values.max())
