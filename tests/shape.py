"""The shape of the code base in figures: ``make shape``; ``FLAGS=--frames`` adds the path from the command to the step."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("experiments", "analysis", "vit_scratch", "baselines")
MOST_LINES, MOST_PARAMETERS = 60, 8
CHANGES = {
    "metric (macro_f1)": "macro_f1",
    "dataset loader (fashion_mnist)": "fashion_mnist",
    "schedule (cosine)": "cosine",
    "optimiser (adamw)": "adamw",
    "engine (ray)": "ray",
    "experiment's key (equivalence_margin)": "equivalence_margin",
}
"""Kinds of change and a name that stands for one: the files that name it are those that another of its kind touches."""
CELL = (
    *("run", "smoke", "models=[vit_micro_p2]", "reference=vit_micro_p2", "expect=[]", "seeds=[0]", "train_fractions=[0.1]"),
    *("recipe.steps=1", "recipe.evaluations=1", "--jobs", "1"),
)
DUMP = """
import os, runpy, sys, traceback
import torch
take = torch.optim.AdamW.step
def step(*given, **named):
    stack = traceback.extract_stack()[:-1]
    if not any(frame.filename.endswith("training/steps.py") for frame in stack):  # a recipe that is only tried
        return take(*given, **named)
    for frame in stack:
        print("frame", frame.filename, frame.name, file=sys.__stderr__)
    sys.__stderr__.flush()
    os._exit(0)
torch.optim.AdamW.step = step
runpy.run_module("experiments", run_name="__main__", alter_sys=True)
"""


class Function(NamedTuple):
    """A function's place, its lines from ``def`` on, and its parameters but for ``self`` and ``cls``."""

    name: str
    lines: int
    parameters: int


def sources() -> dict[Path, str]:
    """Text of every product file, by its path from the root."""
    files = (path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py")))
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in files}


def kinds_of_lines(text: str) -> Counter[str]:
    """Lines of a file by kind: code, docstring, comment, blank. A line of code with a comment is code."""
    numbers: dict[str, set[int]] = {"docstring": set(), "comment": set(), "code": set()}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            numbers["docstring"].update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            kind = "comment" if token.type == tokenize.COMMENT else "code"
            numbers[kind].update(range(token.start[0], token.end[0] + 1))
    numbers["code"] -= numbers["docstring"]
    numbers["comment"] -= numbers["code"]
    counts = Counter({kind: len(found) for kind, found in numbers.items()})
    return counts + Counter(blank=len(text.splitlines()) - counts.total())


def functions(path: Path, text: str) -> Iterator[Function]:
    """Every function and method of a file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
            parameters = len(own) + bool(node.args.vararg) + bool(node.args.kwarg)
            yield Function(f"{path}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, parameters)


def files_that_name(word: str, texts: dict[Path, str]) -> list[Path]:
    """Product files with a name, attribute, argument or string that is the word, or ends in it after a slash or dot."""
    pattern = re.compile(rf"(?:^|[/.]){re.escape(word)}$")
    found = []
    for path, text in texts.items():
        nodes = list(ast.walk(ast.parse(text)))
        names = [getattr(node, field, None) for node in nodes for field in ("id", "attr", "arg", "name", "value")]
        if any(isinstance(name, str) and pattern.search(name) for name in names):
            found.append(path)
    return found


def frames() -> list[str]:
    """Own frames from the command to ``optimizer.step()``, in one process: a tiny run whose step prints its stack."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"RUNS_DIR": f"{folder}/runs", "REPORTS_DIR": f"{folder}/reports", "WANDB_MODE": "disabled"}
        command = [sys.executable, "-c", DUMP, *CELL]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    found = [line.split(" ", 2)[1:] for line in done.stderr.splitlines() if line.startswith("frame ")]
    own = [f"{Path(path).relative_to(ROOT)}:{name}" for path, name in found if Path(path).is_relative_to(ROOT)]
    own = [frame for frame in own if frame.startswith(PRODUCT)]
    if not own:
        raise RuntimeError(f"no step was reached:\n{done.stderr}")
    return own


def report(*, with_frames: bool) -> str:
    """The table as text."""
    texts = sources()
    entries = sorted({path.parts[1] for path in texts if path.parts[0] == "experiments"} - {"__init__.py"})
    lines = [f"entries in experiments/: {len(entries)} ({', '.join(entries)})", ""]
    rooms: dict[str, Counter[str]] = {}
    for path, text in texts.items():
        room = "/".join(path.parts[:2]) if path.parts[0] == "experiments" else path.parts[0]
        rooms[room] = rooms.get(room, Counter()) + kinds_of_lines(text)
    kinds = ("code", "docstring", "comment", "blank")
    lines.append(f"{'product lines':<28}{'total':>8}" + "".join(f"{kind:>12}" for kind in kinds))
    for room, counts in [("all", sum(rooms.values(), Counter())), *sorted(rooms.items())]:
        lines.append(f"{room:<28}{counts.total():>8}" + "".join(f"{counts[kind]:>12}" for kind in kinds))
    known = [function for path, text in texts.items() for function in functions(path, text)]
    for title, measure, most in (("lines", 1, MOST_LINES), ("parameters", 2, MOST_PARAMETERS)):
        over = sorted((function for function in known if function[measure] > most), key=lambda function: -function[measure])
        core = sum(function.name.startswith(("experiments/training/", "experiments/grid/")) for function in over)
        lines += ["", f"functions with more than {most} {title}: {len(over)}, of them {core} in training and grid"]
        lines += [f"  {function[measure]:>4}  {function.name}" for function in over]
    lines += ["", "product files that name one of a kind, which another of the kind would touch:"]
    for kind, word in CHANGES.items():
        if named := files_that_name(word, texts):
            lines.append(f"  {len(named):>4}  {kind}: {', '.join(map(str, named))}")
    if with_frames:
        steps = frames()
        lines += ["", f"own frames from the command to optimizer.step(): {len(steps)}", *(f"  {step}" for step in steps)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(with_frames="--frames" in sys.argv[1:]))
