"""The certificate: proof from the records that the rows of a table differ in the model alone, or every difference by name.

Settings are compared by the hash that each run was recorded with, and that hash is computed again from the run's own
``config.yaml``, so that neither an edited record nor an edited configuration passes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.load import Results, select
from analysis.run_folder import devices
from experiments.config.errors import UserError
from experiments.config.identity import PROTOCOL, canonical_hash, flattened
from experiments.config.text import listed
from experiments.records.record import CONFIG_FILE

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C where PyYAML was built with it, ten times as fast."""
MANY_OPENINGS = 2000
"""Characters that can open a level of YAML; a run's settings have about a hundred."""


@dataclass(frozen=True)
class Difference:
    """One thing that should be equal and is not."""

    key: str
    """What differs, such as ``recipe.learning_rate`` or ``split_hash``."""
    where: str
    """The table or cell in which it should be equal."""
    values: dict[str, list[str]]
    """Each value found, with the ids of the runs that have it."""

    def __str__(self) -> str:
        found = "; ".join(f"{value} in {listed(run_ids, 3)}" if run_ids else value for value, run_ids in self.values.items())
        return f"{self.where}: `{self.key}` differs: {found}"


class Unequal(UserError):
    """Rows of one table were made under different settings, as its `differences` say."""

    def __init__(self, differences: list[Difference], advice: str = "") -> None:
        self.differences = differences
        lines = "\n".join(f"- {difference}" for difference in differences)
        super().__init__(
            f"The runs were not made under equal settings, so they do not belong in one table:\n{lines}\n"
            "Run the cells that differ again under one setting, or give --allow-unequal for tables with a warning."
            + (f"\n{advice}" if advice else "")
        )


@dataclass(frozen=True)
class Certificate:
    """What was compared and what was found."""

    differences: list[Difference]
    faults: list[str]
    """Runs whose settings could not be verified."""
    content: dict[str, Any]
    """What stands in ``certificate.json``."""

    @property
    def equal(self) -> bool:
        return not self.differences


def table_label(data: str, setting: str) -> str:
    """Name of one table in the certificate: the dataset, with the varied setting where there is one."""
    return f"{data} ({setting})" if setting else data


def certify(results: Results, known: Sequence[Difference] = ()) -> Certificate:
    """Compare the settings of all runs of a report; `known` are differences that were found before.

    Equal in each (data, setting) table: the settings' hash, precision, steps and images seen; on the track `own`, where
    each model has its own recipe, that and the steps are equal among a model's runs, and all else among all; under a budget
    of epochs steps and images seen are equal at each fraction. Equal among models at one (data, fraction, seed): the hash of
    the split and the numbers of images. Equal for each dataset: the test images and their labels, and a model's geometry,
    parameters and forward pass. Equal over the report: the protocol. Different devices, and batches trained in different
    numbers of parts, are listed but allowed.
    """
    requested, faults = _requested(results)
    runs, records = results.runs, [results.records[run_id] for run_id in results.runs["run_id"]]
    tables = {table_label(data, setting): select(runs, data=data, setting=setting) for data, setting in results.groups}
    tables = {table: own for table, own in tables.items() if len(own)}
    differences = [difference for table, own in tables.items() for difference in _of_table(table, own, requested)]
    for data, own in runs.groupby("data", sort=False):
        differences += _unequal(own, "test_digest", str(data), key="test images and labels")
    differences += _unequal(runs, "protocol", "report")
    older = runs[runs["protocol"] != PROTOCOL]
    if len(older) == len(runs):
        found = _collect(dict(zip(older["run_id"], older["protocol"], strict=True)))
        differences.append(Difference("protocol", "report", {f"{PROTOCOL} (this version)": [], **found}))
    geometry, of_geometry = _geometry(results)
    differences += of_geometry
    places = {(difference.key, difference.where) for difference in differences}
    differences += [difference for difference in known if (difference.key, difference.where) not in places]
    hashes = {table: sorted(set(own["settings_hash"])) for table, own in tables.items()}
    content = {
        "equal": not differences,
        "settings_hash": {table: found[0] if len(found) == 1 else found for table, found in hashes.items()},
        "settings": {table: _settings(own, requested) for table, own in tables.items()},
        "images_seen": {table: sorted({int(value) for value in own["samples_seen"]}) for table, own in tables.items()},
        "precision": {table: sorted({str(value) for value in own["precision"]}) for table, own in tables.items()},
        "protocol": sorted({int(value) for value in runs["protocol"]}),
        "geometry": geometry,
        "devices": sorted({device for record in records for device in devices(record)}),
        "micro_batches": sorted({record.compute.micro_batches or 1 for record in records}),
        "differences": [asdict(difference) for difference in differences],
        "unverified": faults,
        "records": len(runs),
    }
    return Certificate(differences, faults, content)


def _settings(runs: pd.DataFrame, requested: Mapping[str, dict[str, Any]]) -> Any:
    """The settings of a table, on the track `own` by model."""
    if (runs["track"] == "own").all():
        return {str(model): _settings(own.assign(track=""), requested) for model, own in runs.groupby("model", sort=False)}
    return next((requested[run_id] for run_id in runs["run_id"] if run_id in requested), None)


def read_config(path: Path) -> Any:
    """A run's ``config.yaml``; errors of reading and parsing are the caller's."""
    text = path.read_text(encoding="utf-8")
    # Deep nesting ends the C parser and this process with it; the other raises RecursionError.
    loader = yaml.SafeLoader if sum(map(text.count, "[{-?")) > MANY_OPENINGS else _SafeLoader
    return yaml.load(text, Loader=loader)  # noqa: S506 - safe loaders


