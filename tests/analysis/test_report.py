"""The whole report: files, refusals, faults, reproducible bytes, and the page in a browser."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import figures, freshness, mistakes, page, report
from analysis.fairness.certificate import Unequal
from analysis.groups import groups_of
from analysis.load import NothingDone, load
from tests.analysis import conftest
from tests.analysis.conftest import MODELS, make_experiment, truth, write_experiment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing has tests of its own and takes most of the time."""
    monkeypatch.setattr(figures, "draw", lambda *_: [])


def _build(runs, out, **options):
    return report.build(runs.ledger, runs.folder, runs.experiment, out, **options)


@pytest.fixture(scope="module")
def whole(_template, tmp_path_factory):
    """One complete report, figures included, made once for the tests that only read it."""
    out = tmp_path_factory.mktemp("reports") / "synthetic"
    links = {_template.run_id("vit"): "https://wandb.example/run?a=1&b=2"}
    return _build(_template, out, links=links)


class _Page(HTMLParser):
    """Ids, links, text and script sources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.external: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        if tag == "a":
            self.links.append(values["href"])
        if tag in ("script", "img", "iframe") and values.get("src"):
            self.external.append(values["src"])
        if tag == "link" and values.get("rel") != "icon":
            self.external.append(values["href"])


def test_all_files_are_there(whole):
    names = {str(path.relative_to(whole.folder)) for path in whole.paths}
    for table in ("accuracy", "data_efficiency", "compute"):
        assert {f"{table}.md", f"{table}.tex", f"{table}.csv"} <= names
    assert {"certificate.json", "ledger.json", "report.html", "figures/learning_curves.svg"} <= names
    assert all(path.is_file() and path.stat().st_size for path in whole.paths)
    assert not list(whole.folder.rglob("*.tmp"))
    ledger = json.loads((whole.folder / "ledger.json").read_text())
    assert len(ledger["cells"]) == 36 and ledger["counts"]["done"] == 36
    assert json.loads((whole.folder / "certificate.json").read_text())["equal"] is True


def test_the_terminal_table(whole):
    lines = whole.accuracy_text.splitlines()
    assert lines[1].split()[:4] == ["Model", "100%", "30%", "10%"]
    assert re.search(r"ResNet_18 & co +90\.0 ± 0\.5 \* +81\.7 ± 0\.5 \* +68\.5 ± 0\.5 \*", whole.accuracy_text)
    assert max(map(len, lines)) <= 120


def test_the_verdict_is_built_from_the_figures(whole):
    answer, full, small, images, change, noise = whole.verdict
    assert re.fullmatch(
        r"With 1,000 images ResNet_18 & co reaches 90\.0% and ViT \(ours\) 80\.0%, 10\.0 points less "
        r"\(95% CI \d\.\d to 1\d\.\d\); at none of the 3 measured budgets does it keep up\.", answer)  # fmt: skip
    assert full.startswith("With 100% of the training data (n = 1000), ResNet_18 & co is best at 90.0% (95% CI 86.")
    assert "not distinguishable from it: ConvNeXt." in full
    assert small.startswith("With 10% of the training data (n = 100), ResNet_18 & co is best at 68.5%")
    assert images.startswith("To reach ViT (ours)'s accuracy at full data (80.0%), ResNet_18 & co needs 4.0× fewer images")
    assert re.search(r"\(95% CI [23]\.\d to [45]\.\d, interpolated\)\.$", images)
    assert re.search(r"changes by \+21\.\d points \(95% CI \+1\d\.\d to \+2\d\.\d\) from 10% to 100% of the data\.$", change)
    assert noise.startswith("Noise: with 3 seeds and 400 test images")


def test_what_is_true_of_several_settings_is_said_once(tmp_path, no_figures):
    vary = {"recipe.steps": [100, 200, 300, 400, 500]}
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(vary=vary, train_fractions=[1.0], expect=[]))
    _, full, change, noise = _build(runs, tmp_path / "all").verdict
    assert full.startswith("With 100% of the training data") and noise.startswith("Noise: with 3 seeds and 400 test images")
    assert change == (
        "recipe.steps=200, recipe.steps=300, recipe.steps=400, recipe.steps=500: That the difference of ViT (ours) to "
        "ResNet_18 & co at 100% of the data is another than under recipe.steps=100 is not shown."
    )
    for cell in runs.ledger["cells"]:  # one setting has lost a seed of the ViT
        if cell["varied"]["recipe.steps"] == 500 and cell["model"] == "vit" and cell["seed"] == 2:
            runs.lose(cell["run_id"])
    noises = [text for text in _build(runs, tmp_path / "two").verdict if "Noise" in text]
    assert [text.partition(": ")[0] for text in noises] == [
        "recipe.steps=100, recipe.steps=200, recipe.steps=300, recipe.steps=400", "recipe.steps=500"
    ]  # fmt: skip


def test_where_more_images_did_worse_the_verdict_says_what_was_measured(no_figures, tmp_path, monkeypatch):
    falling = {0.1: 0.6, 0.3: 0.5, 1.0: 0.4}
    monkeypatch.setattr(
        conftest, "truth", lambda model, at, seed=1: falling[at] if model == "vit" else truth(model, at, seed)
    )
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(expect=[]))
    said = next(text for text in _build(runs, tmp_path / "out").verdict if text.startswith("To reach"))
    assert said.startswith("To reach 50.0%, where ViT (ours)'s monotone curve ends (measured at full data: 40.0%), ")


def test_the_page_stands_alone(whole):
    text = (whole.folder / "report.html").read_text()
    parsed = _Page(text)
    assert parsed.external == []
    assert {
        "verdict",
        "tables",
        "figures",
        "errors",
        "method",
        "certificate",
        "ledger",
        "spec-learning_curves",
    } <= parsed.ids
    for link in parsed.links:
        if link.startswith("#"):
            assert link[1:] in parsed.ids
        elif not link.startswith("https://wandb.example/"):
            assert (whole.folder / link).exists(), link
    assert "https://wandb.example/run?a=1&b=2" in parsed.links
    spec = re.search(r'<script type="application/json" id="spec-learning_curves">(.*?)</script>', text, re.DOTALL)
    assert "$schema" in json.loads(spec[1])


def test_addresses_stand_in_the_page_alone(whole):
    for path in whole.paths:
        if path.suffix in (".md", ".tex", ".csv", ".json"):
            assert "://" not in path.read_text()


def test_the_page_escapes_what_it_shows(synthetic_runs, tmp_path, no_figures):
    evil = "</script><script>alert(1)</script>"
    synthetic_runs.experiment = make_experiment(question=evil)
    run_id = synthetic_runs.run_id("vit")
    synthetic_runs.lose(run_id, "failed", evil)
    made = _build(synthetic_runs, tmp_path / "out", links={synthetic_runs.run_id("resnet"): "javascript:alert(1)"})
    text = (made.folder / "report.html").read_text()
    assert evil not in text and "&lt;/script&gt;" in text and "javascript:alert" not in text
    # The class of the fixture that is named like a tag.
    assert "&lt;b&gt;&amp;_%" in text
    assert "</script" not in page.script_json({"a": evil})
    assert json.loads(page.script_json({"a": evil})) == {"a": evil}


def test_the_bytes_are_the_same_again_and_elsewhere(synthetic_runs, tmp_path, no_figures):
    first = _build(synthetic_runs, tmp_path / "reports" / "a")
    again = _build(synthetic_runs, tmp_path / "reports" / "a")
    moved = tmp_path / "elsewhere" / "runs" / "synthetic"
    shutil.copytree(synthetic_runs.folder, moved)
    synthetic_runs.folder = moved
    other = _build(
        synthetic_runs, tmp_path / "elsewhere" / "reports" / "a", links={synthetic_runs.run_id("vit"): "https://w.example/x"}
    )
    for path in first.paths:
        name = path.relative_to(first.folder)
        assert path.read_bytes() == (again.folder / name).read_bytes()
        if name.suffix != ".html":
            assert path.read_bytes() == (other.folder / name).read_bytes(), name


def test_unequal_settings_are_refused_and_nothing_is_written(synthetic_runs, tmp_path):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), environment={"precision": "bf16"})
    with pytest.raises(Unequal, match="precision") as caught:
        _build(synthetic_runs, tmp_path / "out")
    assert [difference.key for difference in caught.value.differences] == ["precision"]
    assert not (tmp_path / "out").exists()


def test_unequal_settings_with_a_warning(synthetic_runs, tmp_path, no_figures):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), environment={"precision": "bf16"})
    made = _build(synthetic_runs, tmp_path / "out", allow_unequal=True)
    assert not made.equal
    for table in ("accuracy", "data_efficiency", "compute"):
        for suffix in (".md", ".tex", ".csv"):
            assert "UNEQUAL SETTINGS" in (tmp_path / "out" / f"{table}{suffix}").read_text()
    assert (made.folder / "report.html").read_text().count('class="banner"') == 7
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["differences"][0]["key"] == "precision"


def test_bad_records_are_named_and_the_rest_reported(synthetic_runs, tmp_path, no_figures):
    broken, lying = synthetic_runs.run_id("vit", 0.3, 0), synthetic_runs.run_id("vit", 1.0, 1)
    (synthetic_runs.folder / broken / "record.json").write_text('{"schema": 1,')
    synthetic_runs.edit_record(lying, metrics={"test/top1": 0.99})
    made = _build(synthetic_runs, tmp_path / "out")
    assert (
        len(made.faults) == 2 and broken in made.faults[1] + made.faults[0] and any(lying in fault for fault in made.faults)
    )
    text = (made.folder / "report.html").read_text()
    assert "2 remarks on records" in text and "does not match its record" in text
    markdown = (tmp_path / "out" / "accuracy.md").read_text()
    assert "2 of 3 seeds: seed 1 unusable (predictions.npz: does not match its record" in markdown
    assert str(tmp_path) not in markdown + (tmp_path / "out" / "ledger.json").read_text()


def test_one_seed(tmp_path, no_figures):
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(seeds=[0]))
    made = _build(runs, tmp_path / "out")
    assert made.verdict[0].endswith("−10.0 points; that this is more than chance is not tested, which takes 3 seeds.")
    assert not any("CI –" in text for text in made.verdict)
    assert "has the highest mean accuracy, 89.5%" in made.verdict[1] and "not tested" in made.verdict[1]
    assert any("one seed" in sentence for sentence in made.verdict)
    assert any("fewer images, by one seed: that this is more than chance is not tested." in text for text in made.verdict)
    assert "**" not in re.sub(r"\*\*\d+% of.*\*\*", "", (tmp_path / "out" / "accuracy.md").read_text())
    assert "Seed 0; 400 test images" in (tmp_path / "out" / "accuracy.tex").read_text()


def test_one_fraction_and_one_model(tmp_path, no_figures):
    experiment = make_experiment(models={"resnet": MODELS["resnet"]}, train_fractions=[1.0], expect=[])
    made = _build(write_experiment(tmp_path / "runs" / "synthetic", experiment), tmp_path / "out")
    assert len(made.verdict) == 2 and "highest mean" in made.verdict[1]
    assert made.verdict[0].endswith("there is no other model yet to compare with the reference.")
    assert "| ResNet\\_18 \\& co | 90.0 ± 0.5 |" in (tmp_path / "out" / "accuracy.md").read_text()


def test_an_absent_reference(synthetic_runs, tmp_path, no_figures):
    for fraction in (0.1, 0.3, 1.0):
        for seed in range(3):
            synthetic_runs.lose(synthetic_runs.run_id("resnet", fraction, seed))
    made = _build(synthetic_runs, tmp_path / "out")
    assert made.verdict[0].startswith("ConvNeXt reaches 88.0%") and "ConvNeXt is best at 88.0%" in made.verdict[1]
    assert "no run of the reference" in (tmp_path / "out" / "accuracy.csv").read_text()


def test_a_rival_without_a_run_is_named(synthetic_runs, tmp_path, no_figures):
    for seed in (0, 1, 2):
        synthetic_runs.lose(synthetic_runs.run_id("convnext", 1.0, seed), status="failed", reason="diverged")
    made = _build(synthetic_runs, tmp_path / "out")
    assert made.verdict[1].endswith("; no run of ConvNeXt.")


def test_numbers_of_images_that_differ_stop_no_report(synthetic_runs, tmp_path, no_figures):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), n_train=7)
    made = _build(synthetic_runs, tmp_path / "out", allow_unequal=True)
    assert "n_train" in (made.folder / "accuracy.csv").read_text()


def test_nothing_done_writes_nothing(synthetic_runs, tmp_path):
    shutil.rmtree(synthetic_runs.folder)
    with pytest.raises(NothingDone):
        _build(synthetic_runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_of_datasets_that_is_no_longer_due_goes(synthetic_runs, tmp_path, no_figures):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "datasets.md").write_text("old")
    _build(synthetic_runs, tmp_path / "out")
    assert not (tmp_path / "out" / "datasets.md").exists()


PROBE = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const table = document.getElementById("table-accuracy");
  const body = () => [...table.tBodies[0].rows].filter((r) => !r.classList.contains("block"));
  const first = () => body().map((r) => r.cells[0].textContent);
  const before = first();
  const heading = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.startsWith("100%"));
  table.tHead.rows[0].cells[heading].querySelector("button").click();
  const ascending = first();
  table.tHead.rows[0].cells[heading].querySelector("button").click();
  const descending = first();
  const cells = document.getElementById("table-ledger");
  const input = document.querySelector('input[data-table="table-ledger"]');
  input.value = "convnext 30%";
  input.dispatchEvent(new Event("input"));
  const shown = [...cells.tBodies[0].rows].filter((r) => !r.hidden).length;
  const hero = document.querySelector(".top .plot svg").getBoundingClientRect();
  const drawn = document.querySelectorAll('.plot[data-drawn="true"] svg').length;
  const plots = document.querySelectorAll(".plot").length;
  const tiles = () => document.querySelectorAll(".tiles li").length;
  const differing = tiles();
  document.querySelector(".asked label:nth-child(3) select").value = "all";
  document.querySelector(".asked label:nth-child(3) select").dispatchEvent(new Event("change"));
  const budget = document.querySelector(".asked input[type=range]");
  budget.value = 0;
  budget.dispatchEvent(new Event("input"));
  const gallery = [differing, tiles(), document.querySelector(".asked output").textContent];
  const unnamed = document.querySelectorAll(".plot:not([aria-label]), .scroll:not([aria-label])").length;
  const lost = {labels: [0], answers: {"a 1 0": [[0], [9], [9]], "a 1 1": [[1], [9], [0]], "b 1 1": [[1], [9], [0]]}};
  const differ = chosen(lost, {first: "a", second: "b", fraction: "1", seeds: [0, 1], order: "differ"}).length;
  const result = {gallery, differ, before, ascending, descending, shown, drawn, plots, unnamed,
    heading: document.querySelector("h1").textContent, hero: hero.bottom + window.scrollY,
    filled: hero.width / document.querySelector(".top .plot").clientWidth,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth};
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(result);
  document.body.appendChild(out);
}, 3000));
</script>
</body>
"""


