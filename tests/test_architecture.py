"""Imports point one way; light commands stay light; training cannot reach the test set."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import fit, train
from experiments.folders import ROOT

LAYERS = [  # each may import those below it, never those above
    {"experiments.__main__"},
    {"experiments.reporting"},
    {"experiments.bench.everything"},
    {"experiments.bench.steps"},
    {
        "experiments.bench.costs",
        "experiments.bench.gpu",
        "experiments.bench.sources",
        "experiments.display",
        "experiments.export",
    },
    {"experiments.predict", "experiments.publish"},
    {"experiments.trained"},
    {"experiments.launch"},
    {"experiments.ray_engine"},
    {"experiments.engine"},
    {"experiments.worker"},
    {"experiments.run"},
    {"experiments.artifacts"},
    {"experiments.profile", "experiments.tuning"},
    {
        "experiments.accelerate",
        "experiments.fit",
        "experiments.grid",
        "experiments.tracking.sync",
        "experiments.tracking.fetch",
    },
    {"experiments.tracking.dashboard", "experiments.tracking.report"},
    {"experiments.tracking.tracker"},
    {"experiments.tracking.client"},
    {
        "experiments.checkpoint",
        "experiments.data",
        "experiments.data.batches",
        "experiments.device",
        "experiments.data.datasets",
        "experiments.loading",
        "experiments.models",
        "experiments.optim",
        "experiments.progress",
        "experiments.provenance",
        "experiments.screens",
        "experiments.tracking.content",
        "experiments.tracking.mirror",
        "experiments.tracking.objects",
        "experiments.train",
        "experiments.tracking.viewer",
    },
    {
        "experiments.compute",
        "experiments.data.archive",
        "experiments.data.decoding",
        "experiments.data.description",
        "experiments.data.download",
        "experiments.data.image_folder",
        "experiments.data.images",
        "experiments.data.mixing",
        "experiments.data.order",
        "experiments.data.pizza_steak_sushi",
        "experiments.data.source",
        "experiments.data.splits",
        "experiments.data.trivial_augment",
        "experiments.distributed",
        "experiments.memory",
        "experiments.model_check",
        "experiments.pretrained",
        "experiments.run_folder",
    },
    {"experiments.data_record", "experiments.identity"},
    {
        "experiments",
        "experiments.bench",
        "experiments.tracking",
        "experiments.config",
        "experiments.folders",
        "experiments.metrics",
        "experiments.record",
        "experiments.seeding",
        "experiments.torchrun",
    },
]


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_vit_scratch_and_baselines_know_nothing_of_ours() -> None:
    for path in modules("vit_scratch").values():
        assert not rooms_of(imported(path)) & {"timm", "torchvision", "baselines", "experiments", "analysis", "wandb"}
    for path in modules("baselines").values():
        assert not rooms_of(imported(path)) & {"vit_scratch", "experiments", "analysis", "wandb"}


def test_analysis_reads_records_and_config_and_never_torch() -> None:
    allowed = {f"experiments.{name}" for name in ("record", "data_record", "config", "identity", "metrics")}
    for name, path in modules("analysis").items():
        names = imported(path)
        assert not rooms_of(names) & {"torch", "timm", "torchvision", "vit_scratch", "baselines"}, name
        ours = {entry for entry in names if entry.startswith("experiments.")}
        assert all(any(entry == ok or entry.startswith(f"{ok}.") for ok in allowed) for entry in ours), (name, ours)


def test_only_the_bridge_imports_analysis() -> None:
    for name, path in modules("experiments").items():
        if name != "experiments.reporting":
            assert "analysis" not in rooms_of(imported(path)), name


def test_imports_of_the_harness_point_down() -> None:
    level = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    found = modules("experiments")
    assert set(found) == set(level), "every module of the harness has its layer here"
    for name, path in found.items():
        for other in imported(path) & set(level) - {"experiments", "experiments.data", name}:
            same_room = level[other] == level[name]
            assert level[other] > level[name] or same_room, f"{name} must not import {other}"


@pytest.mark.parametrize("verb", [["list"], ["status", "smoke"]])
def test_light_commands_import_no_torch(verb: list[str]) -> None:
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]; from experiments.__main__ import main; code = main(); "
        "heavy = {'torch', 'timm', 'wandb', 'pandas', 'sklearn'} & set(sys.modules); print(heavy, file=sys.stderr); "
        "sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *verb], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_training_has_no_way_to_the_test_set() -> None:
    for module in (fit, train):
        source = inspect.getsource(module)
        assert "SealedTest" not in source and "datasets" not in source
        assert not imported(Path(inspect.getfile(module))) & {"experiments.data.datasets", "experiments.data.images"}
    for function in (fit.fit, train.train_steps, train.evaluate):
        assert not [name for name in inspect.signature(function).parameters if "test" in name]
