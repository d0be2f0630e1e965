"""Configuration: what an experiment, a recipe, a dataset and a model may say. The only place with defaults.

`experiments.config.loading` turns the files under ``configs/`` into these types.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from experiments.config.text import NAME, NAME_RULE, control_character

T = TypeVar("T")
ADDED = object()
Added = Annotated[T, ADDED]
"""A field that came after the first published records. It is hashed only where it differs from its default, so that a new
option renames no run that does not use it: write every new field of what is hashed as ``Added[...]``."""


class _Strict(BaseModel):
    """No unknown key, no coerced type, no control character in a text, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        if found := control_character(value):
            raise ValueError(found)
        return value


# ---------------------------------------------------------------------------------------------------------------- recipe
class Augmentation(_Strict):
    """Random changes of training images, drawn per image and identical for all models."""

    crop_padding: int = Field(0, ge=0, le=256)
    """Pixels of zero padding around the image before a random crop back to its size; 0 is no crop."""
    horizontal_flip: bool = False
    """Mirror left–right with probability ½."""
    resized_crop: Added[float | None] = Field(None, gt=0, le=1)
    """Least share of an image's area in a random crop that is resized to the whole (arXiv 1409.4842, section 6); 0.08 is
    usual. None is no such crop."""
    policy: Added[Literal["none", "trivial_augment", "rand_augment"]] = "none"
    """``trivial_augment``: one of 14 operations per image, of random strength (arXiv 2103.10158, wide space).
    ``rand_augment``: `policy_operations` of them one after the other, all of `policy_strength` (arXiv 1909.13719)."""
    policy_operations: Added[int] = Field(2, ge=1, le=14)
    """Of RandAugment."""
    policy_strength: Added[int] = Field(9, ge=0, le=30)
    """Of RandAugment: from 0 to 30, where an operation is as strong as it gets."""
    erase: Added[float] = Field(0.0, ge=0, le=1)
    """Probability that a random rectangle of an image is set to the data's mean (arXiv 1708.04896)."""
    mixup: Added[float] = Field(0.0, ge=0, le=100)
    """α of the Beta distribution of Mixup (arXiv 1710.09412); 0 is no Mixup."""
    cutmix: Added[float] = Field(0.0, ge=0, le=100)
    """α of the Beta distribution of CutMix (arXiv 1905.04899); 0 is no CutMix. With Mixup, each image has one of the two."""
    mix_probability: Added[float] = Field(1.0, ge=0, le=1)
    """Probability that an image is mixed at all."""
    mix_until: Added[float] = Field(1.0, ge=0, le=1)
    """Share of the steps that mix, from the first on; 0.9 leaves the last tenth unmixed."""

    @model_validator(mode="after")
    def _one_crop(self) -> Augmentation:
        if self.resized_crop is not None and self.crop_padding:
            raise ValueError("`resized_crop` and `crop_padding` are two ways to crop; delete one of them")
        return self


