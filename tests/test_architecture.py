"""Imports point down through ten rooms; private names stay at home; training cannot reach the test set."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config.paths import ROOT
from experiments.training import fit, steps

ORDER = [
    "experiments.metrics",
    "experiments.config",
    "experiments.records",
    "experiments.data",
    "experiments.tracking",
    "experiments.training",
    "experiments.grid",
    "experiments.inference",
    "experiments.terminal",
    "experiments.bench",
    "experiments.reporting",
    "experiments.__main__",
]
"""Rooms of the harness: each may import those above it in this list, none below."""


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports: modules, and what is taken out of them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top_levels(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_vit_scratch_and_baselines_know_nothing_of_ours() -> None:
    for path in modules("vit_scratch").values():
        assert not top_levels(imported(path)) & {"timm", "torchvision", "baselines", "experiments", "analysis", "wandb"}
    for path in modules("baselines").values():
        assert not top_levels(imported(path)) & {"vit_scratch", "experiments", "analysis", "wandb"}


def test_analysis_reads_records_and_config_and_never_torch() -> None:
    allowed = {"experiments", "experiments.records", "experiments.config", "experiments.metrics"}
    for name, path in modules("analysis").items():
        names = imported(path)
        assert not top_levels(names) & {"torch", "timm", "torchvision", "vit_scratch", "baselines"}, name
        assert {room_of(entry) for entry in names if entry.startswith("experiments")} <= allowed, name


def test_only_reporting_imports_analysis() -> None:
    for name, path in modules("experiments").items():
        if room_of(name) != "experiments.reporting":
            assert "analysis" not in top_levels(imported(path)), name


def test_the_harness_has_these_rooms_and_imports_point_down() -> None:
    found = modules("experiments")
    assert {room_of(name) for name in found} == {"experiments", *ORDER}
    for name, path in found.items():
        for other in imported(path):
            if name != "experiments" and room_of(other) in ORDER and room_of(other) != room_of(name):
                assert ORDER.index(room_of(other)) < ORDER.index(room_of(name)), f"{name} must not import {other}"


def test_a_room_keeps_its_private_names() -> None:
    for package in ("experiments", "analysis", "baselines", "vit_scratch"):
        for name, path in modules(package).items():
            for other in imported(path):
                private = [part for part in other.split(".") if part.startswith("_") and not part.endswith("__")]
                ours = top_levels({other}) <= {"experiments", "analysis", "baselines", "vit_scratch"}
                assert not (ours and private and room_of(other) != room_of(name)), f"{name} imports {other}"


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
    for module in (fit, steps):
        source = inspect.getsource(module)
        assert "SealedTest" not in source and "datasets" not in source
        assert not imported(Path(inspect.getfile(module))) & {"experiments.data.datasets", "experiments.data.images"}
    for function in (fit.fit, steps.train_steps, steps.evaluate):
        assert not [name for name in inspect.signature(function).parameters if "test" in name]
