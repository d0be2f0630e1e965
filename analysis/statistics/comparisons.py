"""What is compared with what among the cells of one dataset, and what they show about seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

from analysis.statistics.contrasts import Layout
from analysis.statistics.intervals import MAX_KAPPA_FOR_MARKS, Estimates, Floats, typical_kappa

Cell = tuple[str, str, float]
"""Setting, model and train fraction."""
Term = Mapping[Cell, float]
"""The weights of a contrast's cells."""


@dataclass(frozen=True)
class Comparisons:
    """All cells of one dataset, and what they show about seeds."""

    layout: Layout
    """Its keys are cells."""
    pairs: list[tuple[Cell, Cell]]
    """Every two models of one setting at one budget: the family of the marks, setting by setting."""
    of_accuracies: Floats
    of_pairs: Floats
    """Priors of the seeds' part, (K, H) of accuracies and (pairs, H); they may differ from kind to kind, see `_sorts`."""
    of_differences: Floats
    """The prior of all pairs alike, (H,)."""

    @classmethod
    def of(cls, layout: Layout) -> Comparisons:
        """Learn what the cells of a layout show about seeds."""
        cells = list(layout.index)
        pairs = [(a, b) for a, b in combinations(cells, 2) if (a[0], a[2]) == (b[0], b[2])]
        share = 2 / max(len({model for _, model, _ in cells}), 2)
        differences = layout.weights(*({a: 1.0, b: -1.0} for a, b in pairs))
        alike = layout.prior(differences, share)
        return cls(
            layout,
            pairs,
            of_accuracies=layout.prior(np.eye(len(cells)), kinds=_sorts([(cell,) for cell in cells])),
            of_pairs=layout.prior(differences, share, _sorts(pairs)) if pairs else np.zeros((0, alike.size)),
            of_differences=alike,
        )

    def accuracy(self, cell: Cell) -> Estimates:
        """The accuracy of one cell; without an interval where seeds differ too much for one."""
        at = self.layout.index[cell]
        prior = self.of_accuracies[at : at + 1]
        return self.layout.estimates(self.layout.weights({cell: 1.0}), prior).known_where(typical(prior))

    def gap(self, first: Cell, second: Cell) -> Estimates:
        """The difference of two models at one budget."""
        at = self.place(first, second)
        return self.layout.estimates(self.layout.weights({first: 1.0, second: -1.0}), self.of_pairs[at : at + 1])

    def place(self, first: Cell, second: Cell) -> int:
        """Where two models at one budget stand in `pairs`, in either order."""
        return self.pairs.index((second, first) if (second, first) in self.pairs else (first, second))

    def differences(self, prior: Floats, *terms: Term) -> Estimates:
        """Contrasts of cells; the weights of each sum to 0, or to 1 for a mean of accuracies."""
        return self.layout.estimates(self.layout.weights(*terms), prior)

    def prior(self, setting: str, build: Callable[[str, str], Term]) -> Floats:
        """What all contrasts of one sort show about seeds: `build` gives that of two models.

        Sorts differ: the seeds of one learning curve may act alike at all its budgets, for example.
        """
        models = dict.fromkeys(model for place, model, _ in self.layout.index if place == setting)
        terms = [build(a, b) for a, b in permutations(models, 2)]
        known = [term for term in terms if all(cell in self for cell in term)]
        return self.layout.prior(self.layout.weights(*known), 1 / max(len(models), 2))

    @property
    def trusted(self) -> npt.NDArray[np.bool_]:
        """Of which pairs seeds vary little enough for normal theory, on which marks rely; not where some fail to learn."""
        return typical(self.of_pairs)

    @property
    def regular(self) -> bool:
        """Whether all cells and pairs have seeds of near to normal scatter, so that nothing is left out."""
        return bool(self.trusted.all() and typical(self.of_accuracies).all())

    def __contains__(self, cell: Cell) -> bool:
        return cell in self.layout.index

    def n_seeds(self, cell: Cell) -> int:
        return len(self.layout.seeds[self.layout.index[cell]])


def typical(prior: Floats) -> npt.NDArray[np.bool_]:
    """Under which priors the scatter of seeds is near to normal."""
    return np.asarray(typical_kappa(prior) <= MAX_KAPPA_FOR_MARKS)


def _sorts(contrasts: Sequence[Sequence[Cell]]) -> list[npt.NDArray[np.intp]]:
    """Ways in which seeds may act unlike: those of one setting or model and the rest, of small budgets and of large ones."""
    sorts = []
    for part in (0, 1):
        for name in dict.fromkeys(cell[part] for cells in contrasts for cell in cells):
            sorts.append([any(cell[part] == name for cell in cells) for cells in contrasts])
    budgets = sorted({cells[0][2] for cells in contrasts})
    sorts += [[cells[0][2] < budget for cells in contrasts] for budget in budgets[1:]]
    return [np.array(sort, dtype=np.intp) for sort in sorts]
