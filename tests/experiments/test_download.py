"""Downloads against a server of the test's own: whole, resumed, wrong, broken off, unreachable."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from experiments.data.download import DownloadError, download, git_blob_id

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, and breaks the first `breaks` answers off half-way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges, self.status = CONTENT, 0, True, 200
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        body, whole = self.server.content[start:], len(self.server.content)
        if start >= whole:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
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


def get(server: Server, target: Path, blob_id: str, **options: object) -> list[tuple[int, int | None]]:
    seen: list[tuple[int, int | None]] = []
    download(
        server.url, target, blob_id=blob_id, progress=lambda *state: seen.append(state), **{"max_bytes": 10**6, **options}
    )
    return seen


def test_blob_id_is_that_of_git(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what git hashes\n")
    said = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True, text=True, check=True)
    assert git_blob_id(tmp_path / "file") == said.stdout.strip()


def test_download_tells_progress_and_leaves_the_file_alone(server: Server, tmp_path: Path, blob_id: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    seen = get(server, folder / "file.zip", blob_id)
    assert (folder / "file.zip").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 3
    assert [path.name for path in folder.iterdir()] == ["file.zip"]


def test_broken_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.breaks = 1
    seen = get(server, tmp_path / "file.zip", blob_id)
    first, second = server.asked
    assert first is None and second and int(second.removeprefix("bytes=").rstrip("-")) > len(CONTENT) // 3
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert max(total for _, total in seen if total) == len(CONTENT)


def test_next_command_goes_on_from_what_came(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.breaks = 3
    with pytest.raises(DownloadError, match=r"file\.zip"):
        get(server, tmp_path / "file.zip", blob_id)
    assert not (tmp_path / "file.zip").exists()
    have = (tmp_path / "file.zip.part").stat().st_size
    assert have > len(CONTENT) // 3
    get(server, tmp_path / "file.zip", blob_id)
    assert server.asked[-1] == f"bytes={have}-"
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.breaks, server.ranges = 1, False
    get(server, tmp_path / "file.zip", blob_id)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize("left", [b"another beginning", CONTENT + b"too much"])
def test_foreign_beginning_is_thrown_away_and_fetched_again(
    server: Server, tmp_path: Path, blob_id: str, left: bytes
) -> None:
    (tmp_path / "file.zip.part").write_bytes(left)
    get(server, tmp_path / "file.zip", blob_id)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked[-1] is None


def test_wrong_content_is_refused_with_both_ids(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"git blob id [0-9a-f]{{40}}, expected {'0' * 40}"):
        get(server, tmp_path / "file.zip", "0" * 40)
    assert len(server.asked) == 1
    assert not (tmp_path / "file.zip").exists() and not (tmp_path / "file.zip.part").exists()


def test_an_answer_that_is_too_large_is_not_taken(server: Server, tmp_path: Path, blob_id: str) -> None:
    with pytest.raises(DownloadError, match="offers 300000 bytes, more than 1000"):
        get(server, tmp_path / "file.zip", blob_id, max_bytes=1000)
    assert not (tmp_path / "file.zip").exists()


def test_refusal_is_told_and_not_asked_again(server: Server, tmp_path: Path, blob_id: str) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        get(server, tmp_path / "file.zip", blob_id)
    assert len(server.asked) == 1


def test_certificate_is_checked(server: Server, tmp_path: Path, blob_id: str) -> None:
    """A server that does not speak TLS, let alone show a certificate, is not believed over https."""
    with pytest.raises(DownloadError, match=r"(?i)ssl"):
        download(server.url.replace("http:", "https:"), tmp_path / "file.zip", blob_id=blob_id, max_bytes=10**6)


def test_nobody_there(tmp_path: Path, blob_id: str) -> None:
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", blob_id=blob_id, max_bytes=10**6)