def _requested(results: Results) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The requested settings of every run from its ``config.yaml``, and the runs without."""
    found, faults = {}, []
    for run_id in results.runs["run_id"]:
        try:
            requested = dict(read_config(results.folder / run_id / CONFIG_FILE)["requested"])
            canonical_hash(requested)  # raises where a value has a type that settings never have
            found[run_id] = requested
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
            path = Path(results.folder.parent.name, results.folder.name, run_id, CONFIG_FILE)
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            faults.append(
                f"{path}: the settings of this run cannot be verified ({reason}); only the recorded hash was compared. "
                "Restore the file, or delete the run's folder and run the experiment again."
            )
    return found, faults


def _of_table(table: str, runs: pd.DataFrame, requested: Mapping[str, dict[str, Any]]) -> list[Difference]:
    """What differs among the runs of one table."""
    of_settings = _of_settings(table, runs, requested)
    differences = list(of_settings)
    # Equal epochs are steps in proportion to the images, so that they are equal at one fraction alone.
    epochs = any(requested.get(run_id, {}).get("recipe", {}).get("budget") == "epochs" for run_id in runs["run_id"])
    for column in ("precision",) if of_settings else ("precision", "steps", "samples_seen"):
        by_fraction = epochs and column != "precision"
        for fraction, part in runs.groupby("train_fraction") if by_fraction else [("", runs)]:
            place = f"{table}, train fraction {fraction:g}" if by_fraction else table
            differences += [found for where, own in _parts(place, part, column) for found in _unequal(own, column, where)]
    for (fraction, seed), cell in runs.groupby(["train_fraction", "seed"]):
        for column in ("split_hash", "n_train", "n_val"):
            differences += _unequal(cell, column, f"{table}, train fraction {fraction:g}, seed {seed}")
    for model, own in runs.groupby("model", sort=False):
        for column in ("n_params", "forward_gmacs"):
            differences += _unequal(own, column, f"{table}, model {model}")
    return differences


def _of_settings(table: str, runs: pd.DataFrame, requested: Mapping[str, dict[str, Any]]) -> list[Difference]:
    """Differences of settings among the runs of one table, key by key where the configurations tell."""
    recorded = dict(zip(runs["run_id"], runs["settings_hash"], strict=True))
    own = {run_id: values for run_id, values in requested.items() if run_id in recorded}
    differences = []
    for run_id, values in own.items():
        if (computed := canonical_hash(values)) != recorded[run_id]:
            found = {f"{recorded[run_id]} (recorded)": [run_id], f"{computed} (of its {CONFIG_FILE})": [run_id]}
            differences.append(Difference("settings_hash", f"{table}, tampered run {run_id}", found))
    flat = {run_id: flattened(own[run_id]) for run_id in recorded if run_id in own}
    named = []
    for key in sorted({key for values in flat.values() for key in values}):
        for where, part in _parts(table, runs, key):
            found = _collect({run_id: flat[run_id].get(key, "absent") for run_id in part["run_id"] if run_id in flat})
            if len(found) > 1:
                named.append(Difference(key, where, found))
    hashes = (own for where, part in _parts(table, runs, "settings_hash") for own in _unequal(part, "settings_hash", where))
    return differences + (named or list(hashes))


def _parts(table: str, runs: pd.DataFrame, key: str) -> list[tuple[str, pd.DataFrame]]:
    """The runs among which a key must be equal: those of a table or, for what the track `own` lets differ, of each model."""
    of_recipe = key.startswith("recipe.") and key != "recipe.precision"
    if (runs["track"] == "own").all() and (of_recipe or key in ("settings_hash", "steps", "samples_seen")):
        return [(f"{table}, model {model}", own) for model, own in runs.groupby("model", sort=False)]
    return [(table, runs)]


def _unequal(runs: pd.DataFrame, column: str, where: str, key: str | None = None) -> list[Difference]:
    """A difference if a column holds more than one value; an unknown value is a value."""
    found = _collect({run_id: str(value) for run_id, value in zip(runs["run_id"], runs[column], strict=True)})
    return [Difference(key or column, where, found)] if len(found) > 1 else []


def _geometry(results: Results) -> tuple[dict[str, Any], list[Difference]]:
    """Declared geometry per model, by dataset where it depends on that, and models whose runs differ on one dataset."""
    differences = []
    by_model: dict[str, dict[str, Any]] = {}
    for (model, data), runs in results.runs.groupby(["model", "data"], sort=False):
        geometries = {run_id: results.records[run_id].geometry for run_id in runs["run_id"]}
        texts = {i: ", ".join(f"{key}={value}" for key, value in sorted(own.items())) for i, own in geometries.items()}
        found = _collect({run_id: text or "none" for run_id, text in texts.items()})
        if len(found) > 1:
            differences.append(Difference("geometry", f"{data}, model {model}", found))
        by_model.setdefault(str(model), {})[str(data)] = geometries[runs["run_id"].iloc[0]]

    def common(by_data: dict[str, Any]) -> Any:
        first, *others = by_data.values()
        return first if all(other == first for other in others) else by_data

    return {model: common(by_data) for model, by_data in by_model.items()}, differences


def _collect(values: Mapping[str, Hashable]) -> dict[str, list[str]]:
    """Run ids by value, in the order of appearance; values as text."""
    found: dict[str, list[str]] = {}
    for run_id, value in values.items():
        found.setdefault(str(value), []).append(run_id)
    return found
