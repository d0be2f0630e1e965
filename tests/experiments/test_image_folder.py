"""Folders of images: nothing is lost in silence, splits are told from classes, and data are described before use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.data import datasets, decoding, description, image_folder
from experiments.data.description import describe
from experiments.data.images import Dataset
from experiments.data.splits import nested_subset, split_hash
from experiments.grid import driver
from experiments.records.dataset import DataDescription, keep_descriptions, read_descriptions
from experiments.records.record import read_record
from tests.experiments.test_command import call
from tests.experiments.test_data import faults_of, folder_config, make_tree


def put(path: Path, grey: int = 0, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Path:
    """An image of one shade; equal shades are equal images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)
    return path


def put_classes(place: Path, start: int = 0, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    """Class folders, every image of another shade."""
    for at, name in enumerate(classes):
        for number in range(count):
            put(place / name / f"{number}.png", start + at * count + number)
    return place


def load(root: Path) -> Dataset:
    return image_folder.load(folder_config(root))


def described(root: Path) -> DataDescription:
    return describe(load(root), "Photos")


def test_folder_with_its_own_test_split(tmp_path: Path) -> None:
    dataset = datasets.load(folder_config(make_tree(tmp_path / "photos", ("train", "test"))))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.pool.pixels.shape == (20, 3, 16, 16)
    assert dataset.pool.ids[0].startswith("train/cat/0.png#")
    assert dataset.test.ids[-1].startswith("test/dog/9.png#")
    assert dataset.test_split == "its own"
    assert (dataset.pool.pixels[dataset.pool.labels == 1, 0] > 200).all()  # labels follow their images


@pytest.mark.parametrize("split", ["", "train"])
def test_folder_without_test_split_gets_one(tmp_path: Path, split: str) -> None:
    dataset = datasets.load(folder_config(make_tree(tmp_path / "photos", (split,))))
    assert len(dataset.pool) == 16 and dataset.test_split == "stratified 20% cut"
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]


