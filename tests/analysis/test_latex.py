"""Tables of a paper: compiled as they are, in one and in two columns, without a line that is too wide."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import figures, latex, report
from experiments.config.loading import load_experiment
from experiments.reporting.known import known_ledger
from tests.analysis import conftest
from tests.analysis.conftest import MODELS, make_experiment, write_experiment

RESULTS = Path(__file__).parents[2] / "results"
SHIPPED = sorted(folder.name for folder in RESULTS.iterdir() if folder.is_dir())


def _built(name, experiment, ledger, folder, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *_: [])
        return report.build(ledger, folder, experiment, out / name).folder


def _shipped(name, root):
    """Report of the published records of one experiment."""
    experiment = load_experiment(name)
    return _built(name, experiment, known_ledger(experiment, RESULTS / name), RESULTS / name, root)


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request, tmp_path_factory):
    return _shipped(request.param, tmp_path_factory.mktemp("shipped"))


def _titled(title):
    return {name: model.model_copy(update={"title": title % name}) for name, model in MODELS.items()}


LONG = "A title of eighty characters, as somebody gives a model that has been tried often"
EXTREMES = {
    "forty models": {"models": {f"m{i}": MODELS["vit"].model_copy(update={"title": f"Model {i}"}) for i in range(40)}},
    "twelve fractions": {"train_fractions": [round(0.05 + 0.08 * i, 2) for i in range(12)]},
    "twelve settings": {"vary": {"recipe.learning_rate": [1e-4, 3e-4, 1e-3], "recipe.steps": [100, 200, 400, 800]}},
    "long titles": {"models": _titled(f"{LONG} %s")},
    "one long word": {"models": _titled(f"{'x' * 76}_%s")},
    "other scripts": {"models": _titled("رؤية 視覺 Żółć %s")},
    "one model": {"models": {"resnet": MODELS["resnet"]}},
}


def _extreme(name, root):
    """Report of an experiment that is out of the ordinary; a third of its runs failed with a long reason."""
    changes = {"train_fractions": [0.1, 1.0], "seeds": [0], "expect": []} | EXTREMES[name]
    models = list(changes.get("models", MODELS))
    experiment = make_experiment(**changes, reference="resnet" if "resnet" in models else models[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "FULL_ERROR", {model: 0.1 + 0.001 * at for at, model in enumerate(models)})
        runs = write_experiment(root / "runs" / "synthetic", experiment)
    for cell in runs.ledger["cells"][1::3]:
        runs.lose(cell["run_id"], "failed", f"KeyError: '_%&#$^~{{}}\\\\' [x] at step {cell['seed']} of {'/very/long_' * 6}")
    return _built("synthetic", experiment, runs.ledger, runs.folder, root)


def _compile(folder: Path, options: str) -> str:
    """LaTeX's log of a paper that takes every table as it is."""
    names = [path.stem for path in sorted(folder.glob("*.tex")) if path.stem != "appendix"]
    body = "\n".join(f"\\input{{{folder}/{name}}}\\clearpage" for name in [*names, "appendix"])
    head = f"\\documentclass[{options}]{{article}}\\usepackage{{booktabs,longtable}}\n\\begin{{document}}x"
    text = f"{head}\n{body}\n\\end{{document}}"
    build = folder / f"build-{options}"
    build.mkdir(exist_ok=True)
    (build / "paper.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    environment = os.environ | {"max_print_line": "1000"}
    for _ in range(2):  # longtable measures in its first run
        done = subprocess.run(command, cwd=build, env=environment, capture_output=True, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-3000:]
    return log


def _has_latex() -> bool:
    if not (shutil.which("pdflatex") and shutil.which("kpsewhich")):
        return False
    asked = ["kpsewhich", "booktabs.sty", "longtable.sty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.count(".sty") == 2


NEEDS_LATEX = pytest.mark.skipif(not _has_latex(), reason="no pdflatex with booktabs: install texlive-latex-extra")


@NEEDS_LATEX
def test_every_table_fits(shipped):
    for options in ("onecolumn", "twocolumn"):
        assert not re.findall(r"Overfull.*|.*Float too large.*", _compile(shipped, options)), options


@NEEDS_LATEX
@pytest.mark.parametrize("name", EXTREMES)
def test_every_table_fits_out_of_the_ordinary(name, tmp_path):
    folder = _extreme(name, tmp_path)
    for options in ("onecolumn", "twocolumn"):
        assert not re.findall(r"Overfull.*|.*Float too large.*", _compile(folder, options)), options


def test_captions_are_short(shipped):
    for path in shipped.glob("*.tex"):
        for caption in re.findall(r"\\caption\[.*?\]\{(.*?)\}\n", path.read_text(encoding="utf-8")):
            assert len(re.findall(r"[.](?= [A-Z]|$)", caption)) <= 2 and len(caption) < 480, caption
    for path in shipped.glob("*.md"):
        lines = path.read_text(encoding="utf-8").splitlines()
        rows, said = ([line for line in lines if re.match(start, line)] for start in (r"\|", r"\*[^*]"))
        # Caption, and conditions below it. Where three models stand at two budgets, what marks mean takes more letters.
        assert path.stem == "conditions" or max(map(len, said)) < max(450, sum(map(len, rows))), path


def test_a_paper_takes_the_columns_that_a_paper_prints(shipped):
    compact, wide = ((shipped / f"compute{suffix}.tex").read_text(encoding="utf-8") for suffix in ("", "_wide"))
    assert "Images/s" in wide and "Images/s" not in compact and "Params" in compact
    assert compact.startswith("% Single-column table, 3.17 in. Needs \\usepackage{booktabs}.\n\\begin{table}[tp]")
    assert wide.startswith("% Wide table, 4.77 in.") and "\\begin{table*}[tp]" in wide
    first = (shipped / "accuracy.tex").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*", (shipped / "accuracy.md").read_text(encoding="utf-8"), re.M)
    assert (r"$\dagger$}" in first) == any("†" in row for row in rows)
    pages = 1 + (len(rows) > 24)  # six data sets take a second one
    assert first.count("\\begin{tabular}") == first.count("\\end{table}") == pages


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [("one two", 20, ["one", "two"]), ("a_bc", 12, ["a_", "bc"]), ("nnnn", 10, ["nn", "nn"]), ("", 9, [""])],
)
def test_lines_break(text, width, lines):
    assert latex._wrapped(text, width) == lines


def test_letters_that_pdflatex_lacks():
    assert latex.latex_text("é ß 視 ḝ") == "é ß ? ?"
    assert latex.latex_text("abc^ef gh", 3) == r"abc\allowbreak{}\textasciicircum{}ef gh"