def _browse(path: Path, profile: Path, width: int, *options: str) -> tuple[str, str]:
    """The page's final document and what was written to the console."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
        *options, f"--window-size={width},900", "--virtual-time-budget=15000", "--enable-logging=stderr", "--dump-dom", f"file://{path}",
    ]  # fmt: skip
    # Its sockets lie in TMPDIR, whose path may be too long for them; it does not start where HOME cannot be written.
    places = os.environ | {"HOME": str(profile), "TMPDIR": "/tmp"}  # noqa: S108
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=places)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.parametrize(("width", "screens"), [(500, 1688), (1280, 800)])
def test_the_page_in_a_browser(whole, tmp_path, width, screens):
    # A neighbour of the page with a script that uses it and writes down what it saw.
    text = (whole.folder / "report.html").read_text()
    probed = tmp_path / "probed.html"
    head, _, tail = text.rpartition("</body>")
    probed.write_text(head + PROBE + tail)
    document, console = _browse(probed, tmp_path / "profile", width)
    assert "ERROR" not in console and "Refused" not in console and "Uncaught" not in console, console
    seen = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', document, re.DOTALL)[1].replace("&amp;", "&"))
    assert seen["before"] == ["ResNet_18 & co", "ConvNeXt", "ViT (timm)", "ViT (ours)"]
    assert seen["ascending"][2:] == ["ConvNeXt", "ResNet_18 & co"] and seen["descending"][:2] == [
        "ResNet_18 & co",
        "ConvNeXt",
    ]
    assert 0 < seen["gallery"][0] <= 60 and seen["gallery"][1:] == [60, "10% (n = 100)"]
    assert seen["shown"] == 3 and seen["unnamed"] == 0
    assert seen["differ"] == 0  # where the second lacks a seed, seed is compared with seed
    assert seen["heading"] == whole.verdict[0] and seen["hero"] < screens and seen["filled"] > 0.85
    assert seen["drawn"] == seen["plots"] >= 5
    assert seen["overflow"] <= 0


NARROW = """<body><iframe id="page" src="{address}" style="width:360px;height:800px;border:0"></iframe><script>
const done = () => {{
  const root = document.getElementById("page").contentDocument.documentElement;
  document.body.innerHTML = `<pre id="probe">${{root.scrollWidth - root.clientWidth}}</pre>`;
}};
window.addEventListener("load", () => setTimeout(done, 3000));
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_no_page_is_wider_than_a_small_phone(whole, tmp_path):
    (tmp_path / "narrow.html").write_text(NARROW.format(address=(whole.folder / "report.html").as_uri()))
    document, _ = _browse(tmp_path / "narrow.html", tmp_path / "profile", 500, "--allow-file-access-from-files")
    assert re.search(r'<pre id="probe">(.*?)</pre>', document)[1] == "0"


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast_in_the_bright_and_the_dark_scheme(scheme):
    style = (page.TEMPLATES / "report.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6})\b", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground in ("paper", "tint"):
        for name in ("ink", "soft", "accent", "good", "bad", "open"):
            bright, dark = sorted((_luminance(colours[name]), _luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


def test_device_time_counts_each_run_and_each_trial_once(synthetic_runs):
    """The cost of a recipe's trials and of weights is charged to each run in the tables, and was spent once."""
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), compute={"pretraining_device_hours": 100})
    results = load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment)
    trial = results.records[synthetic_runs.run_id("vit")]
    assert sum(cost.device_hours for cost in results.costs) == pytest.approx(36 * 0.001)
    results = replace(results, trials={("vit", "shapes", 1.0): [trial, trial]})
    assert sum(cost.device_hours for cost in results.costs) == pytest.approx(38 * 0.001)
    shown = [page.cost(hours) for hours in (0, 0.004, 2, 30)]
    assert shown == ["", ", 14 device-seconds", ", 120 device-minutes", ", 30.0 device-hours"]