def test_all_faults_of_a_tree_are_told_at_once(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", ("train", "test"))
    for split in ("train", "test"):
        (root / split / "empty").mkdir()
    (root / "train" / "cat" / "1.png").write_bytes(b"no image")
    (root / "test" / "dog" / "2.png").write_bytes(b"no image")
    (root / "train" / "dog" / "circle.png").symlink_to(root / "train" / "dog" / "circle.png")
    (root / "train" / "dog" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    text = faults_of(folder_config(root))
    for place in ("train/empty", "test/empty", "train/cat/1.png", "test/dog/2.png", "dog/circle.png", "dog/nowhere.png"):
        assert place in text, place


def test_wrong_trees_are_named(tmp_path: Path) -> None:
    assert "no folder" in faults_of(folder_config(tmp_path / "absent"))
    root = make_tree(tmp_path / "photos", ("train", "test"))
    (root / "train" / "empty").mkdir()
    text = faults_of(folder_config(root))
    assert f"{root / 'train' / 'empty'}: the class folder holds no image" in text
    assert "only one of them has empty" in text
    (tmp_path / "single" / "cat").mkdir(parents=True)
    assert "at least 2 are needed" in faults_of(folder_config(tmp_path / "single"))


# ------------------------------------------------------------------------------------------------------- which test split
@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training_set"])
@pytest.mark.parametrize(
    ("test", "said"),
    [
        *((name, "its own") for name in ("test", "Test", "TESTING", "test_set")),
        *((name, f"its own {name}/, used as test") for name in ("val", "Valid", "VALIDATION", "val-images")),
    ],
)
def test_the_users_own_split_is_read_whatever_its_name(tmp_path: Path, train: str, test: str, said: str) -> None:
    put_classes(tmp_path / train)
    put_classes(tmp_path / test, start=100, count=2)
    dataset = load(tmp_path)
    assert dataset.test_split == said and (len(dataset.pool), len(dataset.test)) == (6, 4)
    assert all(str(sample).startswith(f"{test}/") for sample in dataset.test.ids)


def test_beside_test_the_validation_folder_is_passed_over_and_said(tmp_path: Path) -> None:
    for place, start in (("train", 0), ("test", 50), ("Val", 100)):
        put_classes(tmp_path / place, start)
    put(tmp_path / "extra" / "a" / "1.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cat.txt").write_text("0 1 2")
    dataset = load(tmp_path)
    assert dataset.test_split == "its own" and len(dataset.pool) == len(dataset.test) == 6
    assert dataset.listing is not None
    assert dataset.notes == (
        "Val/ is passed over (6 images): test/ is the test split, and every run cuts its validation images from train/.",
        "extra/ is passed over (1 image): this split is not read.",
    )
    assert {reason: count for reason, (count, _) in dataset.listing.passed_over.items()} == {
        "in Val/, beside train/": 6,
        "in extra/, beside train/": 1,
        ".txt": 1,
    }


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train/cat", "train/dog", "test/cat", "Test/cat"), ["Test, test name the same split", "Merge or rename"]),
        (("train/cat", "train/dog", "val/cat", "Valid/cat", "test/cat"), ["Valid, val name the same split"]),
        (("train/cat", "train/dog", "Training/cat"), ["Training, train name the same split"]),
        (("test/cat", "test/dog", "val/cat", "val/dog"), ["class folders in test, val, but none in train"]),
        (("cat", "dog", "test/cat", "test/dog"), ["class folders in test, but none in train", "/train/<class>"]),
        (("train", "test"), ["all its folders are named like splits (test, train)"]),
        (("train",), ["all its folders are named like splits (train)", "train/<class>"]),
        (("training", "testing", "validation"), ["all its folders are named like splits"]),
        (("train/test/cat", "train/val/cat"), ["train: all its folders are named like splits (test, val)"]),
        (("train/cat", "train/dog", "test"), ["only one of them has cat, dog", "images without a class"]),
        (("train/cat", "train/dog", "val/cat"), ["only one of them has dog", "Without val/, a fifth of train/ is cut"]),
        (("photos/cat", "photos/dog"), ["holds 1 class folder; at least 2", "/photos the folder that is meant?"]),
        (("train/cat", "train/caf\u00e9", "test/cat", "test/cafe\u0301"), ["spelled otherwise", "'cafe\\u0301'"]),
    ],
)
def test_splits_that_cannot_be_told_are_refused(tmp_path: Path, folders: tuple[str, ...], words: list[str]) -> None:
    for at, folder in enumerate(folders):
        put(tmp_path / folder / "1.png", at)
        put(tmp_path / folder / "2.png", 100 + at)
    told = faults_of(folder_config(tmp_path))
    for word in words:
        assert word in told, told


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    dataset = load(put_classes(tmp_path, classes=("bus", "car", "train")))
    assert dataset.class_names == ("bus", "car", "train") and dataset.listing is not None
    assert dataset.notes == ("Read as classes, since they hold no class folders: train.",)


def test_a_training_folder_given_alone_tells_of_its_neighbours(tmp_path: Path) -> None:
    put_classes(tmp_path / "train")
    put_classes(tmp_path / "test", start=50)
    assert load(tmp_path / "train").notes == ("Not read: test beside train. Set `data.path` to the folder that holds both.",)


# ------------------------------------------------------------------------------------------------------- every file counts
def test_nested_folders_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    elsewhere = put_classes(tmp_path / "elsewhere", start=90)
    root = tmp_path / "photos"
    for at, name in enumerate(
        ("cat/b.png", "cat/a-b/1.png", "cat/a/z.PNG", "cat/a/c/2.png", "cat/a b/1.jpeg", "dog/2024/1.png", "dog/9.png")
    ):
        put(root / "train" / name, at)
    (root / "train" / "dog" / "linked").symlink_to(elsewhere / "cat")
    (root / "train" / "dog" / "one.png").symlink_to(elsewhere / "dog" / "0.png")
    (root / "train" / "eel").symlink_to(elsewhere / "dog")
    for name in ("cat", "dog", "eel"):
        put(root / "test" / name / "1.png", 200)
    dataset, reference = load(root), ImageFolder(str(root / "train"))
    assert [str(sample).rpartition("#")[0] for sample in dataset.pool.ids] == [
        os.path.relpath(path, root) for path, _ in reference.samples
    ]
    assert dataset.pool.labels.tolist() == reference.targets and list(dataset.class_names) == reference.classes


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = put_classes(tmp_path / "photos")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "deep" / "er").mkdir(parents=True)
    (root / "cat" / "deep" / "er" / "back").symlink_to(root / "cat" / "deep")
    put_classes(tmp_path / "other", start=50)
    (tmp_path / "other" / "cat" / "there").symlink_to(root / "dog")
    (root / "dog" / "away").symlink_to(tmp_path / "other" / "cat")  # from which a link leads back to dog
    dataset = load(root)
    assert len(dataset.pool) + len(dataset.test) == 6 + 3 and dataset.listing is not None
    assert dataset.listing.passed_over["link to a folder above it"][0] == 3
    (root / "self").symlink_to(root)
    assert "self: the class folder holds no image (passed over: 1 link to a folder above it)" in faults_of(
        folder_config(root)
    )


