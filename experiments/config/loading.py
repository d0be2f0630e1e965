"""YAML files under ``configs/`` → one validated `Experiment`.

An experiment names models, data and a recipe by the files' stems. Everything is read and checked before anything runs, and
all faults are reported at once, each with the file, the key, the value and the fix.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from experiments.config.code import identity_of
from experiments.config.errors import ConfigError, reason
from experiments.config.paths import ROOT, configs_dir
from experiments.config.schema import Asked, DataConfig, Experiment, ExperimentFile, ModelConfig, Recipe
from experiments.config.text import CONTROL, NAME, NAME_RULE, printable


# ------------------------------------------------------------------------------------------------------------- YAML text
class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 floats (``3e-4`` is a number), without repeated keys and numbers to base 8 or 60."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # a few lines of aliases can stand for billions of values
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not used here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        self._refuse_other_bases(node)
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise yaml.MarkedYAMLError(problem="a whole number of more than 64 bits", problem_mark=node.start_mark)
        return int(value)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        self._refuse_other_bases(node)
        return float(super().construct_yaml_float(node))

    def _refuse_other_bases(self, node: yaml.ScalarNode) -> None:
        if ":" in node.value or re.match(r"[-+]?0[\d_]+$", node.value):  # in YAML 1.1, 1:30 is 90 and 010 is 8
            problem = f"{node.value} is a number to base {60 if ':' in node.value else 8}; write it to base 10, or quote it"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML with the safe loader.

    Raises
    ------
    ConfigError
        Naming `source`, the line and the problem.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: broken YAML: {error.problem or error.context}. Correct that line.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: broken YAML: {reason(error)}.") from error


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["recipe.steps=200", "seeds=[0,1]"]`` into a flat mapping of dotted keys to values.

    Where a key's type is a string, the value is its text as it stands, ``null`` alone excepted where there may be none.
    Other values are YAML.

    Raises
    ------
    ConfigError
        With a sentence for each word that is no override, or of whose value something would be lost.
    """
    overrides: dict[str, Any] = {}
    faults = []
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            faults.append(f'ARGS: {argument!r} is not of the form key=value, as in ARGS="recipe.steps=200 seeds=[0,1]".')
            continue
        try:
            overrides[key] = _override(key, text)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return overrides


def _override(key: str, text: str) -> Any:
    """The value of one override."""
    options = _options(_type_of(key))
    if not text.strip():
        empty = ", or null for none" if NoneType in options else ""
        raise ConfigError(f"ARGS {key}: the value is missing. Write one after the `=`{empty}.")
    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text) or CONTROL.search(text):
        raise ConfigError(f"ARGS {key}: holds the control or invalid character {odd.group()!a}, got {text!a}. Delete it.")
    if str in options and not (list in options and text.startswith("[")):
        return None if text == "null" and NoneType in options else text
    value = parse_yaml(text, f"ARGS {key}")
    end = 0
    for token in yaml.scan(text):
        if text[end : token.start_mark.index].strip():
            raise ConfigError(f"ARGS {key}: ` #` begins a comment, which would be lost, got {text!r}. Quote or delete it.")
        end = token.end_mark.index
    return value


def _type_of(key: str) -> Any:
    """The type of an override's key; None where there is no such key."""
    kind: Any = ExperimentFile
    for name in key.split("."):
        parts = {"recipe": Recipe, "data": DataConfig} if kind is ExperimentFile and "." in key else {}
        kind = parts.get(name) or getattr(getattr(kind, "model_fields", {}).get(name), "annotation", None)
    return kind


