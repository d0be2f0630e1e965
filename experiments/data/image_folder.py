"""Any tree of photos: ``train/<class>/**`` and ``test/<class>/**``, or ``<class>/**`` (also below ``train/``) alone.

A class folder is read as `torchvision.datasets.ImageFolder` reads it: with all folders below it, through links, in the same
order. Splits are known by their names, in any letter case. Whatever is passed over is counted by its reason.
`experiments.data.decoding` turns the files into pixels.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.config.errors import ConfigError
from experiments.config.paths import data_dir, in_data_dir
from experiments.config.schema import DataConfig
from experiments.config.text import listed, printable
from experiments.data.decoding import SUFFIXES, pixels_of
from experiments.data.images import CUT, OWN, Dataset, Images, Listing, Rows

_SPLIT_NAME = re.compile(r"(?:(train|test)(?:ing)?|(val)(?:id(?:ation)?)?)(?:[ ._-]?(?:set|data|images|split))?")
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
"""Where operating systems and file servers keep copies, thumbnails and what was deleted."""
_MAX_FAULTS = 20

Classes = dict[str, list[Path]]
"""Image files by class, both in order."""


def split_role(name: str) -> str:
    """The split that a folder of this name stands for, ``train``, ``test`` or ``val``; empty for any other name."""
    match = _SPLIT_NAME.fullmatch(name.casefold())
    return (match[1] or match[2]) if match else ""


def _unread(name: str) -> str:
    """Why a file or folder of this name is never looked into; empty where it is."""
    if name.startswith("."):
        return "hidden"
    return "of the operating system" if name.casefold() in _SYSTEM_FOLDERS else ""


def _no_image(name: str) -> str:
    """Why a file of this name is not read as an image; empty where it may be one."""
    suffix = os.path.splitext(name)[1].lower()
    return _unread(name) or ("" if suffix in SUFFIXES else printable(suffix) or "without a suffix")


def _folders(place: Path) -> list[Path]:
    """The folders in a place that may hold images, by name; not the cache of pixels, where the place is `DATA_DIR`."""
    cache = data_dir() / "cache"
    return sorted(entry for entry in place.iterdir() if entry.is_dir() and not _unread(entry.name) and entry != cache)


def _listed(names: Collection[str]) -> str:
    """Names for a message, a few of many."""
    return listed([printable(name) for name in sorted(names)], 10)


class _Tree:
    """What lies below a folder: images by split and class, what is passed over and why, notes, faults."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed_over: dict[str, tuple[int, str]] = {}
        self.notes: list[str] = []
        self.faults: list[str] = []

    def splits(self) -> tuple[Classes, Classes | None, str]:
        """Files of the pool and of the test split, if there is one, and where the test split comes from.

        Raises
        ------
        ConfigError
            If there is no folder, or its folders cannot be told apart as splits or classes.
        """
        if not self.root.is_dir():
            raise ConfigError(
                f"`data.path`: no folder {self.root}. Set it to a folder that holds train/<class>/* or <class>/*."
            )
        roles: dict[str, list[Path]] = {}
        for folder in _folders(self.root):
            roles.setdefault(split_role(folder.name), []).append(folder)
        if not any(_folders(folder) for folder in roles.get("train", [])):
            self._check_no_splits(roles)
            return self._pool(self.root), None, CUT
        twice = [_listed([folder.name for folder in found]) for role, found in roles.items() if role and len(found) > 1]
        if twice:
            raise ConfigError(*[f"{self.root}: {names} name the same split. Merge or rename them." for names in twice])
        (train,) = roles["train"]
        test = next((roles[role][0] for role in ("test", "val") if role in roles), None)
        self._pass_over_siblings(train, test)
        pool = self._pool(train)
        if test is None:
            return pool, None, CUT
        held_out = self._classes(test)
        self._compare(pool, held_out, train, test)
        return pool, held_out, OWN if split_role(test.name) == "test" else f"its own {test.name}/, used as test"

    def _check_no_splits(self, roles: Mapping[str, list[Path]]) -> None:
        """Class folders alone must not be splits in truth."""
        held_out = [folder.name for role in ("test", "val") for folder in roles.get(role, []) if _folders(folder)]
        if held_out:
            raise ConfigError(
                f"{self.root}: holds class folders in {_listed(held_out)}, but none in train. Put the images to train "
                f"on into {self.root / 'train'}/<class>, or rename {_listed(held_out)} if that is a class."
            )
        named = [folder.name for role, folders in roles.items() if role for folder in folders]
        if named and roles.get(""):
            self.notes.append(f"Read as classes, since they hold no class folders: {_listed(named)}.")
        if split_role(self.root.name) == "train":
            beside = [folder.name for folder in _folders(self.root.parent) if split_role(folder.name) in ("test", "val")]
            if beside:
                self.notes.append(
                    f"Not read: {_listed(beside)} beside {self.root.name}. Set `data.path` to the folder that holds both."
                )

    def _pass_over_siblings(self, train: Path, test: Path | None) -> None:
        """Count, and name, what lies beside the splits that are read."""
        folders = _folders(self.root)
        self._pass_over_others(self.root, folders)
        for folder in folders:
            if folder in (train, test):
                continue
            reason = f"in {printable(folder.name)}/, beside {train.name}/"
            self._files(folder, reason)
            why = "this split is not read"
            if test and split_role(folder.name) == "val":
                why = f"{test.name}/ is the test split, and every run cuts its validation images from {train.name}/"
            if count := self.passed_over.get(reason, (0, ""))[0]:
                self.notes.append(f"{printable(folder.name)}/ is passed over ({count} image{'s' * (count != 1)}): {why}.")

    def _pool(self, place: Path) -> Classes:
        """The classes to train on, at least two."""
        found = self._classes(place)
        if len(found) < 2:
            inside = [folder for folder in _folders(place) if len(_folders(folder)) > 1]
            hint = f" Is {inside[0]} the folder that is meant?" if inside else ""
            folders = f"{len(found) or 'no'} class folder{'s' * (not found)}"
            self.faults.append(f"`data.path`: {place} holds {folders}; at least 2 are needed, with images.{hint}")
        return found

    def _classes(self, place: Path) -> Classes:
        """The class folders of a split with their images."""
        folders = _folders(place)
        names = [folder.name for folder in folders]
        if names and all(map(split_role, names)):
            raise ConfigError(
                f"{place}: all its folders are named like splits ({_listed(names)}), and no train holds class folders. "
                "Sort the images into train/<class> and test/<class>, or rename the folders if they are classes."
            )
        self._pass_over_others(place, folders)
        self._check_names(place, names)
        first, *others = [{inner.name for inner in _folders(folder)} for folder in folders] or [set()]
        if others and len(first) > 1 and all(other == first for other in others):
            self.notes.append(f"Every class folder holds {_listed(first)}; they are read as parts of their class.")
        return {folder.name: self._images(folder) for folder in folders}

    def _check_names(self, place: Path, names: list[str]) -> None:
        """Class names must be text, and must look different."""
        for name in names:
            if printable(name) != name:
                self.faults.append(f"{place}: the class name {name!a} is not printable text. Rename the folder.")
        looks: dict[str, str] = {}
        cases: dict[str, str] = {}
        for name in names:
            look = unicodedata.normalize("NFC", name).strip()
            if look in looks:
                self.faults.append(
                    f"{place}: the class names {looks[look]!a} and {name!a} look the same. Merge the folders or rename one."
                )
            elif look.casefold() in cases:
                self.notes.append(f"{cases[look.casefold()]} and {name} differ in letter case alone, and are two classes.")
            looks.setdefault(look, name)
            cases.setdefault(look.casefold(), name)

    def _compare(self, pool: Classes, held_out: Classes, train: Path, test: Path) -> None:
        """Both splits must hold the same classes."""
        odd = set(pool) ^ set(held_out)
        if not odd:
            return
        advice = ""
        if not held_out:
            advice = f" {test.name} holds no class folder: images without a class cannot be used to test."
        elif len({unicodedata.normalize("NFC", name).strip() for name in odd}) < len(odd):
            advice = (
                f" Some look the same and are spelled otherwise ({', '.join(ascii(name) for name in sorted(odd))[:300]})."
            )
        if split_role(test.name) == "val":
            advice += f" Without {test.name}/, a fifth of {train.name}/ is cut as the test split."
        both = f"{train.name} and {test.name}"
        self.faults.append(f"{self.root}: {both} must hold the same classes; only one of them has {_listed(odd)}.{advice}")

    def _images(self, folder: Path) -> list[Path]:
        """The images of a class."""
        before = dict(self.passed_over)
        found = [file for file in self._files(folder) if self._is_whole(file)]
        if not found:
            new = {reason: n - before.get(reason, (0, ""))[0] for reason, (n, _) in self.passed_over.items()}
            other = ", ".join(f"{count} {reason}" for reason, count in new.items() if count)
            told = f" (passed over: {other})" if other else ""
            self.faults.append(
                f"{printable(folder)}: the class folder holds no image{told}. Add images or delete the folder."
            )
        return found

    def _files(self, top: Path, instead: str = "") -> list[Path]:
        """Files below a folder that may be images, in torchvision's order; with `instead`, they are passed over for that."""
        found = []
        for folder, names in self._walk(top):
            parts = Path(folder).relative_to(self.root).parts
            off = next(filter(None, map(_unread, parts)), "")
            for name in names:
                file = Path(folder, name)
                if reason := off or _no_image(name) or instead:
                    self._pass_over(file, reason)
                else:
                    found.append(file)
        return found

    def _walk(self, top: Path) -> list[tuple[str, list[str]]]:
        """A folder and those below it with their files; links are followed, but never back up."""

        def identity(folder: str | Path) -> tuple[int, int]:
            facts = os.stat(folder)
            return facts.st_dev, facts.st_ino

        def unreadable(error: OSError) -> None:
            self.faults.append(
                f"{printable(error.filename)}: cannot be read ({error.strerror}). Give access, or move it away."
            )

        own, *parents = [identity(folder) for folder in (top, *top.parents) if folder.is_relative_to(self.root)]
        if own in parents:
            self._pass_over(top, "link to a folder above it")
            return []
        above = {str(top): {own, *parents}}
        found = []
        for folder, inner, names in os.walk(top, followlinks=True, onerror=unreadable):
            for name in list(inner):
                path = os.path.join(folder, name)
                if (own := identity(path)) in above[folder]:
                    inner.remove(name)
                    self._pass_over(Path(path), "link to a folder above it")
                else:
                    above[path] = above[folder] | {own}
            found.append((folder, sorted(names)))
        return sorted(found)

    def _is_whole(self, file: Path) -> bool:
        """Whether a file can be decoded, as far as its entry in the folder tells."""
        try:
            str(file).encode()
            facts = file.stat()
        except UnicodeEncodeError:
            self.faults.append(f"{str(file)!a}: its name is not valid UTF-8. Rename it.")
            return False
        except OSError as error:  # a link that leads nowhere, or in a circle
            self.faults.append(f"{file}: not a readable image ({error.strerror}). Replace it, or move it out of the folder.")
            return False
        if not stat.S_ISREG(facts.st_mode):
            self._pass_over(file, "pipe, socket or device")
        elif not facts.st_size:
            self._pass_over(file, "empty")
        else:
            return True
        return False

    def _pass_over_others(self, place: Path, folders: Collection[Path]) -> None:
        """Pass over all that lies in a place but these folders."""
        for entry in sorted(set(place.iterdir()) - set(folders)):
            if entry.is_dir():
                self._files(entry)
            else:
                self._pass_over(entry, _no_image(entry.name) or "image outside the class folders")

    def _pass_over(self, file: Path, reason: str) -> None:
        count, example = self.passed_over.get(reason, (0, printable(file.relative_to(self.root).as_posix())))
        self.passed_over[reason] = (count + 1, example)