def mess(root: Path) -> dict[str, int]:
    """A tree with everything that a folder of photos may hold; how many files are to be passed over, by reason."""
    put_classes(root / "train", count=4)
    put_classes(root / "train" / "cat" / "2023", start=20)
    put_classes(root / "test", start=60)
    put_classes(root / "val", start=120)
    put_classes(root / "drafts", start=180)
    hidden = ["train/cat/.DS_Store", "train/cat/._0.png", "train/.hidden/a.png", ".git/HEAD", "train/dog/.thumbs/1/2.png"]
    system = ["__MACOSX/train/cat/0.png", "train/dog/@eaDir/0.png/small.jpg"]
    other = ["train/cat/Thumbs.db", "train/cat/2023/notes.TXT", "README.txt", "val/list.txt", "train/dog/0.png.txt"]
    empty = ["train/dog/empty.jpg", "test/cat/empty.png"]
    loose = ["cover.png", "train/loose.jpg", "test/loose.jpg"]
    for name in [*hidden, *system, *other, *empty, *loose, "train/cat/no_suffix"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"" if name in empty else b"content")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    (root / "train" / "cat" / "zero.png").symlink_to("/dev/zero")
    return {
        "hidden": 5,
        "of the operating system": 2,
        ".db": 1,
        ".txt": 4,
        "empty": 2,
        "image outside the class folders": 3,
        "without a suffix": 1,
        "pipe, socket or device": 2,
        "in val/, beside train/": 6,
        "in drafts/, beside train/": 6,
    }


def test_files_read_and_files_passed_over_are_all_files(tmp_path: Path) -> None:
    expected = mess(tmp_path)
    there = sum(len(files) for _, _, files in os.walk(tmp_path))
    found = described(tmp_path)
    assert found.files is not None
    assert found.files.read == 8 + 6 + 6 == sum(found.train.values()) + sum(found.test.values())
    assert {entry.reason: entry.files for entry in found.files.passed_over} == expected
    assert found.files.read + sum(expected.values()) == there
    assert all((tmp_path / entry.example).exists() for entry in found.files.passed_over)
    shown = found.summary[0]
    assert shown.startswith(
        "20 image files read, 32 (6 in drafts/, beside train/, 6 in val/, beside train/, 5 hidden, 4 .txt, "
    )
    assert "for other reasons) passed over" in shown


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jp2", ".avif", ".tga", ".pgm", ".ico"])
def test_every_suffix_that_pillow_opens_is_read(tmp_path: Path, suffix: str) -> None:
    root = put_classes(tmp_path)
    kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(suffix.lower())
    Image.new("L", (16, 16), 99).save(root / "cat" / f"other{suffix}", format=kind)
    found = described(root)
    assert found.files is not None and found.files.read == 7 and not found.files.passed_over


def test_a_class_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    root = put_classes(tmp_path)
    for name in ("1.HEIC", "2.heic", ".DS_Store"):
        (root / "owl").mkdir(exist_ok=True)
        (root / "owl" / name).write_bytes(b"content")
    assert "owl: the class folder holds no image (passed over: 1 hidden, 2 .heic)" in faults_of(folder_config(root))


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "test"), "4eb397322bc24a0433d75edf5d5fcabb5bef44a2b64b7f6e1abaf83dd633802b"),
        (("train",), "63d467ec1b99afbf5f22d1f6fe4ee7ecd74f8c3f321111dc226567618f070cf9"),
        (("",), "b89caa36788565a70f4e9bcf0a0228b59c77bc4ab586d521051da71d6fc6be73"),
    ],
)
def test_folders_that_were_read_whole_before_keep_their_split(
    tmp_path: Path, splits: tuple[str, ...], expected: str
) -> None:
    number = 0
    for split in splits:
        for name in ("Zebra", "cat", "dog 2"):
            for file in ("B.PNG", "a.png", "a-1.jpeg.png", "\u00e9.png", "10.bmp", "9.bmp"):
                put(tmp_path / split / name / file, number)
                number += 1
    dataset = load(tmp_path)
    pool = dataset.pool
    train, val = nested_subset(pool.labels, 1.0, 0)
    assert split_hash(pool.ids[train], pool.ids[val], dataset.test.ids) == expected


