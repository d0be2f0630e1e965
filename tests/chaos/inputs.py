"""Malformed configs, images and archives: refused in one message, nothing started, nothing written elsewhere."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import struct
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from experiments.__main__ import main
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT
from experiments.config.schema import ExperimentFile, ModelConfig, Recipe
from experiments.data import datasets
from experiments.data.download import unpack
from experiments.training import run as procedure
from experiments.training.outcome import Outcome
from tests.chaos import pictures

Verdict = tuple[str, str]
"""How a command ended (``refused``, ``accepted``, ``traceback``, ``wrong exit``), and what it printed."""


@contextlib.contextmanager
def no_cell_runs(started: list[str]) -> Iterator[None]:
    """Let every cell that would be run only leave its name."""

    def note(cell: Any, folder: Path) -> Outcome:
        started.append(str(cell.run_id))
        return Outcome("interrupted")

    with mock.patch.object(procedure, "run", note):
        yield


def call(arguments: list[str], variables: dict[str, str]) -> Verdict:
    """The command line in this process."""
    told, exit_code = io.StringIO(), None
    datasets._load.cache_clear()  # every command of a user reads its data anew
    try:
        with (
            mock.patch.dict(os.environ, variables),
            mock.patch.object(sys, "argv", ["experiments", *arguments]),
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
        ):
            exit_code = main()
    except BaseException as error:  # whatever comes out here, a user would see as a traceback
        return "traceback", f"{type(error).__name__}: {error}\n{told.getvalue()}"
    text = told.getvalue()
    if "Traceback (most recent call last)" in text:
        return "traceback", text
    if exit_code == 2:
        return ("refused", text) if "error" in text else ("wrong exit", f"no message: {text}")
    return ("accepted" if exit_code in (0, 1) else "wrong exit"), f"{exit_code}: {text}"


# --------------------------------------------------------------------------------------------------------------- configs
GARBAGE = st.one_of(st.none(), st.booleans(), st.text(max_size=20), st.binary(max_size=20), st.lists(st.none(), max_size=3))
NO_NUMBER = st.one_of(
    st.none(), st.booleans(), st.text(max_size=20), st.lists(st.integers()), st.dictionaries(st.text(max_size=3), st.none())
)
NO_COUNT = NO_NUMBER | st.integers(max_value=0) | st.floats() | st.integers(min_value=2**63)
NO_NAME = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=30).filter(lambda text: text not in KNOWN), st.lists(st.none()),
    st.sampled_from(["../../etc/passwd", "/dev/zero", "..", "a\0b", "x" * 5000, "$(touch pwned)", "smoke\n", "digits.yaml"]),
)  # fmt: skip
KNOWN = {path.stem for path in (ROOT / "configs").rglob("*.yaml")}
WRONG_VALUES: dict[tuple[str, str], dict[str, st.SearchStrategy[Any]]] = {
    ("experiments", "smoke"): {
        "question": st.none() | st.integers(),
        "models": NO_NAME | st.just([]) | st.lists(NO_NAME, min_size=1, max_size=3) | st.just(["resnet_micro"] * 2),
        "data": st.none() | st.just([]) | NO_NAME,
        "recipe": NO_NAME,
        "reference": NO_NAME,
        "seeds": NO_COUNT | st.just([]) | st.lists(st.integers(max_value=-1), min_size=1, max_size=3) | st.just([1, 1]),
        "train_fractions": NO_COUNT
        | st.just([])
        | st.lists(st.floats(min_value=1.001) | st.floats(max_value=0), min_size=1),
        "track": GARBAGE,
        "on_oom": GARBAGE,
        "deterministic": st.text(max_size=9) | st.integers() | st.lists(st.booleans()),
        "threads": NO_COUNT | st.integers(min_value=1025),
        "micro_batch_size": NO_COUNT.filter(lambda value: value is not None),
        "vary": st.integers() | st.just({"recipe.nothing": [1]}) | st.just({"seeds": [1]}) | st.just({"recipe.steps": []}),
    },
    ("recipes", "digits"): {
        "steps": NO_COUNT,
        "batch_size": NO_COUNT | st.just(1) | st.integers(min_value=65_537),
        "learning_rate": NO_NUMBER | st.floats(max_value=0) | st.just(float("nan")) | st.floats(min_value=10.1),
        "betas": NO_NUMBER | st.lists(st.floats(min_value=1), min_size=2, max_size=2),
        "warmup_fraction": NO_NUMBER | st.floats(min_value=1) | st.floats(max_value=-0.001),
        "precision": GARBAGE | st.just("fp64"),
        "optimizer": GARBAGE | st.just("sgd9"),
        "evaluations": NO_COUNT | st.integers(min_value=10_000_000, max_value=2**40),
        "augmentation": st.integers() | st.just({"crop_paddin": 1}) | st.just({"crop_padding": -1}),
    },
    ("data", "digits"): {
        "source": GARBAGE | st.just("imagenet21k"),
        "image_size": NO_COUNT | st.just(9) | st.integers(min_value=100_000),
        "channels": NO_NUMBER | st.sampled_from([0, 2, 4, 3.0]),
        "mean": NO_NUMBER | st.just([0.1, 0.2, 0.3]) | st.lists(st.floats(min_value=1.01), min_size=1, max_size=1),
        "std": NO_NUMBER | st.just([0.0]) | st.just([-1.0]) | st.lists(st.floats(min_value=1.01), min_size=1, max_size=1),
    },
    ("models", "resnet_micro"): {
        "source": GARBAGE | st.just("hub"),
        "name": NO_NAME,
        "family": st.none() | st.integers(),
        "geometry": st.integers() | st.just({"stem": "tiny"}) | st.just({"patch_size": 0}),
        "arguments": st.integers() | st.just({"num_classes": 3}) | st.just({"no_such_argument": 1}),
    },
}
UNKNOWN_KEY = st.text(min_size=1, max_size=12).filter(
    lambda key: not {key, key.partition(".")[0]} & {*ExperimentFile.model_fields, *Recipe.model_fields,
                                                     *ModelConfig.model_fields, "recipe", "data"}
)  # fmt: skip
NO_YAML = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [
            b"", b"\x00", b"- a\n- b\n", b"steps: [1,\n", b"a: &x [1]\nb: *x\n", b"steps: 1\nsteps: 2\n", b"\t a: 1",
            b"steps: !!python/object/apply:os.system ['touch pwned']\n", b"{" * 5000, b"a: " + b"[" * 3000, b"\xff\xfe\x00",
            b"? {a: b}\n: 1\n", b"steps: 0x" + b"f" * 9999, b"<<: {a: 1}\n", b"%YAML 9.9\n---\n", b"a: 2024-99-99\n",
            b"1: 2\n", b"steps: 1e999\n", b"--- 1\n--- 2\n", b"a: !!binary x\n", b"a: !!set {x}\n", b"steps: .nan\n",
        ]
    ),
)  # fmt: skip


@st.composite
def malformed(draw: st.DrawFn) -> tuple[str, str, bytes | dict[str, Any], list[str]]:
    """A file to be spoilt, by its kind and stem: its new bytes or its new values; or words that are given as ARGS."""
    kind, stem = draw(st.sampled_from(sorted(WRONG_VALUES)))
    way = draw(st.sampled_from(["value", "value", "key", "missing", "text", "args"]))
    if way == "text":
        return kind, stem, draw(NO_YAML), []
    values = WRONG_VALUES[(kind, stem)]
    if way == "value":
        key = draw(st.sampled_from(sorted(values)))
        return kind, stem, {key: draw(values[key])}, []
    if way == "missing":
        return kind, stem, {"": draw(st.integers(0, 2))}, []
    if way == "key":
        return kind, stem, {draw(UNKNOWN_KEY): draw(GARBAGE)}, []
    words = st.one_of(
        st.text(max_size=30).filter(lambda text: text.strip() and "=" not in text and not text.startswith("-")),
        st.sampled_from(["recipe.steps=", "seeds=[", "=1", "recipe..steps=1", "recipe.steps=!!x", "a b=c", "'", "seeds=[0x]",
                         "recipe=5", "models.0=x", "recipe.steps.more=1", "name=x", "threads=1e9", "vary=[1]", "data={}"]),
    )  # fmt: skip
    return "", "", b"", draw(st.lists(words, min_size=1, max_size=2))


def configs(place: Path, examples: int, seed: int = 0) -> dict[str, Any]:
    """Run a spoilt experiment so often. Each is malformed by construction and must end in one message and exit code 2."""
    shutil.copytree(ROOT / "configs", place / "configs")
    smoke = place / "configs" / "experiments" / "smoke.yaml"  # what it overrides would hide what is spoilt in the recipe
    kept = [line for line in smoke.read_text(encoding="utf-8").splitlines() if not line.startswith("recipe.")]
    smoke.write_text("\n".join(kept), encoding="utf-8")
    variables = {name: str(place / name.lower()) for name in ("RUNS_DIR", "REPORTS_DIR", "DATA_DIR")}
    variables |= {"CONFIGS_DIR": str(place / "configs"), "DEVICE": "cpu", "WANDB_MODE": "disabled"}
    started: list[str] = []
    counts: Counter[str] = Counter()
    shown: list[str] = []

    def spoil(path: Path, change: bytes | dict[str, Any]) -> None:
        if isinstance(change, bytes):
            path.write_bytes(change)
            return
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, value in change.items():
            if key:
                values[key] = value
            else:
                needed = [name for name in ("models", "recipe", "reference", "steps", "batch_size", "learning_rate", "title",
                                            "source", "image_size", "mean", "family", "name") if name in values]  # fmt: skip
                del values[needed[int(value) % len(needed)]]
        path.write_text(yaml.safe_dump(values), encoding="utf-8")

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(malformed())
    def each(case: tuple[str, str, bytes | dict[str, Any], list[str]]) -> None:
        kind, stem, change, words = case
        path = place / "configs" / kind / f"{stem}.yaml"
        before = path.read_bytes() if stem else b""
        try:
            if stem:
                spoil(path, change)
            verdict, text = call(["run", "smoke", *words, "--jobs", "1"], variables)
        finally:
            if stem:
                path.write_bytes(before)
        counts[verdict] += 1
        if verdict != "refused":
            shown.append(f"{verdict}: {kind}/{stem} {change!r} {words!r}: {text[-300:]}"[:700])

    with no_cell_runs(started):
        each()
    outside = [str(path) for path in place.rglob("*") if path.name in ("pwned", "record.json")]
    return {
        "malformed_configs": sum(counts.values()),
        "refused": counts["refused"],
        "tracebacks": counts["traceback"],
        "not_refused": counts["accepted"] + counts["wrong exit"],
        "runs_started": len(started),
        "files_outside": len(outside),
        "examples": shown[:10],
    }


# ---------------------------------------------------------------------------------------------------------------- images
def images(place: Path, examples: int, seed: int = 0) -> dict[str, Any]:
    """Put one spoilt file after another among whole photos, and run an experiment on the folder."""
    draws = random.Random(seed)
    photos = place / "photos"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
        for number in range(8):
            (photos / name / f"{number}.png").write_bytes(pictures.whole(draws, "PNG"))
    spoilt = [pictures.spoilt(draws) for _ in range(examples)]

    def each(number: int) -> Path:
        suffix, content = spoilt[number]
        path = photos / "cat" / f"spoilt{suffix}"
        path.write_bytes(content)
        return path

    arguments = ["data=image_folder", f"data.path='{photos}'", "data.image_size=8"]
    return {"malformed_images": examples} | _each_in_turn(place, examples, each, arguments)


def idx_archives(place: Path, examples: int, seed: int = 0) -> dict[str, Any]:
    """Spoil one packed file after another of a dataset in the IDX layout."""
    draws = random.Random(seed)
    folder = place / "idx"
    folder.mkdir(parents=True)
    whole: dict[str, bytes] = {}
    for split, count in (("train", 40), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = np.zeros((count, 28, 28), np.uint8)
        contents = {"images-idx3": struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes()}
        contents["labels-idx1"] = struct.pack(">II", 2049, count) + labels.tobytes()
        for kind, content in contents.items():
            whole[f"{split}-{kind}-ubyte.gz"] = gzip.compress(content, mtime=0)
    for name, content in whole.items():
        (folder / name).write_bytes(content)

    def each(number: int) -> Path:
        name = draws.choice(sorted(whole))
        content = bytearray(whole[name])
        way = draws.choice(["cut", "flip", "empty", "noise", "another", "bomb", "short"])
        if way == "cut":
            content = content[: draws.randrange(1, len(content))]
        elif way == "flip":
            content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
        elif way == "empty":
            content = bytearray()
        elif way == "noise":
            content = content[:10] + bytearray(draws.randbytes(100))
        elif way == "another":
            content = bytearray(whole[draws.choice(sorted(whole))])
        elif way == "bomb":
            content = bytearray(gzip.compress(bytes(200_000_000), 1, mtime=0))
        else:
            content = bytearray(gzip.compress(gzip.decompress(bytes(content))[: draws.randrange(20)], mtime=0))
        (folder / name).write_bytes(content)
        return folder / name

    def mend(path: Path) -> None:
        path.write_bytes(whole[path.name])

    arguments = ["data=fashion_mnist", f"data.path='{folder}'", "data.image_size=8"]
    return {"malformed_archives": examples} | _each_in_turn(place, examples, each, arguments, mend)


def _hostile_zip(draws: random.Random, path: Path) -> None:
    """An archive that would write elsewhere, or too much, or is damaged; a few are whole."""
    names = [
        *(
            "a/../../outside",
            "../outside",
            "/outside-of-everything",
            "C:/outside",
            "a\\..\\outside",
            "..",
            "./../outside",
            "~/outside",
        ),
        *("a/./b", "a//b", "", "a\0b", "a/b\n", "x" * 2000, "a/" * 300 + "b", "x" * 300, "cat/1.png", "CAT/1.PNG"),
    ]
    with zipfile.ZipFile(path, "w", draws.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])) as archive:
        for number in range(draws.randint(1, 6)):
            archive.writestr(f"dog/{number}.png", draws.randbytes(200))
        for _ in range(draws.randint(0, 2)):
            info = zipfile.ZipInfo(draws.choice(names))
            way = draws.choice(["plain", "plain", "link", "device", "bomb"])
            info.external_attr = {"link": 0o120777, "device": 0o020666}.get(way, 0o100644) << 16
            content = bytes(30_000_000) if way == "bomb" else b"/etc/passwd"
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    damage, content = draws.choice(["none", "none", "cut", "flip", "noise"]), bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: draws.randrange(len(content))]
    elif damage == "flip":
        for _ in range(draws.randint(1, 20)):
            content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    elif damage == "noise":
        content = bytearray(draws.randbytes(500))
    path.write_bytes(content)


def zips(place: Path, examples: int, seed: int = 0) -> dict[str, Any]:
    """Unpack one hostile archive after another: refused as a whole, or unpacked inside its folder alone."""
    draws, counts = random.Random(seed), Counter[str]()
    shown: list[str] = []
    place.mkdir(parents=True)
    path, folder = place / "archive.zip", place / "inside" / "photos"
    for _ in range(examples):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name that is there twice
            _hostile_zip(draws, path)
        try:
            unpack(path, folder, max_bytes=20_000_000)
            counts["unpacked"] += 1
        except (ConfigError, OSError):
            counts["refused"] += 1
            counts["half_unpacked"] += folder.exists()
        except Exception as error:
            counts["tracebacks"] += 1
            shown.append(f"{type(error).__name__}: {error}")
        found = [entry for entry in place.rglob("*") if entry not in (path, folder.parent)]
        counts["files_outside"] += sum(not entry.is_relative_to(folder) or entry.is_symlink() for entry in found)
        shutil.rmtree(folder, ignore_errors=True)
    counts["files_outside"] += Path("/outside-of-everything").exists() + (place.parent / "outside").exists()
    keys = ("refused", "unpacked", "half_unpacked", "tracebacks", "files_outside")
    return {"hostile_zips": examples} | {key: counts[key] for key in keys} | {"examples": shown[:10]}


def _each_in_turn(
    place: Path,
    examples: int,
    spoil: Callable[[int], Path],
    arguments: list[str],
    mend: Callable[[Path], None] = Path.unlink,
) -> dict[str, Any]:
    """Spoil, run, mend; count how the commands ended, cells that began, and files that appeared where none belong."""
    variables = {name: str(place / name.lower()) for name in ("RUNS_DIR", "REPORTS_DIR", "DATA_DIR")}
    variables |= {"DEVICE": "cpu", "WANDB_MODE": "disabled"}
    counts: Counter[str] = Counter()
    shown: list[str] = []
    started: list[str] = []
    before = {path for path in place.rglob("*") if path.is_file()}
    small = ["recipe.steps=4", "recipe.evaluations=1", "seeds=[0]", "train_fractions=[1.0]", "models=[vit_micro_p2]"]
    small += ["reference=vit_micro_p2"]
    refused_and_started = 0
    with no_cell_runs(started):
        for number in range(examples):
            path, begun = spoil(number), len(started)
            verdict, text = call(["run", "smoke", *small, *arguments, "--jobs", "1"], variables)
            counts[verdict] += 1
            refused_and_started += verdict == "refused" and len(started) > begun
            if verdict == "traceback" or (verdict == "refused" and path.name.partition(".")[0] not in text):
                shown.append(f"{verdict}: {path.name}: {text[-300:]}")
                counts["unnamed"] += verdict == "refused"
            mend(path)
    own = [Path(variables[name]) for name in ("RUNS_DIR", "DATA_DIR", "REPORTS_DIR")]
    after = {path for path in place.rglob("*") if path.is_file() and not any(path.is_relative_to(home) for home in own)}
    return {
        "refused": counts["refused"],
        "still_readable": counts["accepted"] + counts["wrong exit"],
        "tracebacks": counts["traceback"],
        "refused_without_the_file's_name": counts["unnamed"],
        "runs_started_after_a_refusal": refused_and_started,
        "files_outside": len(after - before),
        "examples": shown[:10],
    }
