"""Files from foreign hands: reports in W&B, damaged state, names that steer a terminal, images without an end."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from analysis import figures
from experiments.config.paths import ROOT
from experiments.config.text import CONTROL
from tests.chaos import commands, grids, inputs, outside, pictures
from tests.standins.wandb_service import WandbService

NAMES = (
    *("../../PWN", "report/../../PWN", "runs/a/../../../PWN", "runs/../PWN", "/tmp/PWN-of-chaos", "report\\..\\PWN"),  # noqa: S108
    *("elsewhere/PWN", "runs/PWN", "runs/a/b/record.json", "report/a\x1b[2J", "report/a\nb", "report//PWN"),
)
"""Names of files that no report of this project has."""
EDITS: tuple[tuple[str, tuple[str | int, ...], Any], ...] = (
    *(("experiment.json", ("name",), name) for name in ("../../PWN", "/tmp/PWN", "other", "a\x1b[2J", "", 3)),  # noqa: S108
    *(("experiment.json", (key,), "\x1b]0;PWN\x07") for key in ("question", "reference", "models", "recipe")),
    *(("ledger.json", ("cells", 0, "run_id"), name) for name in ("../../etc", "a\x1b[2J", None, 3)),
    *(("ledger.json", (key,), value) for key, value in (("cells", "text"), ("counts", None), ("other", ["../../x"]))),
)
"""What a report may say of itself that is not so."""


def control_characters(text: str) -> int:
    """Control characters that would reach a terminal, line ends apart."""
    return sum(found not in "\n\r\t" for found in CONTROL.findall(text))


def fetched_reports(place: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """A report in W&B with one hostile name or value after another, made a report of here: refused, nothing outside."""
    counts, shown = Counter[str](), list[str]()
    with WandbService() as service:
        more = outside.online(service, place)
        if commands.start(place, overrides, fresh=True, **more).wait() != [0]:
            raise RuntimeError((place / "printed.txt").read_text(encoding="utf-8"))
        (artifact,) = [version for version in service.artifacts.values() if version.name == "report-smoke"]
        whole = dict(artifact.files)
        elsewhere = place / "deep" / "deeper"
        given = grids.environment(elsewhere, **more)
        command = [sys.executable, "-m", "experiments", "report", "smoke", "--from", "wandb:standin/vit-bench"]
        before = {path for path in place.rglob("*") if elsewhere not in path.parents}
        for name, files in [("whole", {}), *_hostile(whole)]:
            artifact.files = _packed(whole | files, artifact.id)
            done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)
            text = done.stdout + done.stderr
            verdict = "accepted" if done.returncode == 0 else "refused" if "error: " in text else "not_told"
            counts[verdict if name != "whole" else f"whole_{verdict}"] += 1
            counts["tracebacks"] += "Traceback" in text
            counts["control_characters_printed"] += control_characters(text)
            if verdict != ("accepted" if name == "whole" else "refused") or "Traceback" in text:
                shown.append(f"{name!r}: {text[-300:]}")
        after = {path for path in place.rglob("*") if elsewhere not in path.parents and path != elsewhere}
    new = [path for path in after - before if path != elsewhere.parent and not path.is_relative_to(place / ".cache")]
    stray = [path for path in elsewhere.iterdir() if path.name not in ("runs_dir", "reports_dir")]
    return {
        "hostile_reports": len(NAMES) + len(EDITS) + 1,
        "whole_report_refused": 1 - counts["whole_accepted"],
        "refused": counts["refused"],
        "not_refused": counts["accepted"] + counts["not_told"],
        "tracebacks": counts["tracebacks"],
        "files_outside": len(new) + len(stray) + Path("/tmp/PWN-of-chaos").exists(),  # noqa: S108
        "control_characters_printed": counts["control_characters_printed"],
        "examples": shown[:10],
    }


def _hostile(whole: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """A label and the files that differ from a whole report."""
    for name in NAMES:
        yield name, {name: b"PWN"}
    for file, keys, value in EDITS:
        values = json.loads(whole[f"report/{file}"])
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        yield f"{file}: {keys} = {value!r}", {f"report/{file}": json.dumps(values).encode()}
    yield "nested deeply", {"report/ledger.json": b"[" * 100_000}


def _packed(files: dict[str, bytes], owner: str) -> dict[str, bytes]:
    """Files with the checksums and the manifest that go with them."""
    files = {name: content for name, content in files.items() if name not in ("SHA256SUMS", "wandb_manifest.json")}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    files["SHA256SUMS"] = sums.encode()
    contents = {
        name: {
            "digest": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
            "size": len(content),
            "birthArtifactID": owner,
        }
        for name, content in files.items()
    }
    manifest = {
        "version": 1,
        "storagePolicy": "wandb-storage-policy-v1",
        "storagePolicyConfig": {"storageLayout": "V2"},
        "contents": contents,
    }
    return files | {"wandb_manifest.json": json.dumps(manifest).encode()}


DAMAGES: dict[str, bytes | None] = {
    "empty": b"",
    "zeros": bytes(4096),
    "cut": b'{"step": 1, "a',
    "nested": b"[" * 100_000,
    "no text": b'{"a": "\xff\xfe"}',
    "other type": b"[1, null, true]",
    "infinite": b'{"step": 1e999, "steps": NaN}',
    "folder": None,
}
STATE_FILES = ("splits.json", "data.json")
RUN_STATE_FILES = ("metrics.jsonl", "progress.json", "wandb/mirror.json", "record.json", "config.yaml", "run.lock")


def damaged_state(place: Path, whole: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Every state file of a finished grid, damaged in every way, under every command that reads it: told, no traceback."""
    variables = {name: str(place / name.lower()) for name in ("RUNS_DIR", "REPORTS_DIR", "DATA_DIR")}
    variables |= {"DEVICE": "cpu", "WANDB_MODE": "disabled"}
    counts, shown, started = Counter[str](), list[str](), list[str]()
    for name in ("runs_dir", "reports_dir"):
        shutil.copytree(whole / name, place / name)
    run = grids.run_folders(place)[0]
    targets = [run.parent / name for name in STATE_FILES] + [run / name for name in RUN_STATE_FILES]
    # Figures read what tables read, and drawing them takes most of a report's time.
    with inputs.no_cell_runs(started), mock.patch.object(figures, "draw", lambda *_: []):
        for path in targets:
            kept = path.read_bytes() if path.is_file() else None
            path.parent.mkdir(exist_ok=True)
            for damage, content in DAMAGES.items():
                for verb in (["status"], ["report"], ["run"], ["publish", "--to", str(place / "published")]):
                    path.unlink(missing_ok=True)
                    path.mkdir() if content is None else path.write_bytes(content)
                    arguments = [verb[0], "smoke", *overrides, *verb[1:]]
                    verdict, text = inputs.call([*arguments, *(["--jobs", "1"] if verb == ["run"] else [])], variables)
                    counts["commands"] += 1
                    counts[verdict] += 1
                    counts["control_characters_printed"] += control_characters(text)
                    if verdict in ("traceback", "wrong exit"):
                        shown.append(f"{verdict}: {path.name} {damage} {verb[0]}: {text[-300:]}")
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            if kept is not None:
                path.write_bytes(kept)
    return {
        "damaged_files": len(targets) * len(DAMAGES),
        "commands": counts["commands"],
        "tracebacks": counts["traceback"],
        "wrong_exits": counts["wrong exit"],
        "control_characters_printed": counts["control_characters_printed"],
        "examples": shown[:10],
    }


