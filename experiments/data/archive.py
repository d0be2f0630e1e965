"""Unpacking zip archives that come from elsewhere: nothing leaves the folder, and a folder is whole or absent."""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from experiments.config.errors import ConfigError
from experiments.records.record import unfinished

MAX_FILES = 100_000
MAX_BYTES = 4 * 2**30
"""Bounds on what an archive of images may unpack to; what is far beyond is a bomb rather than a dataset."""

_CHUNK = 2**20
_MAX_NAME = 1_000


def unpack(archive: Path, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a zip archive into a new folder.

    All names are checked before the first byte is written, sizes and check sums while writing. The files go into a
    neighbouring folder that takes its name at the end, so that `folder` is never seen half full.

    Parameters
    ----------
    archive : Path
        A zip file.
    folder : Path
        What to make. If it exists already, nothing is written.
    max_files, max_bytes : int
        Bounds on entries and on their size together, unpacked.

    Raises
    ------
    ConfigError
        If the file is no whole zip archive, an entry would land outside the folder, is a link or another special file, or is
        encrypted, two entries have one name (letter case aside), or a bound is passed.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = unfinished(folder)
    making.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            _check(opened.infolist(), archive, max_files, max_bytes)
            _write(opened, making)
        os.replace(making, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError([f"{archive}: not a whole zip archive ({reason}). Delete it and get it again."]) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _check(entries: Iterable[zipfile.ZipInfo], archive: Path, max_files: int, max_bytes: int) -> None:
    """Refuse an archive by what its directory says, all faults at once."""
    entries = list(entries)
    faults = []
    if len(entries) > max_files:
        faults.append(f"{archive}: holds {len(entries)} entries, more than {max_files}. It is not unpacked.")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        faults.append(f"{archive}: would unpack to {total} bytes, more than {max_bytes}. It is not unpacked.")
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        reason = _fault(entry)
        if not reason:
            path = PurePosixPath(_folded(entry.filename.rstrip("/")))
            parents = {str(parent) for parent in path.parents} - {"."}
            if not entry.is_dir() and str(path) in files:
                reason = "is there twice, letter case aside"
            elif parents & files or (str(path) in folders and not entry.is_dir()):
                reason = "is a file and a folder at once"
            folders |= parents
            (folders if entry.is_dir() else files).add(str(path))
        if reason:
            faults.append(f"{archive}: its entry {entry.filename[:200]!a} {reason}. The archive is not unpacked.")
    if faults:
        raise ConfigError(faults[:10] + ([f"… and {len(faults) - 10} more entries."] if len(faults) > 10 else []))


def _folded(name: str) -> str:
    """A name as a file system may compare it that knows neither letter case nor how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


def _fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with one entry, in words; empty where nothing is."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    if not entry.filename:  # of which zipfile cannot tell whether it is a folder
        return "has no usable name"
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or (len(parts[0]) > 1 and parts[0][1] == ":"):
        return "has an absolute path or one of another system"
    if ".." in parts:
        return "leads out of the folder"
    if not all(parts) or "." in parts or len(name) > _MAX_NAME or not name.isprintable():
        return "has no usable name"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    return ""


def _write(opened: zipfile.ZipFile, folder: Path) -> None:
    """Write every file. No entry gives more bytes than its directory says, and one that would gives a wrong check sum."""
    for entry in opened.infolist():
        path = folder / entry.filename
        if entry.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
