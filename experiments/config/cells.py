"""An experiment → its cells, and their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from pydantic import BaseModel

from experiments.config.identity import PROTOCOL, canonical_hash, fraction_label, hashed_values, settings_hash
from experiments.config.loading import varied_settings, with_settings
from experiments.config.schema import DataConfig, Execution, Experiment, ModelConfig, Recipe, Tuning

_known: dict[tuple[Any, ...], tuple[Any, Any]] = {}


def _once(function: Callable[..., Any], *parts: Any) -> Any:
    """A function of frozen parts, which thousands of cells share, worked out once for each."""
    key = (function.__code__, *map(id, parts))
    if key not in _known:
        _known[key] = parts, function(*parts)  # the parts are kept, so that no other object gets their id
    return _known[key][1]


def _untitled(part: BaseModel) -> dict[str, Any]:
    return hashed_values(part, exclude={"title"})


@dataclass(frozen=True)
class Cell:
    """One combination of an experiment, before it runs. Plain values: it travels to worker processes."""

    asked: Experiment
    """The experiment that asks for it, whose keys hold for all its cells."""
    model_name: str
    data_name: str
    data: DataConfig
    recipe: Recipe
    train_fraction: float
    seed: int
    varied: dict[str, Any]
    split_hash: str | None
    """None where the split has never been computed: such a cell has not run."""
    tuning: Tuning | None = None
    """On the track `tuned` the space that the recipe is chosen from."""
    trial_split_hash: str | None = None
    """Split of the tuning seed, on the track `tuned`."""
    trial: int | None = None
    """Number of a tuning trial, which never sees the test set; None for a run that is reported."""

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.asked.name

    @property
    def model(self) -> ModelConfig:
        """The model."""
        return self.asked.models[self.model_name]

    @property
    def recipe_name(self) -> str:
        """Stem of the recipe's file."""
        if self.track != "own":
            return self.asked.recipe_name
        recipes = self.asked.recipes
        return recipes.get(self.model_name) or recipes[self.model.family]

    @property
    def trained(self) -> Recipe:
        """The recipe with the steps that the cell takes."""
        recipe = self.recipe
        if recipe.budget == "steps":
            return recipe
        steps = max(recipe.evaluations, round(recipe.steps * self.train_fraction))
        return recipe.model_copy(update={"steps": steps})

    @property
    def execution(self) -> Execution:
        """How the run is carried out."""
        return self.asked.execution

    @property
    def args(self) -> str:
        """The overrides of the command that asked for the cell."""
        return self.asked.args

    @property
    def command(self) -> str:
        """What to type to run the cell's grid again."""
        return self.asked.command

    @property
    def track(self) -> str:
        """``identical``: one recipe for all; ``tuned``: each model's best of equally many trials; ``own``: its authors'.
        Trials alone are of ``random``."""
        return str(self.varied.get("track", "identical"))

    @cached_property
    def settings_hash(self) -> str:
        """Hash of everything but the model."""
        return _once(settings_hash, self.recipe, self.data, self.tuning, self.track)

    @cached_property
    def run_id(self) -> str | None:
        """``<model>-<data>-f<fraction>-s<seed>-<hash8>``."""
        if self.split_hash is None:
            return None
        identity = {
            "settings": self.settings_hash,
            "split": self.split_hash,
            "model": _once(_untitled, self.model),
            "protocol": PROTOCOL,
        }
        label = f"{self.model_name}-{self.data_name}-f{fraction_label(self.train_fraction)}-s{self.seed}"
        if self.trial is not None:
            label, identity = f"{label}-trial{self.trial}", identity | {"trial": self.trial}
        return f"{label}-{canonical_hash(identity)[:8]}"

    @property
    def place(self) -> tuple[str, str, float, str]:
        """Where it stands in a report: data, setting, train fraction and model."""
        return self.data_name, setting_label(self.varied), self.train_fraction, self.model_name

    def describe(self) -> str:
        """How progress lines call the cell."""
        return " ".join([self.model_name, self.data_name, *self._where()])

    @property
    def title(self) -> str:
        """The run's name for people: ``ResNet-micro · digits · 10% · seed 0``."""
        return " · ".join([self.model.title, self.data.title, *self._where()])

    def _where(self) -> list[str]:
        """Budget, turn and setting, in words."""
        turn = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        return [f"{100 * self.train_fraction:.4g}%", turn, *short_settings(self.varied)]


def short_settings(varied: Mapping[str, Any]) -> list[str]:
    """Values of an experiment's ``vary`` keys, without the room of each key: ``learning_rate=0.001``."""
    return [f"{key.rpartition('.')[2]}={value}" for key, value in varied.items()]


def setting_label(varied: Mapping[str, Any] | None) -> str:
    """The values of an experiment's ``vary`` keys as text: ``recipe.learning_rate=0.001``; empty where nothing varies."""
    return ", ".join(f"{key}={value}" for key, value in (varied or {}).items())


def data_key(data: DataConfig) -> str:
    """Key of a dataset in the caches: the data as it is requested."""
    return _once(lambda part: canonical_hash(_untitled(part))[:16], data)


def split_key(data: DataConfig, train_fraction: float, seed: int) -> str:
    """Key of a split in the cache: the data as it is requested, the fraction and the seed."""
    return f"{data_key(data)}/{fraction_label(train_fraction)}/{seed}"


def expand(experiment: Experiment, splits: Mapping[str, str]) -> list[Cell]:
    """All cells that are reported, in the order in which they run: seeds outermost, so that an early stop leaves whole rows.

    On the tracks `tuned` and `own` the identical recipe comes first, as the block that the other one is read against.
    `splits` are split hashes by `split_key`; those absent leave the cell without a run id.
    """
    tracks: list[tuple[dict[str, Any], Tuning | None]] = [(setting, None) for setting in varied_settings(experiment)]
    if experiment.track in ("tuned", "own"):
        tuning = experiment.tuning if experiment.track == "tuned" else None
        tracks = [({"track": "identical"}, None), ({"track": experiment.track}, tuning)]
    cells = []
    for varied, tuning in tracks:
        trial_seed = experiment.tuning.seed if tuning or experiment.track == "random" else None
        recipe, datasets = with_settings(experiment, {} if "track" in varied else varied)
        for (data_name, data), seed in product(datasets.items(), experiment.seeds):
            for fraction in sorted(experiment.train_fractions, reverse=True):
                trial_split = splits.get(split_key(data, fraction, trial_seed)) if trial_seed is not None else None
                cells += [
                    Cell(
                        asked=experiment,
                        model_name=model_name,
                        data_name=data_name,
                        data=data,
                        recipe=experiment.own[model_name] if varied.get("track") == "own" else recipe,
                        train_fraction=fraction,
                        seed=seed,
                        varied=varied,
                        split_hash=splits.get(split_key(data, fraction, seed)),
                        tuning=tuning,
                        trial_split_hash=trial_split,
                    )
                    for model_name in experiment.models
                ]
    return cells