STEERING = ("\x1b[2Jclear", "\x1b]0;title\x07", "a\nb", "\x9b31m", "a\rb", "del\x7f", "bidi\u202e", "plain")
"""Parts of names that would steer a terminal, and a plain one."""


def steering_names(place: Path) -> dict[str, Any]:
    """Folders, classes and damaged files with control characters in their names: spelled out wherever they are printed."""
    draws, counts, shown = random.Random(0), Counter[str](), list[str]()
    variables = {name: str(place / name.lower()) for name in ("RUNS_DIR", "REPORTS_DIR", "DATA_DIR")}
    variables |= {"DEVICE": "cpu", "WANDB_MODE": "disabled"}
    small = ["recipe.steps=4", "recipe.evaluations=1", "seeds=[0]", "train_fractions=[1.0]", "models=[vit_micro_p2]"]
    small += ["reference=vit_micro_p2", "data=image_folder", "data.image_size=8"]
    with inputs.no_cell_runs([]):
        for number, steering in enumerate(STEERING):
            for where in ("class", "file", "photos"):
                photos = place / f"{number}{where}" / (f"photos{steering}" if where == "photos" else "photos")
                for name in ("cat", f"dog{steering}" if where == "class" else "dog"):
                    (photos / name).mkdir(parents=True)
                    for image in range(8):
                        (photos / name / f"{image}.png").write_bytes(pictures.whole(draws, "PNG"))
                if where == "file":
                    (photos / "cat" / f"9{steering}.png").write_bytes(b"\x89PNG damaged")
                words = ["run", "smoke", *small, f"data.path='{photos}'", "--jobs", "1"]
                verdict, text = inputs.call(words, variables)
                counts[verdict] += 1
                counts["control_characters_printed"] += (found := control_characters(text))
                if found or verdict in ("traceback", "wrong exit"):
                    shown.append(f"{verdict}: {where} {steering!r}: {text[-300:]!r}")
    return {
        "steering_names": 3 * len(STEERING),
        "refused": counts["refused"],
        "tracebacks": counts["traceback"] + counts["wrong exit"],
        "control_characters_printed": counts["control_characters_printed"],
        "examples": shown[:10],
    }


