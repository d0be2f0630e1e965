"""The columns of tables. A metric is a row of `COLUMNS`: from there it enters the tables, what is said under them, their
``.csv`` files, the page, and the panels in Weights & Biases. Top-1 accuracy, its interval and differences are in `tables`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from analysis.text import decimals, known, number, significant


def percent_places(half_width: float) -> int:
    """Decimals of a percentage with an interval of this half-width; below 10 points at least one, so that ± is not 0."""
    return max(decimals(half_width, at_most=2), int(half_width < 10))


def accuracy_places(row: Any) -> int:
    """Decimals of an accuracy in per cent: of its interval or, with one seed, of the binomial error over test images."""
    half = 100 * (row.high - row.low) / 2
    if not known(half) and known(row.mean) and row.n_test:
        half = 196 * math.sqrt(max(row.mean * (1 - row.mean), 0.25 / row.n_test) / row.n_test)
    return percent_places(half)


def _nll_places(row: Any) -> int:
    """Decimals of a negative log-likelihood: of its noise floor, which one seed does not tell."""
    return decimals(row.nll_margin, at_most=3) if known(row.nll_margin) else 2


def _calibration_error(row: Any) -> str:
    """ECE in per cent, with what chance alone gives and its limit."""
    null = f" (null {number(100 * row.ece_null, 1)}, ≤ {number(100 * row.ece_null_high, 1)})" if known(row.ece_null) else ""
    return number(100 * row.ece, 1) + null


@dataclass(frozen=True)
class Column:
    """A quantity of a run, averaged over seeds."""

    key: str
    """Its name in `Summary.cells` and in ``.csv`` files; footnotes are those of a column ``<key>_note``."""
    source: str
    """Where it is in a run: a metric of the record, such as ``test/nll``, or a column of `Results.runs`."""
    title: str = ""
    """Heading, with its unit and the direction that is better; empty for what stands in ``.csv`` files alone."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """Tables that show it → what is said of it under them. The table of all metrics belongs to ``accuracy``."""
    factor: float = 1.0
    """From the recorded unit to the printed one."""
    places: Callable[[Any], int] | None = None
    """Row → decimals; three significant digits without it."""
    text: Callable[[Any], str] | None = None
    """Row → what is printed, where that is more than a number."""
    panel: str = ""
    """Title of its bars in Weights & Biases; empty for none."""
    from_classes: int = 0
    """Number of classes from which on it is shown."""
    of_device: bool = False
    """Whether it means something only on one kind of device."""
    units: tuple[tuple[str, float], ...] = ()
    """Headings with their factors, small units first, where it depends on the values in which unit they are read best."""

    def in_unit(self, values: pd.Series) -> Column:
        """This column in the largest unit in which no value is below 1, or else in the smallest."""
        least = pd.to_numeric(values).where(lambda numbers: numbers > 0).min()
        fit = [unit for unit in self.units if least * unit[1] >= 1] or list(self.units[:1]) or [(self.title, self.factor)]
        return replace(self, title=fit[-1][0], factor=fit[-1][1])

    def shown(self, row: Any) -> str:
        """The value of a row as a table prints it."""
        if self.text is not None:
            return self.text(row)
        value = self.factor * getattr(row, self.key)
        return significant(value) if self.places is None else number(value, self.places(row))


COLUMNS = (
    Column(
        "top5", "test/top5", "Top-5 (%) ↑", {"accuracy": ""}, 100, accuracy_places,
        panel="Top-5 accuracy on the test set", from_classes=100,
    ),
    Column("macro_f1", "test/macro_f1", "Macro-F1 (%) ↑", {"accuracy": ""}, 100, accuracy_places, panel="Macro-F1"),
    Column(
        "nll", "test/nll", "NLL ↓", {"accuracy": "NLL in nats;"}, 1, _nll_places,
        panel="Negative log-likelihood (lower is better)",
    ),
    Column(
        "brier", "test/brier", "Brier ↓", {"accuracy": "Brier score from 0 to 2."}, 1,
        lambda row: min(accuracy_places(row) + 2, 3),
    ),
    Column(
        "ece", "ece", "ECE (%) ↓",
        {
            "accuracy": "ECE over 15 bins; beside it the null, which a perfectly calibrated model with these confidences "
            "would have on as many images, and the limit that this exceeds once in twenty;"
        },
        100, text=_calibration_error, panel="Expected calibration error (lower is better)",
    ),
    Column(
        "ece_scaled", "ece_scaled", "ECE, scaled (%) ↓", {"accuracy": "then after temperature scaling on validation."}, 100,
        lambda row: 1,
    ),
    Column("ece_null", "ece_null"),
    Column("ece_null_high", "ece_null_high"),
    Column("val_top1", "val/top1"),
    Column("val_best_top1", "val_best/top1"),
    Column(
        "n_params", "n_params", "Params", {"accuracy": "", "compute": ""}, panel="Parameters",
        units=(("Params", 1), ("Params (k)", 1e-3), ("Params (M)", 1e-6)),
    ),
    Column(
        "forward_gmacs", "forward_gmacs", "MACs",
        dict.fromkeys(("accuracy", "compute"), "MACs: multiply-accumulates of the forward pass of one image."),
        panel="GMACs of one forward pass", units=(("MACs (k)", 1e6), ("MACs (M)", 1e3), ("MACs (G)", 1)),
    ),
    Column(
        "train_pflops", "train_pflops", "Train FLOPs ↓", {"compute": "Train FLOPs: 3 × forward FLOPs × images seen."},
        units=(("Train GFLOPs ↓", 1e6), ("Train TFLOPs ↓", 1e3), ("Train PFLOPs ↓", 1), ("Train EFLOPs ↓", 1e-3)),
    ),
    Column(
        "device_hours", "device_hours", "Device-hours ↓",
        {"compute": "Device time is net of evaluation and summed over attempts."},
        panel="Device-hours of a training", of_device=True,
        units=(("Device s ↓", 3600), ("Device min ↓", 60), ("Device h ↓", 1)),
    ),
    Column(
        "images_per_second", "images_per_second", "Images/s ↑",
        {"compute": "Images/s: end to end, net of evaluation."}, panel="Training images per second", of_device=True,
    ),
    Column(
        "peak_memory_bytes", "peak_memory_bytes", "Peak memory ↓",
        {
            "compute": "Peak memory: of the device's allocator; on a CPU of the whole process, its libraries and data "
            "included."
        },
        panel="Peak memory in bytes", of_device=True, units=(("Peak MB ↓", 1e-6), ("Peak GB ↓", 1e-9)),
    ),
    Column(
        "mfu", "mfu", "MFU (%) ↑", {"compute": "MFU: model FLOPs over the dense peak of the device."}, 100,
        panel="Model FLOPs utilisation", of_device=True,
    ),
    Column(
        "energy_joules", "energy_joules", "Energy ↓", {"compute": ""}, panel="Energy of a training in joules",
        of_device=True, units=(("Energy (J) ↓", 1), ("Energy (kJ) ↓", 1e-3), ("Energy (MJ) ↓", 1e-6)),
    ),
)  # fmt: skip
"""In the order of the tables."""

OF_DEVICE = (*(column.key for column in COLUMNS if column.of_device), "seconds_to_target")
"""Columns that mean something only on one kind of device."""


def in_table(table: str) -> list[Column]:
    """The columns that a table shows."""
    return [column for column in COLUMNS if table in column.tables]


def legend(table: str) -> str:
    """What is said of a table's columns under it."""
    return " ".join(filter(None, (column.tables[table] for column in in_table(table))))


