"""Writes ``docs/configs.md``: every key of a config file, from the types and docstrings of ``experiments/config/schema.py``.

``python -m tests.reference`` writes it; a test holds it equal.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from experiments.config import schema
from experiments.config.paths import ROOT

PAGE = ROOT / "docs" / "configs.md"
SECTIONS = (
    ("Experiments: `configs/experiments/<name>.yaml`", ("ExperimentFile", "Asked", "Execution")),
    ("An expectation: an entry of `expect:`", ("Expectation",)),
    ("Tuning and random recipes: `tuning:`", ("Tuning",)),
    ("Recipes: `configs/recipes/<name>.yaml`", ("Recipe",)),
    ("Augmentation: `augmentation:` of a recipe", ("Augmentation",)),
    ("Data: `configs/data/<name>.yaml`", ("DataConfig",)),
    ("Models: `configs/models/<name>.yaml`", ("ModelConfig",)),
    ("Geometry: `geometry:` of a model", ("Geometry",)),
)
WORDS = {
    r"dict\[.*\]": "mapping", r"list\[(.*?)\]": r"list: \1", "str": "text", "bool": "true · false", "None": "null",
    "float": "number", "int": "whole number", "(Tuning|Augmentation|Geometry|Expectation)": "keys below",
}  # fmt: skip
"""What a type is called on the page."""
SET_BY_LOADING = {"code"}
HEAD = """# Keys of the config files

Made from `experiments/config/schema.py` by `.venv/bin/python -m tests.reference`. A key without a default must be given.
`ARGS` replaces any key of an experiment, and those of its recipe and data with `recipe.` and `data.` before them:
`ARGS="seeds=[0] recipe.steps=50 data.path=/my/photos"`. An unknown key is refused with the nearest that there is.
"""


def _fields(name: str, tree: ast.Module) -> Iterator[tuple[ast.AnnAssign, str]]:
    """The fields of a class, each with the text below it."""
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id not in SET_BY_LOADING:
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield node, " ".join(str(text).split())


def _values(node: ast.AnnAssign) -> str:
    """What a field takes: its type without what Python needs beside it, and its bounds."""
    text = ast.unparse(node.annotation)
    text = re.sub(r", BeforeValidator\(.*\)", "", text)
    bounds = re.findall(r"\b(gt|ge|lt|le)=([\d_.]+)", text + (ast.unparse(node.value) if node.value else ""))
    text = re.sub(r", Field\((?:[^()]|\([^)]*\))*\)", "", text)
    while (plain := re.sub(r"\b(?:Added|Annotated)\[((?:[^\[\]]|\[[^\]]*\])*)\]", r"\1", text)) != text:
        text = plain
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " · "), text)
    for word, plain in WORDS.items():
        text = re.sub(rf"(?<!\w){word}(?!\w)", plain, text)
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return text.replace(" | ", " · ") + "".join(f", {signs[kind]} {value.replace('_', '')}" for kind, value in bounds)


def _default(name: str, field: str) -> str:
    info = getattr(schema, name).model_fields[field]
    if info.is_required():
        return ""
    value = info.default
    if isinstance(value, schema.BaseModel) or value in ({}, [], [schema.Augmentation()]):
        return "none"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")


def page() -> str:
    """The whole page."""
    tree = ast.parse((ROOT / "experiments" / "config" / "schema.py").read_text(encoding="utf-8"))
    parts = [HEAD]
    for title, classes in SECTIONS:
        rows = [
            f"| `{node.target.id}` | {_values(node)} | {_default(name, node.target.id)} | {text} |"  # type: ignore[union-attr]
            for name in classes
            for node, text in _fields(name, tree)
        ]
        parts.append("\n".join([f"## {title}", "", "| key | values | default | |", "|:--|:--|:--|:--|", *rows, ""]))
    return "\n".join(parts).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
