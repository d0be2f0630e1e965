"""Unpacking: honest archives whole, hostile ones not at all; the photos of pizza, steak and sushi."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from experiments.config.errors import ConfigError
from experiments.config.loading import load_part
from experiments.data import datasets, pizza_steak_sushi
from experiments.data.download import git_blob_id, unpack


def make_zip(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries:
            archive.writestr(name, content)
    return path


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def faults_of(archive: Path, folder: Path, **bounds: int) -> str:
    before = {path for path in folder.parent.parent.rglob("*") if path != archive}
    with pytest.raises(ConfigError) as caught:
        unpack(archive, folder, **({"max_bytes": 2**32} | bounds))
    after = {path for path in folder.parent.parent.rglob("*") if path != archive}
    assert after <= before | {folder.parent}, "nothing may be left behind"
    return "\n".join(caught.value.faults)


def test_unpacks_into_a_folder_that_appears_whole(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("train/", b""), ("train/pizza/1.jpg", b"one"), ("read me.txt", b"two")])
    unpack(archive, tmp_path / "to" / "photos", max_bytes=100)
    assert (tmp_path / "to" / "photos" / "train" / "pizza" / "1.jpg").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["photos"]
    (tmp_path / "to" / "photos" / "read me.txt").write_text("mine")
    unpack(archive, tmp_path / "to" / "photos", max_bytes=100)  # a second time changes nothing
    assert (tmp_path / "to" / "photos" / "read me.txt").read_text() == "mine"


OUTSIDE, TWICE = "leads out of the folder, or is not a plain file", "is there twice, or a file and a folder at once"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(entry(""), b"x")], OUTSIDE),
        ([("../out.txt", b"x")], OUTSIDE),
        ([("a/../../out.txt", b"x")], OUTSIDE),
        ([("/tmp/out.txt", b"x")], OUTSIDE),  # noqa: S108 - never written
        ([("C:/out.txt", b"x")], OUTSIDE),
        ([("a\\..\\out.txt", b"x")], OUTSIDE),
        ([("a//b.txt", b"x")], OUTSIDE),
        ([("a/\x1b[2J.txt", b"x")], OUTSIDE),
        ([(entry("link", stat.S_IFLNK | 0o777), b"/etc/passwd")], OUTSIDE),
        ([(entry("pipe", stat.S_IFIFO | 0o644), b"")], OUTSIDE),
        ([("a.txt", b"x"), ("a.txt", b"y")], TWICE),
        ([("A.txt", b"x"), ("a.TXT", b"y")], TWICE),
        ([("a/caf\u00e9.txt", b"x"), ("a/cafe\u0301.txt", b"y")], TWICE),
        ([("a", b"x"), ("a/b.txt", b"y")], TWICE),
        ([("a", b"x"), ("a/", b"")], TWICE),
        ([("a/b.txt", b"y"), ("A", b"x")], TWICE),
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], said: str) -> None:
    archive = make_zip(tmp_path / "a.zip", [("fine.txt", b"fine"), *entries])
    assert said in faults_of(archive, tmp_path / "to" / "photos")


def test_bombs_are_refused(tmp_path: Path) -> None:
    large = make_zip(tmp_path / "large.zip", [("zeros", bytes(5_000_000))])
    assert "5000000 bytes unpacked, more than 1000000" in faults_of(large, tmp_path / "to" / "photos", max_bytes=1_000_000)


def test_a_size_that_lies_is_seen_while_unpacking(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", [("zeros", bytes(3_000_000))])
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (10).to_bytes(4, "little")  # the unpacked size, as the directory says it
    archive.write_bytes(content)
    assert faults_of(archive, tmp_path / "to" / "photos", max_bytes=1_000_000)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip"])
def test_damaged_archives_are_named(tmp_path: Path, damage: str) -> None:
    archive = make_zip(tmp_path / "a.zip", [("a.bin", bytes(range(256)) * 40)])
    content = archive.read_bytes()
    broken = {"cut": content[:-30], "flipped": content[:60] + b"\xff" + content[61:], "no zip": b"<html>"}[damage]
    archive.write_bytes(broken)
    assert "a.zip: cannot be unpacked (" in faults_of(archive, tmp_path / "to" / "photos")


# --------------------------------------------------------------------------------------------- pizza, steak and sushi
def photo_zip(path: Path) -> Path:
    entries: list[tuple[str | zipfile.ZipInfo, bytes]] = []
    for split, count in (("train", 10), ("test", 3)):
        for index, name in enumerate(("pizza", "steak", "sushi")):
            for number in range(count):
                stored = io.BytesIO()
                Image.new("RGB", (24, 20), (80 * index, 20 * number, 0)).save(stored, "JPEG")
                entries.append((f"{split}/{name}/{number}.jpg", stored.getvalue()))
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_zip(path, entries)


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive in `DATA_DIR`, whose own ids stand for the published ones."""
    archive = photo_zip(tmp_path / "data_dir" / "pizza_steak_sushi.zip")
    published = pizza_steak_sushi.Published(git_blob_id(archive), pizza_steak_sushi.contents_digest(archive))
    monkeypatch.setitem(pizza_steak_sushi.ARCHIVES, "pizza_steak_sushi", published)
    return archive


