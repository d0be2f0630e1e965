"""Archives of known content: fetched whole or not at all, checked, unpacked into a folder that is whole or absent.

Every process works in a temporary neighbour that takes its name at the end, so that commands at the same time need no lock:
the last one's file has the same content.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import requests

from experiments.config.errors import ConfigError, UserError, reason
from experiments.records.record import atomic_write, unfinished

ATTEMPTS = 3
"""Tries of one download, each from the beginning."""

TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and between two pieces of an answer."""

_CHUNK = 2**16


class DownloadError(UserError):
    """A file that could not be downloaded. The message says why."""


def git_blob_id(path: Path) -> str:
    """The id under which git stores a file: SHA-1 over ``blob <size>``, a zero byte and the content, 40 hex digits."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def download(url: str, target: Path, *, blob_id: str, max_bytes: int) -> None:
    """Download one file of known content into a folder that exists; it appears only when its `git_blob_id` has been checked.

    An answer beyond `max_bytes` is broken off. Over ``https`` the server's certificate is checked.

    Raises
    ------
    DownloadError
        If the server cannot be reached or refuses, the connection keeps breaking, or the content is another.
    """
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            return _fetch(url, target, blob_id, max_bytes)
        except requests.HTTPError as error:
            raise DownloadError(f"{url}: {innermost(error)}") from error
        except requests.RequestException as error:
            problem = innermost(error)
    raise DownloadError(f"{url}: {problem}")


def _fetch(url: str, target: Path, blob_id: str, max_bytes: int) -> None:
    """Try once, with a progress bar on the terminal where there is one."""
    from rich.console import Console
    from rich.progress import track

    console, have = Console(stderr=True), 0
    with requests.get(url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        answer.raise_for_status()
        chunks = int(answer.headers.get("Content-Length") or 0) / _CHUNK or None
        parts = track(
            answer.iter_content(_CHUNK), f"Downloading {target.name}", chunks,
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        with atomic_write(target, "wb") as file:
            for chunk in parts:
                have += file.write(chunk)
                if have > max_bytes:
                    raise requests.HTTPError(f"sends more than {max_bytes} bytes")
            file.flush()
            if (found := git_blob_id(Path(file.name))) != blob_id:
                raise requests.HTTPError(f"the {have} bytes that came have git blob id {found}, expected {blob_id}")


def innermost(error: Exception) -> str:
    """The innermost cause in a few words: the outer ones repeat addresses and objects."""
    cause: BaseException = error
    while isinstance(inner := getattr(cause, "reason", None) or (cause.args[0] if cause.args else None), BaseException):
        cause = inner
    text = re.sub(r"^[\w.<]*\w+\(.*?\)>?: ", "", " ".join(str(cause).split()))
    return text or type(error).__name__


def absent(name: str, place: Path, files: str, error: Exception) -> ConfigError:
    """That data are not here and could not be downloaded, and which files to put where."""
    return ConfigError(
        f"{name} is not in {place} and could not be downloaded ({reason(error)}). Without a network, put {files} there, or "
        "set `data.path` to the folder that holds them."
    )


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack a zip archive into a new folder, which is never seen half full. If it exists already, nothing is written.

    Raises
    ------
    ConfigError
        If the file is not a whole zip archive, an entry would land outside the folder, is a link or another special file, is
        there twice or is encrypted, or all together are larger than `max_bytes`.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = unfinished(folder)
    making.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_entries(opened.infolist(), max_bytes)
            opened.extractall(making)  # no entry gives more bytes than its directory says
        try:
            os.replace(making, folder)
        except OSError:
            if not folder.is_dir():  # where another command was faster
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{archive}: cannot be unpacked ({reason(error)}). Delete it and get it again.") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _check_entries(entries: Sequence[zipfile.ZipInfo], max_bytes: int) -> None:
    """Refuse names as a file system may compare them that knows neither letter case nor how accents are composed."""
    if (total := sum(entry.file_size for entry in entries)) > max_bytes:
        raise ValueError(f"{total} bytes unpacked, more than {max_bytes}")
    names = [unicodedata.normalize("NFC", entry.orig_filename).casefold() for entry in entries]
    files = {name for name in names if not name.endswith("/")}
    seen = set[str]()
    for entry, name in zip(entries, names, strict=True):
        path, kind = PurePosixPath(name), stat.S_IFMT(entry.external_attr >> 16)
        if name in seen or files & {*map(str, path.parents), *([str(path)] if name.endswith("/") else [])}:
            raise ValueError(f"its entry {entry.orig_filename[:200]!a} is there twice, or a file and a folder at once")
        seen.add(name)
        plain = name.isprintable() and str(path) == name.removesuffix("/") and not set(name) & set("\\:")
        if not plain or path.is_absolute() or ".." in path.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"its entry {entry.orig_filename[:200]!a} leads out of the folder, or is not a plain file")