class Recipe(_Strict):
    """Optimiser, schedule, augmentation and budget: what must be identical for all models of a table."""

    steps: int = Field(ge=1, le=100_000_000)
    """Optimiser steps at every train fraction or, with `budget: epochs`, with all training images."""
    budget: Added[Literal["steps", "epochs"]] = "steps"
    """What is equal at all train fractions: the steps, or the epochs, so that fewer images take fewer steps."""
    batch_size: int = Field(ge=2, le=65_536)
    """Images per step, over all devices together; every batch is full."""
    optimizer: str = "adamw"
    """One of `experiments.training.optim.OPTIMIZERS` or of ``timm.optim.list_optimizers()``."""
    optimizer_arguments: Added[dict[str, Any]] = {}
    """Further named arguments of the optimiser."""
    learning_rate: float = Field(gt=0, le=10)
    """Peak rate, after the warm-up."""
    min_learning_rate: float = Field(1e-5, ge=0)
    """The lowest rate that the schedule goes down to."""
    schedule: Added[str] = "cosine"
    """The rate after the warm-up: one of `experiments.training.optim.SCHEDULES`."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the steps with a linearly rising rate."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled decay, where the optimiser has it so; none on norms, biases, class token and position embedding."""
    betas: list[float] = Field([0.9, 0.999], min_length=2, max_length=2)
    """Of Adam and its kin."""
    momentum: Added[float] = Field(0.9, ge=0, lt=1)
    """Of optimisers that have one."""
    clip_grad_norm: float | None = Field(1.0, gt=0)
    """Largest norm of all gradients together; larger ones are scaled down."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes (arXiv 1512.00567, section 7)."""
    ema: Added[float | None] = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is evaluated and kept."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products and convolutions; weights and optimiser stay fp32."""
    compile: Annotated[
        Added[Literal["off", "auto", "default", "reduce-overhead", "max-autotune"]],
        BeforeValidator(lambda value: "off" if value is False else value),  # YAML reads a bare `off` as false
    ] = "off"
    """Mode of ``torch.compile`` for the training step; `auto` is off on CPUs, and on a GPU the faster of the next two."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training images; none by default."""
    evaluations: int = Field(10, ge=1)
    """Evaluations on the validation set, evenly spaced; the last falls on the last step."""

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.evaluations > self.steps:
            raise ValueError(
                f"`evaluations` must not exceed `steps`, got {self.evaluations} > {self.steps}; "
                f"set `recipe.evaluations` to at most {self.steps}"
            )
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"`min_learning_rate` must not exceed `learning_rate`, got {self.min_learning_rate} > {self.learning_rate}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` must lie in [0, 1), got {self.betas}")
        return self


# ------------------------------------------------------------------------------------------------------------------ data
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "image_folder": (
        ("path",),
        "set `data.path` to a folder that holds train/<class>/* and test/<class>/*, or <class>/* alone, as in "
        'ARGS="data.path=/photos"',
    ),
    "arrays": (("path",), "set `data.path` to an .npz file of images and labels"),
    "torchvision": (("name",), "set it to a dataset of torchvision, such as SVHN"),
    "huggingface": (("name", "path"), "set one to a dataset of the hub or a folder of parquet files"),
    "glyphs": (("path",), "set `data.path` to a folder of fonts, such as /usr/share/fonts"),
    "python": (("name",), "set it to what makes the images, as in my_data.py:load"),
}
_NAMED = ("torchvision", "huggingface", "python")