def load(config: DataConfig) -> Dataset:
    """Load a folder of images. Without a test split, a stratified fifth of it is cut, the same for every seed."""
    root = in_data_dir(config.path)
    tree = _Tree(root)
    try:
        pool_files, test_files, test_split = tree.splits()
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}). Give access, or move it away.") from error
    faults = tree.faults

    def gather(split: Classes) -> Images:
        files = [file for members in split.values() for file in members]
        labels = np.repeat(np.arange(len(split)), [len(members) for members in split.values()]).astype(np.int64)
        pixels = pixels_of(files, config.stored_size, config.channels, name=root.name)
        # The content is part of the name: other photos under the same file names are other samples, and other runs.
        if isinstance(pixels, Rows):  # of a set too large to be decoded for its names
            contents = [f"{file.stat().st_size}b" for file in files]
        else:
            contents = [f"{zlib.crc32(image):08x}" for image in pixels]
        ids = [f"{file.relative_to(root).as_posix()}#{content}" for file, content in zip(files, contents, strict=True)]
        return Images(pixels, labels, np.array(ids))

    gathered = []
    for split in (pool_files, test_files) if test_files is not None else (pool_files,):
        try:
            gathered.append(gather(split))
        except ConfigError as error:
            faults += error.faults
    if faults:
        more = len(faults) - _MAX_FAULTS
        raise ConfigError(*(faults[:_MAX_FAULTS] + ([f"… and {more} more faults."] if more > 0 else [])))
    names, (pool, *test) = tuple(pool_files), gathered
    dataset = Dataset(names, pool, test[0], test_split) if test else Dataset.cut(names, pool)
    return replace(dataset, listing=Listing(root, tree.passed_over), notes=tuple(tree.notes))
