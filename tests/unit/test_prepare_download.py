"""Fetching archives from a server on this machine: resume, checks, and archives that would leave their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json
from tag2mask.data.prepare import DOWNLOADS, download
from tag2mask.data.prepare.download import Archive, fetch, unpack


class Server(ThreadingHTTPServer):
    """Serves `files`; the first answers of a path break off after `breaks[path]` bytes each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: dict[str, list[int]] = {}
        self.ranges: list[str | None] = []
        self.knows_ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.ranges.append(asked)
        if name not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[name]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        breaks = self.server.breaks.get(name, [])
        end = start + breaks.pop(0) if breaks else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def tar_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_broken_connections_go_on_from_where_they_broke(server: Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    server.files["x.bin"], server.breaks["x.bin"] = data, [3000, 4000]
    fetch(f"{server.address}/x.bin", tmp_path / "x.bin", wait=0.01)
    assert (tmp_path / "x.bin").read_bytes() == data
    assert server.ranges == [None, "bytes=3000-", "bytes=7000-"]
    assert not (tmp_path / "x.bin.part").exists()


def test_a_killed_fetch_goes_on(server: Server, tmp_path: Path) -> None:
    server.files["x.bin"] = b"0123456789" * 50
    (tmp_path / "x.bin.part").write_bytes(server.files["x.bin"][:123])
    fetch(f"{server.address}/x.bin", tmp_path / "x.bin")
    assert server.ranges == ["bytes=123-"]
    assert (tmp_path / "x.bin").read_bytes() == server.files["x.bin"]


def test_servers_without_ranges_start_again(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.files["x.bin"], server.breaks["x.bin"] = b"0123456789" * 50, [100]
    fetch(f"{server.address}/x.bin", tmp_path / "x.bin", wait=0.01)
    assert (tmp_path / "x.bin").read_bytes() == server.files["x.bin"]


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.files["x.bin"] = b"abc"
    (tmp_path / "x.bin.part").write_bytes(b"too long")
    fetch(f"{server.address}/x.bin", tmp_path / "x.bin", wait=0.01)
    assert (tmp_path / "x.bin").read_bytes() == b"abc"


def test_what_cannot_be_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answers 404"):
        fetch(f"{server.address}/gone", tmp_path / "gone")
    server.files["x.bin"], server.breaks["x.bin"] = b"0123456789", [4, 0, 0, 0]
    with pytest.raises(DataError, match=r"ended after 4 of 10 bytes; .* run the same command to go on"):
        fetch(f"{server.address}/x.bin", tmp_path / "x.bin", tries=2, wait=0.01)
    assert (tmp_path / "x.bin.part").read_bytes() == b"0123"
    closed = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="refused"):
        fetch(f"{closed}/x.bin", tmp_path / "y.bin", tries=1)


def test_download_checks_records_unpacks_and_doesnt_come_again(server: Server, tmp_path: Path) -> None:
    one, two = tar_of(VOCdevkit__VOC2012__a=b"one"), io.BytesIO()
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("train2014/b.jpg", b"two")
        archive.writestr("empty/", b"")
    server.files = {"one.tar": one, "two.zip": two.getvalue()}
    wanted = (Archive("http://unused/one.tar", hashlib.md5(one).hexdigest()), Archive("http://unused/two.zip"))
    for _ in range(2):
        root = download("voc2012", tmp_path / "data", mirror=server.address + "/", archives=wanted)
    assert (root / "VOCdevkit" / "VOC2012" / "a").read_bytes() == b"one"
    assert (root / "train2014" / "b.jpg").read_bytes() == b"two"
    assert len(server.ranges) == 2
    record = read_json(root / "downloads.json")
    assert record["one.tar"]["checked"] is True
    assert record["two.zip"]["checked"] is False
    assert record["two.zip"]["sha256"] == hashlib.sha256(two.getvalue()).hexdigest()
    assert record["two.zip"]["bytes"] == len(two.getvalue())


def test_a_wrong_checksum_is_an_error(server: Server, tmp_path: Path) -> None:
    server.files["one.tar"] = tar_of(a=b"other")
    with pytest.raises(DataError, match=r"has md5 [0-9a-f]{32}, expected 00; it was deleted"):
        download("voc2012", tmp_path, mirror=server.address, archives=(Archive("http://unused/one.tar", "00"),))
    assert not (tmp_path / "one.tar").exists()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "..\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_that_leave_their_folder_write_nothing(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "tar":
        path.write_bytes(tar_of(**{"fine": b"1", name: b"2"}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("fine", b"1")
            archive.writestr(zipfile.ZipInfo(name), b"2")
    with pytest.raises(DataError, match="would be written outside"):
        unpack(path, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_links_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    with pytest.raises(DataError, match="'link' is a link or device"):
        unpack(tmp_path / "x.tar", tmp_path / "in")
    (tmp_path / "y.tar").write_bytes(tar_of(a=b"1" * 3000)[:1500])
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack(tmp_path / "y.tar", tmp_path / "in")
    (tmp_path / "z.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="can't be unpacked"):
        unpack(tmp_path / "z.zip", tmp_path / "in")


def test_a_damaged_zip_is_named_and_fetched_again_once_deleted(server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train2014/a.jpg", b"0123456789" * 300)
    whole = stream.getvalue()
    start = whole.index(b"a.jpg") + len(b"a.jpg")
    server.files["one.zip"] = whole[:start] + b"\xff" * 8 + whole[start + 8 :]
    wanted = (Archive("http://unused/one.zip"),)
    with pytest.raises(DataError, match=r"one\.zip: can't be unpacked .*delete this file"):
        download("coco2014", tmp_path, mirror=server.address, archives=wanted)
    assert not (tmp_path / "train2014" / "a.jpg").exists()
    (tmp_path / "one.zip").unlink()
    server.files["one.zip"] = whole
    download("coco2014", tmp_path, mirror=server.address, archives=wanted)
    assert (tmp_path / "train2014" / "a.jpg").read_bytes() == b"0123456789" * 300


@pytest.mark.parametrize(
    "address", ["example.com/coco", "localhost:8000/coco", "//example.com", "http:///x", "http://[::1"]
)
def test_mirrors_that_are_no_addresses(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match=r"mirror .*https://example\.com/coco"):
        download("coco2014", tmp_path / "in", mirror=address)
    assert not (tmp_path / "in").exists()


def test_official_addresses() -> None:
    names = {kind: [archive.name for archive in archives] for kind, archives in DOWNLOADS.items()}
    assert names == {
        "voc2012": ["VOCtrainval_11-May-2012.tar"],
        "coco2014": ["annotations_trainval2014.zip", "train2014.zip", "val2014.zip"],
    }
