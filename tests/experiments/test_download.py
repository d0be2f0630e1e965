"""Downloads against a server of the test's own: whole, wrong, broken off, at the same time, unreachable."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from experiments.data.download import DownloadError, download, git_blob_id, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, and breaks the first `breaks` answers off half-way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.status, self.asked = CONTENT, 0, 200, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        body = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def blob_id(tmp_path: Path) -> str:
    path = tmp_path / "published"
    path.write_bytes(CONTENT)
    return git_blob_id(path)


def get(server: Server, target: Path, blob_id: str, max_bytes: int = 10**6) -> None:
    download(server.url, target, blob_id=blob_id, max_bytes=max_bytes)


def test_blob_id_is_that_of_git(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what git hashes\n")
    said = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True, text=True, check=True)
    assert git_blob_id(tmp_path / "file") == said.stdout.strip()


def test_download_leaves_the_file_alone(server: Server, tmp_path: Path, blob_id: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    get(server, folder / "file.zip", blob_id)
    assert (folder / "file.zip").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["file.zip"]


def test_broken_connection_begins_again(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.breaks = 2
    get(server, tmp_path / "file.zip", blob_id)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT and server.asked == 3


def test_a_connection_that_keeps_breaking_leaves_nothing(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.breaks = 3
    before = set(tmp_path.iterdir())
    with pytest.raises(DownloadError, match=r"file\.zip: .*IncompleteRead"):
        get(server, tmp_path / "file.zip", blob_id)
    assert set(tmp_path.iterdir()) == before
    get(server, tmp_path / "file.zip", blob_id)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_commands_at_the_same_time_need_no_lock(
    server: Server, tmp_path: Path, blob_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", absent)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("train/1.txt", CONTENT)

    def both(number: int) -> None:
        get(server, tmp_path / "file.zip", blob_id)
        unpack(tmp_path / "photos.zip", tmp_path / "photos", max_bytes=10**6)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(both, range(8)))
    assert (tmp_path / "file.zip").read_bytes() == (tmp_path / "photos" / "train" / "1.txt").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"file.zip", "photos", "photos.zip", "published"}


def test_wrong_content_is_refused_with_both_ids(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"git blob id [0-9a-f]{{40}}, expected {'0' * 40}"):
        get(server, tmp_path / "file.zip", "0" * 40)
    assert server.asked == 1 and [path.name for path in tmp_path.iterdir()] == []


def test_an_answer_that_is_too_large_is_not_taken(server: Server, tmp_path: Path, blob_id: str) -> None:
    with pytest.raises(DownloadError, match="sends more than 1000 bytes"):
        get(server, tmp_path / "file.zip", blob_id, max_bytes=1000)
    assert not (tmp_path / "file.zip").exists()


def test_refusal_is_told_and_not_asked_again(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        get(server, tmp_path / "file.zip", blob_id)
    assert server.asked == 1


def test_certificate_is_checked(server: Server, tmp_path: Path, blob_id: str) -> None:
    """A server that does not speak TLS, let alone show a certificate, is not believed over https."""
    with pytest.raises(DownloadError, match=r"(?i)ssl"):
        download(server.url.replace("http:", "https:"), tmp_path / "file.zip", blob_id=blob_id, max_bytes=10**6)


def test_nobody_there(tmp_path: Path, blob_id: str) -> None:
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", blob_id=blob_id, max_bytes=10**6)