def test_archive_put_there_by_hand_is_unpacked_and_read(by_hand: Path) -> None:
    config = load_part("data", "pizza_steak_sushi")
    dataset = datasets.load(config)
    assert dataset.class_names == ("pizza", "steak", "sushi")
    assert dataset.pool.pixels.shape == (30, 3, 64, 64) and len(dataset.test) == 9 and dataset.test_split == "its own"
    by_hand.unlink()  # the unpacked folder is enough from now on
    datasets._load.cache_clear()
    assert datasets.load(config).test.ids.tolist() == dataset.test.ids.tolist()


def test_the_same_photos_packed_anew_are_known(by_hand: Path) -> None:
    with zipfile.ZipFile(by_hand) as archive:
        entries = [(name, archive.read(name)) for name in reversed(archive.namelist())]
    before = git_blob_id(by_hand)
    make_zip(by_hand, entries)
    assert git_blob_id(by_hand) != before
    assert pizza_steak_sushi.fetched("pizza_steak_sushi").is_dir()


def test_other_photos_are_refused_with_the_address(by_hand: Path) -> None:
    make_zip(by_hand, [("train/pizza/1.jpg", b"another")])
    with pytest.raises(ConfigError, match=r"expected [0-9a-f]{40}\. Delete it and get https://.*/pizza_steak_sushi\.zip"):
        pizza_steak_sushi.fetched("pizza_steak_sushi")
    assert not (by_hand.parent / "pizza_steak_sushi").exists()


def test_what_is_no_archive_is_told(by_hand: Path) -> None:
    by_hand.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"not a whole zip archive .* Delete it and get it again"):
        pizza_steak_sushi.fetched("pizza_steak_sushi")


def test_offline_message_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pizza_steak_sushi, "ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(ConfigError) as caught:
        pizza_steak_sushi.fetched("pizza_steak_sushi")
    (fault,) = caught.value.faults
    assert f"put the file {tmp_path / 'data_dir' / 'pizza_steak_sushi.zip'} there" in fault and "data.path" in fault


def test_folder_of_ones_own_is_taken_as_it_is(by_hand: Path, tmp_path: Path) -> None:
    unpack(by_hand, tmp_path / "mine", max_bytes=pizza_steak_sushi.MAX_BYTES)
    config = load_part("data", "pizza_steak_sushi", {"path": (str(tmp_path / "mine"), "ARGS")})
    assert len(datasets.load(config).test) == 9
    assert not (by_hand.parent / "pizza_steak_sushi").exists()