def test_many_faults_are_counted(tmp_path: Path) -> None:
    root = put_classes(tmp_path / "photos", count=30)
    for number in range(25):
        (root / "cat" / f"{number}.png").write_bytes(b"no image")
    (root / "dog" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    told = faults_of(folder_config(root)).splitlines()
    assert len(told) == 21 and "nowhere.png" in told[0] and told[-1] == "… and 6 more faults."


def test_headers_of_a_set_too_large_to_be_decoded_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CACHE_BYTES", 1)
    root = put_classes(tmp_path / "photos", count=10)
    (root / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"broken\.png: not a readable image"):
        described(root)


# ------------------------------------------------------------------------------------------------------------ class names
NAMES = (
    *("\u732b", "\u0642\u0637\u0629", "\U0001f431\u200d\U0001f469", "caf\u00e9", "re\u0301sume\u0301", "a  b", 'it\'s "q"'),
    *("-rf", "=1+1", "x" * 255, "<b>&_%$#{}\\", "`*|~^", "[red]x", "a.jpg", "%s{0}"),
)


def test_class_names_of_every_script_are_classes(tmp_path: Path) -> None:
    dataset = load(put_classes(tmp_path, classes=NAMES))
    assert set(dataset.class_names) == set(NAMES) and list(dataset.class_names) == sorted(NAMES)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("caf\u00e9", "cafe\u0301"), ["'cafe\\u0301' and 'caf\\xe9' look the same", "Merge the folders or rename one"]),
        (("cat", "cat "), ["'cat' and 'cat ' look the same"]),
        (("cat", "d\x1b[2Jog"), ["the class name 'd\\x1b[2Jog' is not printable text"]),
        (("cat", "dog\n"), ["the class name 'dog\\n' is not printable text"]),
    ],
)
def test_class_names_that_would_mislead_are_refused(tmp_path: Path, names: tuple[str, ...], words: list[str]) -> None:
    told = faults_of(folder_config(put_classes(tmp_path, classes=names)))
    assert all(word in told for word in words), told


def test_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    root = put_classes(tmp_path / "photos")
    (root / "cat" / os.fsdecode(b"a\xff.png")).write_bytes((root / "cat" / "0.png").read_bytes())
    (root / "cat" / os.fsdecode(b"b\xff.d\xff")).write_bytes(b"content")
    assert "its name is not valid UTF-8. Rename it." in faults_of(folder_config(root))
    (root / "cat" / os.fsdecode(b"a\xff.png")).unlink()
    listing = load(root).listing
    assert listing is not None and listing.passed_over == {".d\\udcff": (1, "cat/b\\udcff.d\\udcff")}


def test_names_that_differ_in_case_are_two_classes_and_said(tmp_path: Path) -> None:
    assert load(put_classes(tmp_path, classes=("Cat", "cat"))).notes == (
        "Cat and cat differ in letter case alone, and are two classes.",
    )


def test_the_same_folders_in_every_class_are_said(tmp_path: Path) -> None:
    for place in ("a/cat", "a/dog", "b/cat", "b/dog"):
        put_classes(tmp_path / place, classes=("",))
    assert load(tmp_path).notes == ("Every class folder holds cat, dog; they are read as parts of their class.",)


# ----------------------------------------------------------------------------------------------------------- small classes
@pytest.mark.parametrize(("count", "left"), [(1, "0 images"), (2, "1 image")])
def test_a_class_that_the_cut_of_a_test_set_leaves_too_small_is_named(tmp_path: Path, count: int, left: str) -> None:
    put_classes(tmp_path / "photos", count=10)
    put_classes(tmp_path / "photos", start=50, classes=("owl",), count=count)
    experiment = loading.load_experiment(
        "vit_photos", {"data.path": str(tmp_path / "photos"), "train_fractions": [0.5, 1.0]}
    )
    with pytest.raises(ConfigError) as caught:
        driver.plan(experiment)
    assert caught.value.faults == [
        f"experiment vit_photos with data image_folder: class owl has {left} for training and validation (the cut of "
        f"a test set took 1); at least 2 are needed, one to train and one to validate: add images to the class."
    ]