class DataConfig(_Strict):
    """A dataset: where it comes from and the form in which every model sees it."""

    title: str
    """How tables and figures call it."""
    source: str
    """One of `experiments.data.datasets.SOURCES`."""
    name: Added[str | None] = None
    """`torchvision`: one of `experiments.data.torchvision_sets.SETS`; `huggingface`: a dataset of the hub; `python`: what
    makes the images, ``my_data.py:load`` or ``package.module:load``."""
    columns: Added[dict[Literal["image", "label"], str]] = {}
    """`huggingface`: names of the columns, where their types leave it open."""
    arguments: Added[dict[str, Any]] = {}
    """`python`: further named arguments of it; `glyphs`: `characters` and `variants`, see `experiments.data.glyphs`."""
    code: Added[str | None] = None
    """`python`: its code's identity, which loading sets."""
    path: str | None = None
    """Folder of the images below `DATA_DIR`, or an absolute path. Never hashed."""
    image_size: int = Field(ge=4, le=1024)
    """Pixels of a side, the same for every model."""
    store_size: Added[int | None] = Field(None, ge=4, le=2048)
    """Pixels of a side that images are kept with, from which a `resized_crop` is cut; `image_size` by default."""
    crop_fraction: Added[float] = Field(1.0, gt=0, le=1)
    """Share of a kept image's side that is evaluated, around the centre; 0.875 is usual for photos."""
    channels: Literal[1, 3]
    """1 for grey, 3 for colour; images are converted."""
    mean: list[float] = Field(min_length=1, max_length=3)
    """Of pixels in [0, 1], one value a channel; it is subtracted."""
    std: list[float] = Field(min_length=1, max_length=3)
    """Likewise; pixels are divided by it. At least 0.001."""
    permute_pixels: Added[int | None] = Field(None, ge=0)
    """Seed of one fixed permutation of the pixels' positions, the same for every image, fraction and model: neighbours
    are torn apart, and nothing else is lost. It comes last, after all augmentation, which sees the image as it was."""
    test_cut: Added[Literal["random", "blocks"]] = "random"
    """Of digits, which come without a test set: a fifth of each class at random, or the last fifth in the order of the file,
    where images of one writer lie together; see `experiments.data.splits.cut_test`."""

    @property
    def stored_size(self) -> int:
        """Pixels of a side that images are kept with."""
        return self.store_size or self.image_size

    @field_validator("channels", mode="before")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):  # which equals 1 or 0
            raise ValueError(f"must be 1 or 3, got {value}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        for name, values, least in (("mean", self.mean, 0), ("std", self.std, 0.001)):
            if len(values) != self.channels:
                raise ValueError(f"`{name}` must have one value per channel ({self.channels}), got {values}")
            if not all(least <= value <= 1 for value in values):
                raise ValueError(
                    f"`{name}` is of pixels in [0, 1]: each value must lie in [{least}, 1], got {values}; divide by 255"
                )
        if self.stored_size < self.image_size:
            raise ValueError(f"`store_size` must be at least `image_size`, got {self.store_size} < {self.image_size}")
        if self.crop_fraction < 1 and self.stored_size == self.image_size:
            raise ValueError("`crop_fraction` needs a `store_size` above `image_size`, to crop from")
        if self.test_cut != "random" and self.source != "digits":
            raise ValueError(
                f"`test_cut` is for digits, whose file is in the order of its writers; delete it for {self.source}"
            )
        if self.source in _NEEDS and not any(getattr(self, key) for key in _NEEDS[self.source][0]):
            keys, fix = _NEEDS[self.source]
            raise ValueError(f"{' or '.join(f'`{key}`' for key in keys)} is missing: {fix}")
        for key, sources in (("name", _NAMED), ("columns", ("huggingface",)), ("arguments", ("python", "glyphs"))):
            if getattr(self, key) and self.source not in sources:
                raise ValueError(f"`{key}` is for `source: {' or '.join(sources)}`; delete it for {self.source}")
        return self


# ----------------------------------------------------------------------------------------------------------------- model
class Geometry(_Strict):
    """What may differ between models, declared: how an architecture meets images of this size."""

    patch_size: int | None = Field(None, ge=1)
    """Side of a ViT's patch, in pixels."""
    stem: Literal["native", "small"] = "native"
    """``small``: the family's stem for small images, as `baselines` describes it."""


INIT_TITLES = {
    "from_scratch": "",
    "pretrained": "pretrained",
    "linear_probe": "pretrained, frozen",
    "random_features": "random, frozen",
}
"""How a run's start is labelled in its record, and what a model's title then says."""


class ModelConfig(_Strict):
    """A model: the project's own (`scratch`), a reference (`timm`, `torchvision`) or the user's own (`python`)."""

    title: str
    """How tables and figures call it. A model that does not start from scratch has that added to its title."""
    family: str
    """Tables are grouped by it: ViT, ResNet, ConvNeXt, …"""
    source: Literal["scratch", "timm", "torchvision", "python"]
    """Whose model it is: this project's, timm's, torchvision's, or your own."""
    name: str
    """`scratch`: a row of `vit_scratch.VARIANTS`; `timm`: a name that `timm.list_models()` knows; `torchvision`: one of
    its classifiers; `python`: a class or function, ``my_models.py:MyNet`` or ``package.module:build``."""
    geometry: Geometry = Geometry()
    """What the architecture needs to meet images of this size."""
    arguments: dict[str, Any] = {}
    """Further named arguments of the model's constructor."""
    init: Added[Literal["from_scratch", "pretrained"]] = "from_scratch"
    """``pretrained``: all but the head begins with the values of `weights`, the head with zeros (paper, section 3.2)."""
    weights: Added[str | None] = None
    """A file below `DATA_DIR`, or an absolute path; ``timm:<name>`` takes those that timm publishes under a name, and
    ``run:<experiment>/<model or run id>`` those of a finished run, whose cost is charged."""
    layout: Added[Literal["timm", "torchvision", "hf", "npz"] | None] = None
    """`scratch`: whose names the file of weights has."""
    train: Added[Literal["all", "head"]] = "all"
    """``head``: a linear classifier on frozen features, which keep the behaviour of evaluation."""
    code: Added[str | None] = None
    """`python`: its code's identity, which loading sets."""

    @property
    def init_label(self) -> str:
        """What a record calls this start: a key of `INIT_TITLES`."""
        if self.train == "head":
            return "linear_probe" if self.init == "pretrained" else "random_features"
        return self.init

    @model_validator(mode="before")
    @classmethod
    def _title_says_the_start(cls, values: Any) -> Any:
        """Add to the title what no table or figure may leave out; once, however often a config is read again."""
        if not isinstance(values, dict) or not isinstance(values.get("title"), str):
            return values
        fields = {key: values.get(key, cls.model_fields[key].default) for key in ("init", "train")}
        words = INIT_TITLES.get(cls.model_construct(**fields).init_label, "")
        ending = f", {words}" if words else ""
        return {**values, "title": values["title"].removesuffix(ending) + ending}

    @model_validator(mode="after")
    def _start_is_consistent(self) -> ModelConfig:
        if self.init == "pretrained" and not self.weights:
            raise ValueError(
                "`weights` is missing: `init: pretrained` needs a file below DATA_DIR, an absolute path, timm:<name> or "
                "run:<experiment>/<model>"
            )
        if self.init == "from_scratch" and (self.weights or self.layout):
            raise ValueError("`weights` and `layout` are for `init: pretrained`; set that, or delete them")
        if self.weights and self.weights.startswith("run:") and not re.fullmatch(r"run:[\w-]+/[\w.-]+", self.weights):
            raise ValueError(f"`weights` of a run are run:<experiment>/<model or run id>, got {self.weights!r}")
        from_file = self.weights is not None and not self.weights.startswith(("timm:", "run:"))
        if self.source == "scratch" and from_file and self.layout is None:
            raise ValueError("`layout` is missing: say whose names the file has: timm, torchvision, hf or npz")
        if self.layout is not None and (self.source != "scratch" or not from_file):
            raise ValueError("`layout` is for files of weights of a scratch model; delete it")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.source == "scratch" and self.geometry.patch_size is None:
            raise ValueError("`geometry.patch_size` is missing: a scratch ViT needs it")
        if self.source in ("torchvision", "python") and self.geometry != Geometry():
            raise ValueError("`geometry` is for models of this project and of timm; use `arguments`")
        if self.source == "scratch" and self.geometry.stem != "native":
            raise ValueError("`geometry.stem` is for convolutional models; delete it")
        clash = sorted(
            {"image_size", "img_size", "num_classes", "in_chans", "in_channels", "channels"} & set(self.arguments)
        )
        if clash:
            raise ValueError(f"`arguments` must not set {', '.join(clash)}: these belong to the data, for all models alike")
        return self


# ------------------------------------------------------------------------------------------------------------ experiment
def known_metrics() -> tuple[str, ...]:
    """Metrics of a record that an expectation may speak of."""
    from experiments.metrics import METRICS

    return (*(f"{split}/{name}" for split in ("test", "val") for name in METRICS), "val_best/top1", "val_best/nll")


class Expectation(_Strict):
    """A claim made before the run, which the report then checks: ``at_least`` ≤ value ≤ ``at_most``."""

    claim: str
    """The expectation in words."""
    models: list[str] = Field(min_length=1)
    """Models of which each must meet the bounds."""
    against: str | None = None
    """If given, the value is the difference of means to this model."""
    metric: str = "test/top1"
    """``test/`` or ``val/`` and one of `experiments.metrics.METRICS`."""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """At which data budget."""
    where: dict[str, Any] = {}
    """Values of keys of `vary`, and under ``data`` the name of a dataset: what it speaks of, everything if empty."""
    minus: dict[str, Any] = {}
    """Other values of the same keys of `vary`: from the value under `where` that under these is taken away."""
    at_least: float | None = None
    """Lower bound; accuracies are shares, 0.01 is a point."""
    at_most: float | None = None
    """Upper bound."""

    @model_validator(mode="after")
    def _bounded(self) -> Expectation:
        if self.at_least is None and self.at_most is None:
            raise ValueError("an expectation needs `at_least` or `at_most`")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"`at_least` must not exceed `at_most`, got {self.at_least} > {self.at_most}")
        if self.metric not in known_metrics():
            raise ValueError(f"`metric` must be one of {', '.join(known_metrics())}, got {self.metric!r}")
        if self.minus and (set(self.minus) != set(self.where) - {"data"} or "data" in self.minus):
            raise ValueError(f"`minus` needs the keys of `vary` in `where` and no others, got {self.minus} for {self.where}")
        return self


