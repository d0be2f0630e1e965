"""Characters drawn from fonts: labels, unseen typefaces in the test, digests in data.json, and folders that will not do."""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig
from experiments.data import datasets, glyphs
from experiments.data.description import describe

SHIPPED = Path(str(find_spec("matplotlib").origin)).parent / "mpl-data" / "fonts" / "ttf"  # type: ignore[union-attr]
POOL, TEST = ("cmr10.ttf", "cmtt10.ttf"), ("DejaVuSans.ttf", "DejaVuSerif.ttf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fonts of three families, of which one is in the test set, and files that are none."""
    for name in (*POOL, *TEST):
        shutil.copy(SHIPPED / name, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no font")
    return tmp_path


def config(folder: Path | str, size: int = 16, **arguments: Any) -> DataConfig:
    return loading.load_part("data", "glyphs").model_copy(  # type: ignore[no-any-return]
        update={"path": str(folder), "image_size": size, "arguments": {"variants": 3, **arguments}}
    )


def faults_of(data: DataConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        datasets.load(data)
    (fault,) = caught.value.faults
    return fault


def test_each_font_draws_each_character_and_typefaces_do_not_part(folder: Path) -> None:
    found = datasets.load(config(folder))
    assert found.class_names == tuple("0123456789") and found.test_split == "typefaces unseen in training"
    for part in (found.pool, found.test):
        assert part.pixels.shape == (2 * 10 * 3, 1, 16, 16) and np.bincount(part.labels).tolist() == [6] * 10
        assert len({image.tobytes() for image in part.pixels}) > 50  # variants differ
    assert {name: found.made_of[name] for name in TEST} == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in TEST
    }
    assert found.notes[-1] == "4 fonts of 3 families, of which 1 are in the test set."


def test_images_show_their_characters(folder: Path) -> None:
    """Nearest class means, learned in one family of typefaces, know most digits of another."""
    found = datasets.load(config(folder, variants=20))
    flat = {part: np.asarray(getattr(found, part).pixels).reshape(-1, 256) / 255 for part in ("pool", "test")}
    means = np.stack([flat["pool"][found.pool.labels == digit].mean(0) for digit in range(10)])
    guessed = ((flat["test"][:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guessed == found.test.labels).mean() > 0.6  # chance is 0.1


def test_another_font_changes_no_image_of_the_others(folder: Path) -> None:
    before = datasets.load(config(folder))
    shutil.copy(SHIPPED / "cmss10.ttf", folder / "a.ttf")
    (folder / "z.otf").write_bytes(b"broken")
    shutil.copy(folder / "a.ttf", folder / "b.ttf")
    datasets.forget()
    after = datasets.load(config(folder))
    assert np.array_equal(after.test.pixels, before.test.pixels)
    assert {i.tobytes() for i in before.pool.pixels} < {i.tobytes() for i in after.pool.pixels}
    assert after.notes[:2] == (
        "1 of 7 fonts have the name of another, such as b.ttf.",
        "1 of 7 fonts cannot be read, such as z.otf.",
    )


def test_fonts_and_their_digests_are_kept_with_the_runs(folder: Path) -> None:
    described = describe(datasets.load(config(folder)), "Glyphs")
    assert described.made_of.keys() == {*POOL, *TEST} and all(len(digest) == 64 for digest in described.made_of.values())
    assert "4 fonts of 3 families" in described.warnings[0]


def test_other_characters_are_other_classes(folder: Path) -> None:
    assert datasets.load(config(folder, characters="aQ?")).class_names == ("a", "Q", "?")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"characters": "1"}, "`data.arguments.characters` must be two or more different characters in quotes, got '1'"),
        ({"characters": "aba"}, "different characters in quotes, got 'aba'"),
        ({"characters": 123}, "in quotes, got 123"),
        ({"variants": 0}, "`data.arguments.variants` must be a whole number from 1 to 10,000, got 0"),
        ({"variants": True}, "got True"),
        ({"character": "ab"}, "`data.arguments` has no 'character'. Did you mean 'characters'?"),
        ({"characters": "天地"}, "has the characters. 4 of 4 fonts lack one of '天地', such as DejaVuSans.ttf. Add"),
    ],
)
def test_what_cannot_be_drawn_is_one_message(folder: Path, arguments: dict[str, Any], words: str) -> None:
    assert words in faults_of(config(folder, **arguments))


def test_folders_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        assert f"no font (.ttf, .otf, .ttc) below {place}. Name a folder of fonts" in faults_of(config(place))
    for name in POOL:
        (folder / name).unlink()
    assert f"the fonts below {folder} (dejavu) do not give two sets of families" in faults_of(config(folder))
    shutil.copy(SHIPPED / "LastResortHE-Regular.ttf", tmp_path / "empty" / "one.ttf")
    assert "1 of 1 fonts draw two characters alike, such as one.ttf" in faults_of(config(tmp_path / "empty"))


def test_a_folder_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"`path` is missing: set `data.path` to a folder of fonts"):
        loading.load_part("data", "glyphs", {"path": (None, "test")})


def test_a_font_lies_below_data_dir_unless_its_path_is_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(folder.parent))
    assert len(glyphs.load(config(folder.name)).made_of) == 4