def test_many_small_classes_are_named_in_part() -> None:
    labels = np.repeat(np.arange(9), 4)
    with pytest.raises(ConfigError) as caught:
        nested_subset(labels, 0.25, 0, [f"c{label}" for label in range(10)])
    assert len(caught.value.faults) == 6 and "leaves class c4 with 1 of its 4 images;" in caught.value.faults[4]
    assert caught.value.faults[5] == "`train_fractions`: 0.25 leaves 5 more classes with fewer than 2 images."


# -------------------------------------------------------------------------------------------------------------- duplicates
def test_duplicates_within_and_across_splits_are_counted(tmp_path: Path) -> None:
    shades = {
        "train/cat": (1, 1, 2, 3),  # one repeats another
        "train/dog": (4, 3),  # 3 is a cat too
        "test/cat": (1, 1, 9),  # 1 is in train, and twice here
        "test/dog": (2, 8, 8),  # 2 is a training cat; 8 is twice here
    }
    for place, greys in shades.items():
        for number, grey in enumerate(greys):
            put(tmp_path / place / f"{number}.png", grey)
    (tmp_path / "train" / "dog" / "0.png").rename(tmp_path / "train" / "dog" / "9.png")
    found = described(tmp_path)
    assert found.duplicates is not None
    assert {name: value and (value.images, value.example) for name, value in found.duplicates} == {
        "within_train": (2, ("train/cat/1.png", "train/cat/0.png")),
        "within_test": (2, ("test/cat/1.png", "test/cat/0.png")),
        "across": (3, ("test/cat/0.png", "train/cat/0.png")),
        "across_classes": (4, ("train/cat/2.png", "test/dog/0.png")),
    }
    assert found.leak == "Test images that are training or validation images too: 3 of 6"
    assert found.warnings[0] == f"{found.leak}, such as test/cat/0.png = train/cat/0.png."
    assert found.warnings[3] == "Equal images in different classes: 4, such as train/cat/2.png = test/dog/0.png."


def test_equal_check_sums_of_other_pixels_are_no_duplicates(tmp_path: Path) -> None:
    dataset = load(put_classes(tmp_path, count=10))
    ids = np.array([f"{str(sample).rpartition('#')[0]}#00000000" for sample in dataset.pool.ids])
    same = Dataset(dataset.class_names, type(dataset.pool)(dataset.pool.pixels, dataset.pool.labels, ids), dataset.test,
                   dataset.test_split, dataset.listing)  # fmt: skip
    found = describe(same, "Photos").duplicates
    assert found is not None and not any(value for _, value in found)


def test_of_a_set_too_large_to_be_decoded_no_duplicates_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CACHE_BYTES", 1)
    found = described(put_classes(tmp_path, count=10))
    assert found.duplicates is None and found.files is not None and found.files.read == 20 and not found.warnings


# ------------------------------------------------------------------------------------------------------------- description
def test_a_folder_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "train" / "cat" / "1.png", 1, (30, 20))
    put(tmp_path / "train" / "cat" / "2.png", 2, (16, 40), "L")
    put(tmp_path / "train" / "cat" / "3.png", 3, (16, 16), "RGBA")
    put_classes(tmp_path / "train", start=10, classes=("dog",), count=2)
    put_classes(tmp_path / "val", start=20, count=1)
    dataset = load(tmp_path)
    found = describe(dataset, "Photos")
    assert found.train == {"cat": 3, "dog": 2} and found.test == {"cat": 1, "dog": 1}
    assert found.files is not None and (found.files.width, found.files.height) == ((16, 30), (16, 40))
    assert found.files.modes == {"RGB": 5, "L": 1, "RGBA": 1}
    assert found.summary == [
        "7 image files read, none passed over; 16–30 × 16–40 pixels; RGB 5, L 1, RGBA 1.",
        "2 classes; 5 images for training and validation, 2 to 3 a class (median 2.5); 2 for the test, 1 a class. Test "
        "split: its own val/, used as test.",
    ]
    monkeypatch.setattr(description, "header", None)  # opening a file again would fail
    assert describe(dataset, "Photos", found) == found