def _options(kind: Any) -> list[Any]:
    """What a value of a type may be: of ``str | list[str]`` a str or a list."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _options(arguments[0])
    return [option for part in arguments for option in _options(part)] if origin in (Union, UnionType) else [origin or kind]


# --------------------------------------------------------------------------------------------------------------- loading
_KINDS = {"experiments": "experiment", "models": "model", "data": "data set", "recipes": "recipe"}


def _stems(kind: str) -> list[str]:
    if not configs_dir().is_dir():
        raise ConfigError(f"CONFIGS_DIR: no folder {configs_dir()}. Set it to a folder like configs/, or leave it unset.")
    return sorted(path.stem for path in (configs_dir() / kind).glob("*.yaml") if path.is_file())


def names(kind: str) -> list[str]:
    """Names of the files of one kind (``experiments``, ``models``, ``data``, ``recipes``), sorted."""
    return [stem for stem in _stems(kind) if NAME.fullmatch(stem)]


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence with the nearest matches of a misspelt word and the words that are known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
    return f"{hint}Known: {', '.join(known)}." if known else "There is none."


def _shown(path: Path) -> str:
    """A path as a user would type it: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def read_file(kind: str, name: str, asked_by: str | None = None) -> tuple[dict[str, Any], str]:
    """Read one file of ``configs/``. Returns its mapping, dotted keys still flat, and the path to show in messages.

    `asked_by` is the place that names the file, for the message that there is none.
    """
    path, legal = configs_dir() / kind / f"{name}.yaml", NAME.fullmatch(str(name))
    if not isinstance(name, str) or not legal or not path.is_file():
        if legal and os.path.lexists(path):
            raise ConfigError(f"{_shown(path)}: not a file that can be read. Put a YAML file there, or delete it.")
        known, folder = names(kind), _shown(configs_dir() / kind)
        what = f"no {_KINDS[kind]} named {name!r}"
        where = f"{asked_by}: {what} in {folder}" if asked_by else f"{folder}: {what}"
        raise ConfigError(f"{where}. {nearest(str(name), known)}" if legal else f"{where}: {NAME_RULE}; rename it.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_shown(path)}: cannot be read: {error}.") from error
    values = parse_yaml(text, _shown(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{_shown(path)}: must hold `key: value` lines, got {type(values).__name__}.")
    return values, _shown(path)


def _set_dotted(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in nested mappings, which are copied on the way and made where absent."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    values[last] = value


def _field_names(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names that are known where an unknown key was found."""
    for part in location[:-1]:
        field = model.model_fields.get(part)  # none at a place in a list
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _sentences(
    error: ValidationError, model: type[BaseModel], source: str, origin: Mapping[str, str], prefix: str = ""
) -> list[str]:
    """pydantic's faults as this project's sentences: file, key, value, fix."""
    sentences = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"] if not (isinstance(part, str) and part.startswith("list[")))
        where = next((origin[k] for k in origin if k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.")), source)
        shown = f"{prefix}{key}"
        if fault["type"] == "extra_forbidden":
            unknown = str(fault["loc"][-1])
            sentences.append(f"{where}: unknown key `{shown}`. {nearest(unknown, _field_names(model, fault['loc']))}")
        elif fault["type"] == "missing":
            sentences.append(f"{where}: key `{shown}` is missing. Add it.")
        elif fault["type"] == "value_error":
            at = f"`{shown}`: " if key else ""
            changed = sorted({place for place in origin.values() if place.startswith("ARGS")})
            where = f"{source} with {', '.join(changed)}" if changed and not key else where
            sentences.append(f"{where}: {at}{fault['ctx']['error']!s}.")
        elif fault["type"] in ("too_short", "too_long"):
            bound = fault["ctx"].get("min_length", fault["ctx"].get("max_length"))
            some = "at least" if fault["type"] == "too_short" else "at most"
            sentences.append(
                f"{where}: `{shown}` must have {some} {bound} value{'s' * (bound != 1)}, got {fault['input']!r}."
            )
        else:
            reason = fault["msg"].replace("Input should be", "must be")
            sentences.append(f"{where}: `{shown}` {reason}, got {fault['input']!r}.")
    return sentences


def _validated(
    model: type[BaseModel], values: dict[str, Any], source: str, overrides: Mapping[str, tuple[Any, str]], prefix: str = ""
) -> Any:
    """Apply dotted overrides, each with the place it came from, and validate."""
    values = dict(values)
    for dotted, (value, _) in overrides.items():
        _set_dotted(values, dotted, value)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        origin = {key: place for key, (_, place) in overrides.items()}
        raise ConfigError(*_sentences(error, model, source, origin, prefix)) from error


class _Faults(list[str]):
    """Collects the faults of several steps, so that a user sees all of them at once."""

    def attempt(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except ConfigError as error:
            self.extend(fault for fault in error.faults if fault not in self)
            return None


def load_part(
    kind: str, name: str, overrides: Mapping[str, tuple[Any, str]] | None = None, asked_by: str | None = None
) -> Any:
    """Load one `Recipe`, `DataConfig` or `ModelConfig` by the stem of its file; `asked_by` is the place that names it."""
    types: dict[str, type[BaseModel]] = {"recipes": Recipe, "data": DataConfig, "models": ModelConfig}
    model = types[kind]
    prefix = {"recipes": "recipe.", "data": "data.", "models": ""}[kind] if overrides else ""
    values, source = read_file(kind, name, asked_by)
    return _identified(_validated(model, values, source, overrides or {}, prefix), f"{source}: `{prefix}name`")


def _identified(part: Any, where: str) -> Any:
    """The part with the identity of the user's own code, where it names some."""
    if getattr(part, "source", "") != "python":
        return part
    try:
        return part.model_copy(update={"code": identity_of(part.name)})
    except (ValueError, OSError) as error:
        raise ConfigError(f"{where}: {error}.") from error


def checked_settings(recipe: str, **changes: Any) -> dict[str, Any]:
    """Changes of a recipe's fields, without those that are None, after validation.

    Raises
    ------
    ConfigError
        Naming the field and the value.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    changed = load_part("recipes", recipe, {key: (value, f"--{key.replace('_', '-')}") for key, value in given.items()})
    return {key: getattr(changed, key) for key in given}


def load_experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Load the experiment ``configs/experiments/<name>.yaml``, override it and validate it with everything it refers to.

    `overrides` are dotted keys, as `parse_overrides` gives them: ``{"recipe.steps": 50, "seeds": [0]}``.

    Raises
    ------
    ConfigError
        With one sentence per fault, all faults at once.
    """
    values, source = read_file("experiments", name)
    # Dotted keys inside the file, then those of the command line, which win.
    changes: dict[str, tuple[Any, str]] = {key: (value, source) for key, value in values.items() if "." in key}
    values = {key: value for key, value in values.items() if "." not in key}
    changes |= {key: (value, f"ARGS {key}={value}") for key, value in (overrides or {}).items()}
    notes = _fit_to_args(values, changes, overrides or {})

    own = {
        key: change for key, change in changes.items() if key.partition(".")[0] not in ("recipe", "data") or "." not in key
    }
    faults = _Faults()
    file = faults.attempt(lambda: _validated(ExperimentFile, values, source, own))

    models, data, recipes = (
        _named(kind, key, own.get(key, (values.get(key), source)), changes, faults)
        for kind, key in (("models", "models"), ("data", "data"), ("recipes", "recipe"))
    )
    known_models = {key: model for key, model in models.items() if model}
    own_names = _own_recipes(file.recipes, known_models, source, faults) if file else {}
    own_recipes = {
        entry: faults.attempt(partial(load_part, "recipes", entry, None, source))
        for entry in dict.fromkeys(own_names.values())
    }
    resized = changes.get("data.image_size", (None, ""))[1]
    faults.extend(_geometry_faults(known_models, [entry for entry in data.values() if entry], resized))
    if faults:
        raise ConfigError(*faults)

    experiment = Experiment(
        name=name,
        models=models,
        data=data,
        recipe_name=file.recipe,
        recipe=recipes[file.recipe],
        own={model: _own(own_recipes[entry], recipes[file.recipe], file.equal_images) for model, entry in own_names.items()},
        **{key: getattr(file, key) for key in Asked.model_fields},
        notes=notes,
    )
    varied_by = next((place for key, (_, place) in own.items() if key.partition(".")[0] == "vary"), None)
    for setting in varied_settings(experiment):
        faults.attempt(partial(with_settings, experiment, setting, varied_by))
    if faults:
        raise ConfigError(*faults)
    return experiment


def _named(
    kind: str, key: str, named: tuple[Any, str], changes: Mapping[str, tuple[Any, str]], faults: _Faults
) -> dict[str, Any]:
    """What a key names, even in a file that has other faults, so that theirs are reported too."""
    value, asked_by = named
    inside = {other.removeprefix(f"{key}."): change for other, change in changes.items() if other.startswith(f"{key}.")}
    return {
        entry: faults.attempt(partial(load_part, kind, entry, {} if key == "models" else inside, asked_by))
        for entry in (value if isinstance(value, list) else [value])
        if isinstance(entry, str)
    }


def _own_recipes(
    recipes: Mapping[str, str], models: Mapping[str, ModelConfig], source: str, faults: list[str]
) -> dict[str, str]:
    """The file of each model's own recipe."""
    if not recipes:
        return {}
    known = {*models, *(model.family for model in models.values())}
    faults += [
        f"{source}: `recipes` names {key!r}, which is neither one of `models` nor the family of one. {nearest(key, known)}"
        for key in recipes
        if key not in known
    ]
    faults += [
        f"{source}: `recipes` names no recipe for {name} nor for its family, {model.family}. Add one."
        for name, model in models.items()
        if name not in recipes and model.family not in recipes
    ]
    found = {name: recipes.get(name, recipes.get(model.family, "")) for name, model in models.items()}
    return {name: recipe for name, recipe in found.items() if recipe}


def _own(own: Recipe, shared: Recipe, equal_images: bool) -> Recipe:
    """A model's own recipe as it runs beside the shared one, which says how runs are computed and how long they are."""
    steps = max(1, round(shared.steps * shared.batch_size / own.batch_size)) if equal_images else own.steps
    shared_keys = {key: getattr(shared, key) for key in ("budget", "precision", "compile")}
    return own.model_copy(update={"steps": steps, "evaluations": min(shared.evaluations, steps), **shared_keys})


def _fit_to_args(values: dict[str, Any], changes: dict[str, tuple[Any, str]], args: Mapping[str, Any]) -> list[str]:
    """Make what the file holds fit a smaller experiment that ARGS asks for, in place; what was changed, as sentences.

    What does not look as it should is left to validation.
    """
    notes = []
    recipe = changes.get("recipe", (values.get("recipe"), ""))[0]
    with suppress(ConfigError):
        own = read_file("recipes", recipe)[0]
        own = {key: own.get(key, Recipe.model_fields[key].default) for key in ("steps", "evaluations")}
        steps, evaluations = (changes.get(f"recipe.{key}", (own[key], ""))[0] for key in ("steps", "evaluations"))
        from_args = {"recipe.steps", "recipe.evaluations"} & set(args)
        if from_args and type(steps) is type(evaluations) is int and 0 < steps < evaluations:
            changes["recipe.evaluations"] = (steps, f"ARGS recipe.steps={steps}")
            notes.append(f"`recipe.evaluations` is lowered from {evaluations} to {steps}, the steps of a run.")
    asked, reference = args.get("models"), values.get("reference")
    if isinstance(asked, list) and asked and reference not in asked and "reference" not in args:
        changes["reference"] = (asked[0], f"ARGS models={asked}")
        notes.append(f"`reference` is {asked[0]}, since ARGS leaves out {reference}; `reference=…` in ARGS names another.")
    if "expect" in args or not isinstance(values.get("expect"), list):
        return notes
    left_out = {}
    for key in ("models", "train_fractions"):
        asked = args.get(key)
        listed = values.get(key, ExperimentFile.model_fields[key].default)
        if isinstance(asked, list) and isinstance(listed, list):
            left_out[key] = [entry for entry in listed if entry not in asked]
    kept = []
    for entry in values["expect"]:
        missing = _names_of(entry, left_out) if isinstance(entry, dict) else []
        if missing:
            notes.append(f"The expectation {entry.get('claim')!r} is passed over: ARGS leaves out {', '.join(missing)}.")
        else:
            kept.append(entry)
    values["expect"] = kept
    return notes


def _names_of(expectation: dict[str, Any], left_out: Mapping[str, list[Any]]) -> list[str]:
    """Models and the fraction that an expectation speaks of and ARGS left out."""
    models = expectation.get("models")
    spoken = [*(models if isinstance(models, list) else []), expectation.get("against")]
    fraction = expectation.get("train_fraction", 1.0)
    found = [str(name) for name in dict.fromkeys(spoken) if name in left_out.get("models", [])]
    return found + ([f"the fraction {fraction}"] if fraction in left_out.get("train_fractions", []) else [])


def _geometry_faults(models: Mapping[str, ModelConfig], data: Iterable[DataConfig], resized: str) -> list[str]:
    """Patches that do not divide the images; `resized` is the place that set another image size, if one did."""
    return [
        f"{f'{resized}: ' if resized else ''}configs/models/{model_name}.yaml: `geometry.patch_size` must divide the image "
        f"size, got {model.geometry.patch_size} for images of {dataset.image_size} pixels. Set another patch size, or set "
        f"`data.image_size` to a multiple of it."
        for dataset in data
        for model_name, model in models.items()
        if model.geometry.patch_size and dataset.image_size % model.geometry.patch_size
    ]


# ----------------------------------------------------------------------------------------------------------- vary, cells
def varied_settings(experiment: Experiment) -> list[dict[str, Any]]:
    """Every combination of the values under ``vary``; one empty combination where nothing varies."""
    return [dict(zip(experiment.vary, values, strict=True)) for values in product(*experiment.vary.values())]


def with_settings(
    experiment: Experiment, setting: Mapping[str, Any], source: str | None = None
) -> tuple[Recipe, dict[str, DataConfig]]:
    """The recipe and data of one combination of ``vary``.

    Raises
    ------
    ConfigError
        If a key is not of the form ``recipe.…`` or ``data.…``, is unknown, or a value does not fit.
    """
    source = source or f"configs/experiments/{experiment.name}.yaml"
    changes: dict[str, dict[str, tuple[Any, str]]] = {"recipe": {}, "data": {}}
    for key, value in setting.items():
        part, _, inner = key.partition(".")
        if part not in changes or not inner:
            raise ConfigError(f"{source}: `vary` takes keys that begin with `recipe.` or `data.`, got {key!r}.")
        changes[part][inner] = (value, f"{source} vary")
    recipe = _validated(Recipe, experiment.recipe.model_dump(), source, changes["recipe"], "recipe.")
    data = {
        name: _validated(DataConfig, entry.model_dump(), source, changes["data"], "data.")
        for name, entry in experiment.data.items()
    }
    if "data.name" in setting:
        data = {name: _identified(entry, f"{source} vary: `data.name`") for name, entry in data.items()}
    if "data.image_size" in setting and any(entry.permute_pixels is not None for entry in data.values()):
        raise ConfigError(
            f"{source}: `vary` takes several `data.image_size` under `data.permute_pixels`, but a permutation is of one "
            "image size, and those of two have nothing in common. Delete one of them, or make two experiments."
        )
    return recipe, data


def first_lines(kind: str) -> dict[str, str]:
    """The first comment of each file of a kind, by name."""
    lines = {}
    for name in _stems(kind):
        if not NAME.fullmatch(name):
            lines[name] = f"cannot be used: {NAME_RULE}; rename it"
            continue
        try:
            with open(configs_dir() / kind / f"{name}.yaml", encoding="utf-8", errors="replace") as file:
                lines[name] = printable(file.readline(1000).lstrip("# ").rstrip())
        except OSError as error:
            lines[name] = f"cannot be read ({error.strerror})"
    return lines