_IDENTITY = "data setting model model_title family source track "
_CSV = {
    "accuracy": (
        _IDENTITY + "train_fraction n n_test n_seeds n_expected seeds mean std low high delta delta_low delta_high p p_holm "
        "n_paired state best bold top5 macro_f1 nll brier ece ece_scaled val_top1 val_best_top1 n_params "
        "forward_gmacs note run_ids ece_null ece_null_high ece_scaled_note delta_se"
    ),
    "data_efficiency": (
        _IDENTITY + "n_seeds n_expected seeds aulc aulc_std aulc_low aulc_high aulc_delta aulc_delta_low aulc_delta_high "
        "multiplier multiplier_low multiplier_high multiplier_target multiplier_ahead multiplier_text crossover "
        "crossover_low crossover_high crossover_leader note run_ids bound bound_ahead bound_n_ahead bound_n_behind "
        "bound_delta bound_low bound_high"
    ),
    "compute": (
        _IDENTITY + "train_fraction n n_seeds n_expected seeds n_params forward_gmacs train_pflops device_hours "
        "images_per_second peak_memory_bytes mfu energy_joules seconds_to_target mean note run_ids reached_target "
        "target_is_bound"
    ),
    "datasets": (
        _IDENTITY + "train_fraction n n_test n_seeds n_expected seeds mean std low high best bold note run_ids rank "
        "across_delta across_low across_high across_tau prediction_low prediction_high across_n"
    ),
    "settings": _IDENTITY + "train_fraction n n_seeds n_expected seeds mean std val_top1 chosen note run_ids",
    "budgets": "data setting model reference fraction n reference_fraction reference_n delta low high p",
    "recipes": "data model train_fraction trials k best best_low best_high ahead low high ties",
    "interactions": "data setting model changed before after train_fraction gap_before gap_after change low high p",
}
"""Columns of the ``.csv`` files, which users rely on: rename none, add at the end."""


def csv_columns(table: str) -> tuple[str, ...]:
    """Columns of a table's ``.csv`` file; what was added to `COLUMNS` comes last."""
    listed = _CSV[table].split()
    return (*listed, *(column.key for column in in_table(table) if column.key not in listed))
