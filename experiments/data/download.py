"""Downloads that are checked, resumed where they broke off, and whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import requests

from experiments.config.errors import UserError

Progress = Callable[[int, int | None], None]
"""Takes the bytes that are there and, where it is known, how many there will be."""

ATTEMPTS = 3
"""Tries of one download; each goes on where the one before broke off."""

TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and between two pieces of an answer."""

_CHUNK = 2**16


class DownloadError(UserError):
    """A file that could not be had. The message says why."""


def git_blob_id(path: Path) -> str:
    """The id under which git stores a file: SHA-1 over ``blob <size>``, a zero byte and the content, 40 hex digits."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def exclusively(lock: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; the kernel frees it when its owner dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def download(url: str, target: Path, *, blob_id: str, max_bytes: int, progress: Progress = lambda done, total: None) -> None:
    """Download one file of known content.

    What has come so far lies beside the target as ``<name>.part`` and is kept when the connection breaks: the next try, or
    the next command, asks for the rest alone. The target appears only when its content has been checked.

    Parameters
    ----------
    url : str
        Address; over ``https`` the server's certificate is checked, and no answer is taken from an unencrypted address.
    target : Path
        Where the file shall be; its folder must exist.
    blob_id : str
        The content's git blob id, see `git_blob_id`. It covers the size.
    max_bytes : int
        An answer beyond it is broken off.
    progress : callable
        Called as bytes arrive.

    Raises
    ------
    DownloadError
        If the server cannot be reached or refuses, the connection keeps breaking, or the content is another.
    """
    part = target.with_name(f"{target.name}.part")
    problem = ""
    for _ in range(ATTEMPTS):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _fetch(url, part, max_bytes, progress)
        except requests.RequestException as error:
            problem = reason(error)
            if isinstance(error, requests.HTTPError):
                break
            continue
        found = git_blob_id(part)
        if found == blob_id:
            os.replace(part, target)
            return
        size = part.stat().st_size
        part.unlink()
        problem = f"the {size} bytes that came have git blob id {found}, expected {blob_id}"
        if not resumed:  # a broken first half would explain it; a whole wrong file comes again
            break
    raise DownloadError(f"{url}: {problem}")


def _fetch(url: str, part: Path, max_bytes: int, progress: Progress) -> None:
    """Get what is missing of a file, appending to what is there if the server can go on from there."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if url.startswith("https://") and not answer.url.startswith("https://"):
            raise requests.HTTPError(f"redirected to {answer.url}, which is not encrypted")
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # everything is there; the check of the content decides
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content or not _continues(answer, have):
            have = 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if total is not None and total > max_bytes:
            raise requests.HTTPError(f"offers {total} bytes, more than {max_bytes}")
        with open(part, "ab" if have else "wb") as file:
            _receive(answer, file, have, total, max_bytes, progress)


def _continues(answer: requests.Response, have: int) -> bool:
    """Whether a partial answer begins where the file ends."""
    return answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _receive(
    answer: requests.Response, file: IO[bytes], have: int, total: int | None, max_bytes: int, progress: Progress
) -> None:
    """Write an answer's body as it comes."""
    progress(have, total)
    for chunk in answer.iter_content(_CHUNK):
        have += len(chunk)
        if have > max_bytes:
            raise requests.HTTPError(f"sends more than {max_bytes} bytes")
        file.write(chunk)
        progress(have, total)
    file.flush()
    with contextlib.suppress(OSError):  # some file systems know no fsync
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise requests.ConnectionError(f"the connection broke off after {have} of {total} bytes")


def reason(error: Exception) -> str:
    """The innermost cause in a few words: the outer ones repeat addresses and objects."""
    cause: BaseException = error
    while isinstance(inner := getattr(cause, "reason", None) or (cause.args[0] if cause.args else None), BaseException):
        cause = inner
    text = re.sub(r"^[\w.<]*\w+\(.*?\)>?: ", "", " ".join(str(cause).split()))
    return text or type(error).__name__
