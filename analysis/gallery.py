"""Test images and what every run answered on them, for a page that lets two models be compared image by image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from analysis.load import Results, select
from analysis.text import percent
from experiments.config.schema import Experiment
from experiments.records.record import EXAMPLES_FILE

MOST_ANSWERS = 60_000
"""Answers of all runs that a page holds, of some 9 characters each: fewer images of a dataset where runs are more."""
MOST_BYTES = 700_000
"""Bytes of all thumbnails of a dataset."""
MOST_MAPS = 100_000
"""Patches of all maps of attention of a dataset."""


Kept = Mapping[str, np.ndarray]
"""Images as ``examples.npz`` holds them: ``pixels``, (N, C, H, W), and ``sample_ids``."""


def gather(results: Results, experiment: Experiment, embedded: Mapping[str, Kept]) -> list[dict[str, Any]]:
    """What the page needs of each dataset and setting: images, labels, and the answers of every run, as plain values.

    ``answers`` is keyed by model, train fraction and seed: predicted class, its probability and that of the label, in per
    cent, an entry per image. ``maps`` has where the project's own ViT looked, for the first seed, as text in base 64.
    ``sprite`` holds as many images as a page can carry, of a run's ``examples.npz`` or else of `embedded`, test images by
    dataset; it is empty without either.
    """
    found = []
    for data, setting in results.groups:
        runs = select(results.runs, data=data, setting=setting)
        if len(runs):
            usual = runs[runs["test_digest"] == runs["test_digest"].mode().iloc[0]]
            found.append(_group(results, experiment, usual, embedded.get(data)))
    return found


def _group(results: Results, experiment: Experiment, runs: pd.DataFrame, embedded: Kept | None) -> dict[str, Any]:
    first = runs.iloc[0]
    ids = results.predictions(first["run_id"])["sample_ids"]
    kept = filter(None, (_examples(results, run_id) for run_id in runs["run_id"]))
    examples = next(kept, embedded or {"sample_ids": ids})
    most = max(1, MOST_ANSWERS // len(results.runs))
    if "pixels" in examples:
        most = min(most, MOST_BYTES // examples["pixels"][0].nbytes)
    place = {str(sample): at for at, sample in enumerate(ids)}
    chosen = [at for at, sample in enumerate(examples["sample_ids"]) if str(sample) in place][:most]
    at = np.array([place[str(examples["sample_ids"][index])] for index in chosen], dtype=int)
    labels = results.labels[first["test_digest"]][at]
    title = ", ".join(filter(None, [experiment.data[first["data"]].title, first["setting"]]))
    return {
        "title": title,
        "classes": list(results.class_names[first["data"]]),
        "models": [[name, experiment.models[name].title] for name in runs["model"].unique()],
        "fractions": [[f"{share:g}", f"{percent(share)} (n = {n:,.0f})"] for share, n in
                      runs.groupby("train_fraction")["n"].first().items()],
        "seeds": sorted(map(int, runs["seed"].unique())),
        "ids": [str(ids[index]) for index in at],
        "of": len(ids),
        "labels": labels.tolist(),
        "answers": {_key(run): _answers(results, run.run_id, at, labels) for run in runs.itertuples()},
        "maps": _maps(results, runs, [str(ids[index]) for index in at]),
        **_sprite(examples.get("pixels"), chosen),
    }  # fmt: skip


def _key(run: Any) -> str:
    return f"{run.model} {run.train_fraction:g} {run.seed}"


def _answers(results: Results, run_id: str, at: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    shares = softmax(results.predictions(run_id)["logits"][at].astype(np.float64), axis=1)
    of_label = shares[np.arange(len(at)), labels]
    parts = (np.rint(100 * part).astype(int).tolist() for part in (shares.max(axis=1), of_label))
    return [shares.argmax(axis=1).tolist(), *parts]


def _examples(results: Results, run_id: str) -> dict[str, np.ndarray] | None:
    """Images, ids and perhaps attention that a run kept; None where it kept none or they cannot be read."""
    try:
        with np.load(results.folder / run_id / EXAMPLES_FILE, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception:  # a damaged archive raises nearly anything; the page then says that there are no thumbnails
        return None
    pixels = arrays.get("pixels")
    whole = pixels is not None and pixels.ndim == 4 and pixels.dtype == np.uint8 and pixels.shape[1] in (1, 3)
    return arrays if whole and len(arrays.get("sample_ids", ())) == len(arrays["pixels"]) else None


def _maps(results: Results, runs: pd.DataFrame, ids: list[str]) -> Mapping[str, Any]:
    """Where the project's own ViT looked on these images, by run of the first seed."""
    own = runs[(runs["source"] == "scratch") & (runs["seed"] == runs["seed"].min())]
    found: dict[str, Any] = {}
    room = MOST_MAPS
    for run in own.sort_values("train_fraction", ascending=False).itertuples():
        kept = _examples(results, str(run.run_id)) or {}
        maps = kept.get("attention")
        rows = {str(sample): index for index, sample in enumerate(kept.get("sample_ids", ()))}
        if maps is None or maps.ndim != 3 or maps.dtype != np.uint8 or set(ids) - set(rows) or len(maps) != len(rows):
            continue
        some = maps[[rows[sample] for sample in ids]]
        room -= some.size
        if room >= 0:
            found[_key(run)] = {"side": list(some.shape[1:]), "values": base64.b64encode(some.tobytes()).decode()}
    return found


def _sprite(pixels: np.ndarray | None, chosen: list[int]) -> dict[str, Any]:
    """The thumbnails side by side in one PNG as an address, with the pixels of one and how many stand in a row."""
    if pixels is None:
        return {"sprite": "", "side": [0, 0], "columns": 1}
    images = pixels[chosen].transpose(0, 2, 3, 1)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    height, width, channels = images.shape[1:]
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[: len(images)] = images
    grid = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    picture = grid.reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(file, format="png", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"sprite": address, "side": [height, width], "columns": columns}
