"""Fetching the official archives: resumed where they stopped, checked, and unpacked without leaving the folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write, read_object, write_json
from tag2mask.common.progress import track
from tag2mask.data.readers.found import inside

RECORD = "downloads.json"  # digests of what was fetched
_BLOCK = 1 << 20  # bytes
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 5
_WAIT = 2.0  # seconds before the second try, doubled for each further one


@dataclass(frozen=True)
class Archive:
    """One file to fetch; without a known `md5` its digest is recorded, not checked."""

    url: str
    md5: str | None = None

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.url.rpartition("/")[2]


# Checksums only where the publishers' files are known by several independent records that agree.
DOWNLOADS: dict[str, tuple[Archive, ...]] = {
    "voc2012": (
        Archive(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    "coco2014": (
        Archive(
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
            "0a379cfc70b0e71301e0f377548639bd",
        ),
        Archive("http://images.cocodataset.org/zips/train2014.zip"),
        Archive("http://images.cocodataset.org/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3"),
    ),
}


def download(
    kind: str, root: Path, *, mirror: str | None = None, archives: tuple[Archive, ...] | None = None
) -> Path:
    """Fetch and unpack the archives of "voc2012" or "coco2014" into `root`; return the folder.

    Resumes half-fetched files, and checks or records digests in downloads.json. mirror: an address that holds files
    of the same names, instead of the official ones. Raises DataError for what can't be fetched or doesn't fit.
    """
    if mirror is not None:
        _check_address(mirror)
    root = root.expanduser().absolute()
    root.mkdir(parents=True, exist_ok=True)
    record_path = root / RECORD
    record: dict[str, Any] = read_object(record_path) if record_path.is_file() else {}
    for archive in archives or DOWNLOADS[kind]:
        url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.name}"
        if record.get(archive.name, {}).get("unpacked"):
            continue
        path = root / archive.name
        if not path.is_file():
            fetch(url, path)
        digests = digest_of(path)
        if archive.md5 is not None and digests["md5"] != archive.md5:
            path.unlink()
            raise DataError(
                f"{url}: the file fetched has md5 {digests['md5']}, expected {archive.md5}; it was deleted: try again"
            )
        record[archive.name] = {"url": url, **digests, "checked": archive.md5 is not None}
        unpack(path, root)
        record[archive.name]["unpacked"] = True
        write_json(record_path, record)
    return root


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise DataError(
            f"mirror '{url}': is no address ({error}); give one such as https://example.com/coco"
        ) from error
    if not (parts.scheme in ("http", "https", "ftp") and parts.netloc) and parts.scheme != "file":
        raise DataError(f"mirror '{url}': has no http:// or https:// before a host; write https://example.com/coco")


def fetch(url: str, path: Path, *, tries: int = _TRIES, wait: float = _WAIT) -> None:
    """Fetch `url` to `path`, going on from PATH.part; a broken connection is tried again.

    Raises DataError after `tries` failures without progress, or when the server says the file isn't there.
    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            total = _fetch_rest(url, part)
            if total is None or part.stat().st_size == total:
                os.replace(part, path)
                return
            reason = f"the connection ended after {part.stat().st_size} of {total} bytes"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 416:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}; check the address"
                ) from error
            if error.code == 416:  # more than the whole file is there: it isn't this file's part
                part.unlink(missing_ok=True)
            reason = f"{error.code} {error.reason}"
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        progressed = part.is_file() and part.stat().st_size > before
        failures = 1 if progressed else failures + 1
        if failures >= tries:
            raise DataError(f"{url}: {reason}; what was fetched is kept in {part}: run the same command to go on")
        time.sleep(wait * 2 ** (failures - 1))


def _fetch_rest(url: str, part: Path) -> int | None:
    """Append what is missing to `part`; return the whole file's length, None when the server doesn't say."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length)
        if have and answer.status == 206 and _starts_at(answer.headers.get("Content-Range"), have):
            total = None if total is None else total + have
        else:
            have = 0  # the server sends all of it
        _check_space(part, total, have)
        with part.open("ab" if have else "wb") as stream:
            _copy(answer, stream, part.name.removesuffix(".part"), have, total)
    return total


def _starts_at(content_range: str | None, start: int) -> bool:
    return (content_range or "").replace("bytes ", "").partition("-")[0] == str(start)


def _check_space(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise DataError(
            f"{part.parent}: {(total - have) / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free; "
            "make room (unpacking needs about as much again)"
        )


def _copy(answer: Any, stream: IO[bytes], name: str, have: int, total: int | None) -> None:
    blocks = iter(lambda: answer.read(_BLOCK), b"")
    megabytes = -(-(total or 0) // _BLOCK)
    for block in track(blocks, total=megabytes, description=f"{name} (MiB)", done=have // _BLOCK):
        stream.write(block)


def digest_of(path: Path) -> dict[str, Any]:
    """Return {"bytes", "md5", "sha256"} of a file."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            md5.update(block)
            sha256.update(block)
    return {"bytes": path.stat().st_size, "md5": md5.hexdigest(), "sha256": sha256.hexdigest()}


def unpack(path: Path, folder: Path) -> int:
    """Unpack a tar or zip into `folder` and return the number of files; files that are there whole are kept.

    Every name is checked before anything is written: DataError for one that leaves the folder, for links and devices.
    """
    count = 0
    with _members(path) as members:
        for name, _ in members:
            if inside(name) is None:
                raise DataError(f"{path}: member '{name}' would be written outside {folder}; don't use this archive")
        for name, (size, opened) in track(members, total=len(members), description=f"unpack {path.name}"):
            target = folder / str(PurePosixPath(name.replace("\\", "/")))
            if not (target.is_file() and target.stat().st_size == size):
                with atomic_write(target) as temporary, opened() as source, temporary.open("wb") as stream:
                    shutil.copyfileobj(source, stream, _BLOCK)
            count += 1
    return count


@contextmanager
def _members(path: Path) -> Iterator[list[tuple[str, tuple[int, Any]]]]:
    """Yield (name, (size, function that opens it)) of an archive's files; links and devices are refused."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                files = [info for info in zipped.infolist() if not info.is_dir()]
                linked = [info.filename for info in files if (info.external_attr >> 28) == 0o12]
                _refuse_links(path, linked)
                yield [(i.filename, (i.file_size, lambda i=i: zipped.open(i))) for i in files]
            return
        with tarfile.open(path) as packed:
            entries = [member for member in packed.getmembers() if not member.isdir()]
            _refuse_links(path, [member.name for member in entries if not member.isfile()])
            yield [(m.name, (m.size, lambda m=m: packed.extractfile(m))) for m in entries]
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"{path}: can't be unpacked ({error}); delete this file, and the same command fetches it again"
        ) from error


def _refuse_links(path: Path, names: list[str]) -> None:
    if names:
        raise DataError(f"{path}: member '{names[0]}' is a link or device, not a file; don't use this archive")
