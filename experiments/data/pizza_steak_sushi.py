"""Photos of pizza, steak and sushi: fetched once, checked, unpacked, then read as any other folder of photos.

300 (10%) or 600 (20%) photos of three classes of Food-101 (Bossard et al., ECCV 2014), about 512 × 512 pixels, as D. Bourke
cut them for his course "Learn PyTorch for Deep Learning", with a training and a test split.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash
from experiments.config.paths import data_dir
from experiments.config.schema import DataConfig
from experiments.data import image_folder
from experiments.data.download import DownloadError, download, git_blob_id, unpack
from experiments.data.images import Dataset

ADDRESS = "https://github.com/mrdbourke/pytorch-deep-learning/raw/main/data"
"""Where the archives lie."""

MAX_BYTES = 200 * 2**20
"""Bound on an archive and on what it unpacks to; the larger one has about 30 MB."""


class Published(NamedTuple):
    """What is known of an archive."""

    blob_id: str
    """Git blob id of the file, by which a download is checked."""
    contents: str | None
    """`contents_digest` of it, by which a re-packed archive of the same photos is known; None where it is not known."""


ARCHIVES = {
    "pizza_steak_sushi": Published(
        "65f3915a380f5efd456a6a5750f0365350de8dd0", "336dbfe2ba03e278b4ef1632b34b2e30309b9fce119722372361fe56b807e78f"
    ),
    "pizza_steak_sushi_20_percent": Published("dfc8ad2ae9415304d69cc6a0ee443c340cb29049", None),
}
"""By source: the archive is the source's name with ``.zip``, in the address as in `DATA_DIR`."""


def load(config: DataConfig) -> Dataset:
    """Load the photos from ``data.path``, where it is set, else from `DATA_DIR`, where they are fetched to first."""
    folder = config.path or str(fetched(config.source))
    return image_folder.load(config.model_copy(update={"path": folder}))


def fetched(source: str) -> Path:
    """The folder of unpacked photos below `DATA_DIR`, made from an archive that lies there or is downloaded now.

    Raises
    ------
    ConfigError
        If it cannot be downloaded, or an archive put there by hand is not the published one. The message says what to do.
    """
    folder = data_dir() / source
    if folder.is_dir():
        return folder
    archive = data_dir() / f"{source}.zip"
    if archive.is_file():
        _check(archive, ARCHIVES[source])
    else:
        _download(archive, ARCHIVES[source], f"{ADDRESS}/{archive.name}")
    unpack(archive, folder, max_bytes=MAX_BYTES)
    return folder


def contents_digest(archive: Path) -> str:
    """Digest of an archive's files, whatever their order and compression: names, sizes and check sums, 64 hex digits.

    Unpacking holds the sizes and check sums against the content.

    Raises
    ------
    ConfigError
        If the file is not a zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            files = sorted((e.filename, e.file_size, e.CRC) for e in opened.infolist() if not e.is_dir())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ConfigError(f"{archive}: not a whole zip archive ({error}). Delete it and get it again.") from error
    return canonical_hash(files)


def _check(archive: Path, published: Published) -> None:
    """Refuse an archive put there by hand that holds other photos than the published one."""
    found = git_blob_id(archive)
    if found == published.blob_id or contents_digest(archive) == published.contents:
        return
    raise ConfigError(
        f"{archive}: not the published archive: its git blob id is {found}, expected {published.blob_id}. Delete it and "
        f"get {ADDRESS}/{archive.name}, or unpack it yourself and set `data.path` to the folder that holds train and "
        f"test."
    )


def _download(archive: Path, published: Published, url: str) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        download(url, archive, blob_id=published.blob_id, max_bytes=MAX_BYTES)
    except DownloadError as error:
        raise ConfigError(
            f"{archive.name} is not in {archive.parent} and could not be downloaded ({error}). Without a network, put "
            f"the file {archive} there, or set `data.path` to a folder that holds its train and test."
        ) from error