def test_an_embedded_set_is_described(tmp_path: Path) -> None:
    found = describe(datasets.load(loading.load_part("data", "digits")), "Digits")
    assert found.files is None and not found.warnings
    assert found.summary == [
        "10 classes; 1,433 images for training and validation, 139 to 146 a class (median 144); 364 for the test, 35 to 37 "
        "a class (median 36.5). Test split: a stratified fifth, cut here."
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"k": 3}', "[" * 5000, '{"k": {"title": "x"}}', "\xff"])
def test_damaged_descriptions_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_bytes(text.encode("latin-1"))
    assert read_descriptions(tmp_path) == {}


def test_descriptions_keep_the_splits_of_the_same_images(tmp_path: Path) -> None:
    one = DataDescription(title="P", test_split="its own", train={"a": 1}, test={"a": 1}, samples="s", split_hashes=["1"])
    keep_descriptions({"k": one}, tmp_path)
    keep_descriptions({"k": one.model_copy(update={"split_hashes": ["2"]}), "other": one}, tmp_path)
    assert read_descriptions(tmp_path)["k"].split_hashes == ["1", "2"]
    keep_descriptions({"k": one.model_copy(update={"split_hashes": ["3"], "samples": "t"})}, tmp_path)
    known = read_descriptions(tmp_path)
    assert known["k"].split_hashes == ["3"] and known["other"] == one


def test_what_was_read_is_said_on_the_screen_in_the_record_in_captions_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis import figures

    monkeypatch.setattr(figures, "draw", lambda *_: [])
    classes = ("\u732b", "<b>&_%", "re\u0301sume\u0301")
    root = tmp_path / "photos"
    put_classes(root / "train", classes=classes, count=4)
    put_classes(root / "val", classes=classes, count=1)  # three copies of training images, two in another class
    (root / "train" / "notes.txt").write_text("content")
    arguments = ["smoke", "data=image_folder", f"data.path='{root}'", "data.image_size=8", "recipe.steps=2",
                 "recipe.evaluations=1", "seeds=[0]", "train_fractions=[1.0]", "models=[vit_micro_p2]",
                 "reference=vit_micro_p2", "expect=[]"]  # fmt: skip
    assert call(monkeypatch, "run", *arguments, "--jobs", "1") == 0
    printed = capsys.readouterr().out
    leak = "Test images that are training or validation images too: 3 of 3"
    origin = "its own val/, used as test"
    for words in (
        "15 image files read, 1 (1 .txt) passed over",
        origin,
        f"{leak}, such as val/<b>&_%/0.png = ",
        "12 photos are few to learn from scratch",
        "models=[vit_base_p16_probe,resnet50_probe]",
    ):
        assert words in printed, printed
    assert printed.index(leak) < printed.index("[1/1] done")
    runs = tmp_path / "runs_dir" / "smoke"
    record = read_record(next(runs.glob("*/record.json")))
    assert record.test_split == origin
    (known,) = read_descriptions(runs).values()
    assert known.leak == leak and known.split_hashes == [record.split_hash]
    assert str(tmp_path) not in (runs / "data.json").read_text(encoding="utf-8")
    report = tmp_path / "reports_dir" / "smoke"
    for name in ("accuracy", "data_efficiency", "compute"):
        for suffix in (".md", ".tex"):
            caption = (report / f"{name}{suffix}").read_text(encoding="utf-8")
            assert f"3 test images (test split: {origin})" in caption and f"{leak}." in caption
    page = (report / "report.html").read_text(encoding="utf-8")
    assert 'id="data"' in page and f"{leak}, such as val/&lt;b&gt;&amp;_%/0.png" in page and ".txt" in page

    # Published, and without its description as earlier records are.
    assert call(monkeypatch, "publish", *arguments, "--to", str(tmp_path / "paper")) == 0
    assert read_descriptions(tmp_path / "paper" / "smoke") == {key: known for key in read_descriptions(runs)}
    (runs / "data.json").unlink()
    assert call(monkeypatch, "report", *arguments) == 0
    page = (report / "report.html").read_text(encoding="utf-8")
    assert 'id="data"' not in page and origin in page and leak not in page
