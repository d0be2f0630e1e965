"""What the page holds of single test images."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from analysis import gallery, page, verdict
from analysis.load import load
from analysis.summary import summarise


def _gathered(runs, embedded=None):
    (group,) = gallery.gather(load(runs.ledger, runs.folder, runs.experiment), runs.experiment, embedded or {})
    return group


def _keep(runs, run_id, count=9, **more):
    """Thumbnails as a run keeps them: image k is filled with k."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 4, 6))
    np.savez(runs.folder / run_id / "examples.npz", pixels=pixels, sample_ids=np.arange(count) + 5010, **more)


def test_answers_are_those_of_the_predictions(synthetic_runs):
    group = _gathered(synthetic_runs)
    assert group["of"] == len(group["ids"]) == 400 and group["sprite"] == "" and group["maps"] == {}
    assert group["models"][-1] == ["vit", "ViT (ours)"] and group["fractions"][0] == ["0.1", "10% (n = 100)"]
    with np.load(synthetic_runs.folder / synthetic_runs.run_id("vit", 0.3, 2) / "predictions.npz") as stored:
        shares, labels = softmax(stored["logits"], axis=1), stored["labels"]
    predicted, confidence, of_label = map(np.array, group["answers"]["vit 0.3 2"])
    assert (predicted == shares.argmax(axis=1)).all() and (labels == group["labels"]).all()
    assert np.abs(confidence - 100 * shares.max(axis=1)).max() <= 0.51
    assert np.abs(of_label - 100 * shares[np.arange(400), labels]).max() <= 0.51


def test_thumbnails_and_attention_are_of_the_images_that_are_named(synthetic_runs):
    maps = np.arange(9 * 4, dtype=np.uint8).reshape(9, 2, 2)
    _keep(synthetic_runs, synthetic_runs.run_id("vit"), attention=maps[::-1])
    group = _gathered(synthetic_runs)
    assert group["ids"] == [str(5010 + at) for at in range(9)] and len(group["answers"]["vit 1 0"][0]) == 9
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(group["sprite"].partition(",")[2]))))
    assert sheet.shape == (12, 18, 3) and group["side"] == [4, 6] and group["columns"] == 3
    assert sheet[::4, ::6, 0].ravel().tolist() == list(range(9))
    kept = group["maps"]["vit 1 0"]
    assert kept["side"] == [2, 2] and base64.b64decode(kept["values"]) == maps[::-1].tobytes()


def test_embedded_images_stand_in_where_no_run_kept_any(synthetic_runs):
    pixels = np.broadcast_to(np.arange(400, dtype=np.uint8)[:, None, None, None] // 2, (400, 1, 2, 2))
    embedded = {"shapes": {"pixels": pixels, "sample_ids": np.arange(400) + 5000}}
    group = _gathered(synthetic_runs, embedded)
    assert group["sprite"] and group["side"] == [2, 2] and len(group["ids"]) == group["of"] == 400 and group["maps"] == {}
    _keep(synthetic_runs, synthetic_runs.run_id("vit"))
    assert _gathered(synthetic_runs, embedded)["side"] == [4, 6]


def test_many_runs_and_large_images_leave_fewer_of_them(synthetic_runs, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_ANSWERS", 36 * 50)
    assert len(_gathered(synthetic_runs)["ids"]) == 50
    _keep(synthetic_runs, synthetic_runs.run_id("vit"))
    monkeypatch.setattr(gallery, "MOST_BYTES", 5 * 3 * 4 * 6)
    assert len(_gathered(synthetic_runs)["ids"]) == 5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", None])
def test_damaged_examples_leave_the_page_without_thumbnails(synthetic_runs, content):
    path = synthetic_runs.folder / synthetic_runs.run_id("vit") / "examples.npz"
    if content is None:
        np.savez(path, pixels=np.zeros((3, 2)), sample_ids=np.arange(3))
    else:
        path.write_bytes(content)
    assert _gathered(synthetic_runs)["sprite"] == ""


def test_class_names_from_right_to_left_stand_in_the_page_as_they_are(synthetic_runs):
    names = np.array(["חתול", "كلب", "owl", "</script>"])
    for cell in synthetic_runs.ledger["cells"]:
        synthetic_runs.edit_predictions(cell["run_id"], class_names=names)
    group = _gathered(synthetic_runs)
    assert group["classes"] == names.tolist() and "</script" not in page.script_json([group])


def test_guessing_is_called_guessing(synthetic_runs):
    summary = summarise(
        load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment), synthetic_runs.experiment
    )
    assert not [text for text in verdict.sentences(summary) if "guessing" in text]
    summary.cells["low"] = 0.24
    assert [text for text in verdict.sentences(summary) if "guessing one of 4 classes" in text]