def endless_images(place: Path, whole: Path) -> dict[str, Any]:
    """Predict on a whole image, a sparse one of 3 GB, a link to a device, a pipe and a folder: refused before it is read."""
    place.mkdir(parents=True)
    run = grids.run_folders(whole)[0]
    good, sparse = place / "good.png", place / "sparse.jpg"
    good.write_bytes(pictures.whole(random.Random(0), "PNG"))
    with open(sparse, "wb") as file:
        file.write(pictures.whole(random.Random(0), "JPEG"))
        file.truncate(3 * 2**30)
    (place / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(place / "pipe.jpg")
    (place / "folder.jpg").mkdir()
    found = {
        name: _measured(run, place / name) for name in ("good.png", "sparse.jpg", "device.jpg", "pipe.jpg", "folder.jpg")
    }
    code, _, seconds, peak = found.pop("good.png")
    return {
        "endless_images": len(found),
        "whole_image_refused": int(code != 0),
        "refused": sum(code == 2 for code, *_ in found.values()),
        "not_refused": sum(code != 2 for code, *_ in found.values()),
        "refused_without_the_file's_name": sum(name not in text for name, (_, text, *_) in found.items()),
        "tracebacks": sum("Traceback" in text for _, text, *_ in found.values()),
        "seconds_more_than_a_whole_image": round(max(took for *_, took, _ in found.values()) - seconds, 2),
        "megabytes_more_than_a_whole_image": round((max(size for *_, size in found.values()) - peak) / 1024, 1),
    }


def _measured(run: Path, image: Path, limit: float = 120.0) -> tuple[int, str, float, int]:
    """Exit code, what was printed, seconds and peak memory in KiB of one prediction; ended after a time."""
    began, told = time.monotonic(), image.with_suffix(".txt")
    with open(told, "w", encoding="utf-8") as printed:
        command = [sys.executable, "-m", "experiments", "predict", str(run), str(image)]
        given = grids.environment(run)
        process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=printed, stderr=subprocess.STDOUT)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > limit:
            process.kill()
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, told.read_text(encoding="utf-8"), time.monotonic() - began, usage.ru_maxrss