class Tuning(_Strict):
    """Track B: an equal tuning budget for every model, drawn from one space that knows nothing of models."""

    trials: int = Field(5, ge=2)
    """Quasi-random points (Halton), the same for every model."""
    seed: int = Field(1_000_003, ge=0)
    """Seed of the trials, which no reported run shares."""
    learning_rate: list[Annotated[float, Field(gt=0)]] = Field([2e-4, 4e-3], min_length=2, max_length=2)
    """Bounds of the peak rate, log-uniform."""
    weight_decay: list[Annotated[float, Field(gt=0)]] = Field([0.01, 0.2], min_length=2, max_length=2)
    """Bounds of the decay, log-uniform."""
    augmentation: list[Augmentation] = Field([Augmentation()], min_length=1)
    """Choices, equally likely."""
    optimizers: Added[list[str]] = []
    """Choices, equally likely; none: the recipe's own."""

    @model_validator(mode="after")
    def _ordered(self) -> Tuning:
        for name in ("learning_rate", "weight_decay"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"`{name}` must be [low, high], got [{low}, {high}]")
        return self


class Execution(_Strict):
    """How runs are carried out: what changes their results by rounding at most, and is never hashed."""

    threads: int = Field(1, ge=1, le=1024)
    """CPU threads of one run: a recorded setting, so that every engine gives the same bits."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Optimiser steps between checkpoints; by default they are taken by time."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Most images of one forward and backward pass; a larger batch is trained in parts (gradient accumulation), whose result
    is the whole batch's up to rounding."""
    on_oom: Literal["fail", "split"] = "fail"
    """Out of memory, end the cell as failed, or train its batches in twice as many parts."""
    deterministic: bool = False
    """Have torch take deterministic algorithms alone, so that a GPU too gives the same bits again."""
    nudge: int | None = Field(None, ge=0)
    """Move each initial weight to the number beside it, up or down as this seed has it: shows what rounding alone does."""