def test_models_of_one_title_both_stand_among_the_errors(tmp_path):
    """The second once took the place of the first."""
    twins = MODELS | {"vit_timm": MODELS["vit_timm"].model_copy(update={"title": MODELS["vit"].title})}
    runs = write_experiment(tmp_path / "synthetic", make_experiment(models=twins, train_fractions=[1.0]))
    results = load(runs.ledger, runs.folder, runs.experiment)
    per_class, agreement = mistakes.tables(groups_of(results, runs.experiment))
    assert per_class.columns[-2:] == ["ViT (ours)", "ViT (ours)"]
    assert per_class.blocks[0].rows[0].entries[-2] != per_class.blocks[0].rows[0].entries[-1]
    assert len(agreement.blocks[0].rows) == 6


def test_files_that_can_no_longer_be_made_are_removed(synthetic_runs, tmp_path, monkeypatch):
    _build(synthetic_runs, tmp_path / "out")
    (tmp_path / "out" / "figures" / "mine.png").write_bytes(b"")
    (tmp_path / "out" / "datasets.md").write_text("of an older experiment")
    draw = figures.draw
    monkeypatch.setattr(figures, "draw", lambda *arguments: [f for f in draw(*arguments) if f.name != "forest"])
    _build(synthetic_runs, tmp_path / "out")
    left = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert not left & {"forest.svg", "forest.pdf", "forest.png"} and {"mine.png", "calibration.pdf"} <= left
    assert not (tmp_path / "out" / "datasets.md").exists()


def test_a_fault_on_the_way_writes_nothing(synthetic_runs, tmp_path, monkeypatch, no_figures):
    monkeypatch.setattr(page, "render", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _build(synthetic_runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_that_cannot_be_read_stops_no_report(synthetic_runs):
    """Not even in a folder of which no table is made."""
    asked = synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment, {}
    before = freshness.key_of(*asked)
    (synthetic_runs.folder / "other" / "record.json").mkdir(parents=True)
    assert freshness.key_of(*asked) == before