class Asked(Execution):
    """The keys of an experiment, as its file and the resolved experiment have them alike: a further key is a line here."""

    question: str
    """What the experiment answers, as reports print it."""
    train_fractions: list[Annotated[float, Field(gt=0, le=1)]] = Field([1.0], min_length=1)
    """Data budgets: shares of all images but the test set, nested and stratified."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1)
    """Each seed draws weights, splits, order and augmentation; marks take three."""
    reference: str
    """The model that others are compared with."""
    track: Literal["identical", "tuned", "own", "random"] = "identical"
    """``tuned``: a second block of every table, in which each model has its own best of equally many trials. ``own``: one in
    which each model has the recipe that `recipes` names for it. ``random``: beside the shared recipe, all models are trained
    with the same `tuning.trials` recipes from one space, of which none is chosen."""
    tuning: Tuning = Tuning()
    """The space of tracks ``tuned`` and ``random``."""
    recipes: dict[str, str] = {}
    """`own`: a recipe's file by the name of a model or, for all that are not named, by family."""
    equal_images: bool = True
    """`own`: set each recipe's steps so that it sees as many images as the shared one does."""
    equivalence_margin: float = Field(0.005, gt=0, lt=1)
    """Differences of accuracy below it do not matter: models are called equivalent inside it. Never hashed."""
    target_val_top1: float | None = Field(None, gt=0, le=1)
    """Validation accuracy, fixed in advance, for the time that it takes to reach it. Never hashed."""
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Values of any keys of ``recipe.`` or ``data.``: each combination is a labelled block of every table."""
    expect: list[Expectation] = []
    """What is expected before the run; reports check it."""

    def faults(self, models: Collection[str], datasets: Collection[str]) -> list[str]:
        """What does not fit together, one clause each."""
        faults = []
        for key in ("models", "data", "train_fractions", "seeds"):
            values = getattr(self, key)
            if isinstance(values, list) and len(set(values)) != len(values):
                faults.append(f"`{key}` must not repeat a value, got {values}")
        if self.track != "identical" and self.vary:
            faults.append(f"`vary` and `track: {self.track}` cannot be combined; make two experiments")
        if bool(self.recipes) != (self.track == "own"):
            faults.append("`recipes` and `track: own` go together: set both, or none of them")
        if self.track in ("tuned", "random") and self.tuning.seed in self.seeds:
            faults.append(f"`tuning.seed` must not be one of `seeds`, got {self.tuning.seed}")
        if self.reference not in models:
            faults.append(f"`reference` must be one of `models` ({', '.join(models)}), got {self.reference!r}")
        for index, expectation in enumerate(self.expect):
            for name in [*expectation.models, *([expectation.against] if expectation.against else [])]:
                if name not in models:
                    faults.append(f"`expect.{index}` names {name!r}, which is not one of `models` ({', '.join(models)})")
            known = {**self.vary, "data": datasets}
            for key, value in [*expectation.where.items(), *expectation.minus.items()]:
                if value not in known.get(key, []):
                    faults.append(
                        f"`expect.{index}` speaks of {key}={value}, which the experiment has not: "
                        f"{f'it has {known[key]}' if key in known else f'`vary` has no key {key}'}"
                    )
        return faults


class ExperimentFile(Asked):
    """The keys of a file in ``configs/experiments``; names are looked up afterwards."""

    models: list[str] = Field(min_length=1)
    """Files of ``configs/models``, without their ending; tables show them in this order."""
    data: str | Annotated[list[str], Field(min_length=1)]
    """One or more files of ``configs/data``."""
    recipe: str
    """A file of ``configs/recipes``: what all models share."""

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentFile:
        if faults := self.faults(self.models, [self.data] if isinstance(self.data, str) else self.data):
            raise ValueError("; ".join(faults))
        return self


class Experiment(Asked):
    """A named question with everything it refers to, resolved and valid."""

    name: str
    models: dict[str, ModelConfig] = Field(min_length=1)
    data: dict[str, DataConfig] = Field(min_length=1)
    recipe_name: str
    recipe: Recipe
    own: dict[str, Recipe] = {}
    """Recipes of the track `own`, by model."""
    notes: list[str] = Field([], exclude=True)
    """What was changed to fit the overrides, as sentences for the screen."""
    args: str = ""
    """The overrides as the user typed them, so that the command can be repeated. Never hashed."""

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        faults = self.faults(self.models, list(self.data))
        for name in (self.name, self.recipe_name, *self.models, *self.data):
            if not NAME.fullmatch(name):
                faults.append(f"{name!a} is not a name: {NAME_RULE}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def execution(self) -> Execution:
        """How its runs are carried out, apart from what is asked."""
        return Execution(**{name: getattr(self, name) for name in Execution.model_fields})

    @property
    def command(self) -> str:
        """What to type to run the experiment again as it was run."""
        return repeat_command(self.name, self.args)


def repeat_command(name: str, args: str) -> str:
    """The command that runs an experiment with these overrides: ``make experiment NAME=smoke ARGS="seeds=[0]"``."""
    return f"make experiment NAME={name}" + (f" ARGS={quoted(args)}" if args else "")


def quoted(args: str) -> str:
    """A text as one word of a shell, between double quotes where these leave it as it is."""
    return shlex.quote(args) if set(args) & set('"$`\\!') else f'"{args}"'


def join_words(words: Iterable[str]) -> str:
    """Overrides as the one text that ``ARGS`` is: split as a shell splits, it gives the same words."""
    return " ".join(shlex.quote(word) if set(word) & set(" \t\r\n'\"\\") else word for word in words)
