"""The review's index, thresholds, pictures, decisions and server; the page itself is tested in a browser."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import review_world as world
from tag2mask.cli import main
from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import digest_file, read_json
from tag2mask.data import LocalizationMaps, load_maps, read_mask, write_mask
from tag2mask.refine.threshold import labels_from_maps
from tag2mask.review.index import agreement_of, build_index
from tag2mask.review.maps import over_photo, sampled, within
from tag2mask.review.pictures import mask_pixels, photo_jpeg, strongest
from tag2mask.review.store import Conflict, Store, exported, imported
from tag2mask.review.subjects import open_subjects
from tag2mask.review.thresholds import cover_by_class, least_by_class, lost_at
from tag2mask.runs.decisions import append, log_path, mask_path, read_decisions
from tiny_run import edit


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small run, a fresh one for each test."""
    return world.make_run(tmp_path)


def test_maps_by_numpy_are_those_by_torch() -> None:
    rng = np.random.default_rng(0)
    sums = [rng.random((2, *size)).astype(np.float32) / 3 for size in ((7, 10), (4, 5), (1, 1), (13, 21))]
    maps = LocalizationMaps(np.array([1, 4]), (53, 90), (1.0, 0.5, 0.1, 2.0), sums)
    assert np.allclose(over_photo(maps, (53, 90)), maps.full(), atol=2e-6)
    absolute = dataclasses.replace(maps, absolute=True)
    assert np.allclose(over_photo(absolute, (53, 90)), absolute.full(), atol=2e-6)
    assert over_photo(maps, (3, 4)).shape == (2, 3, 4)
    assert over_photo(LocalizationMaps.none((5, 6)), (5, 6)).shape == (0, 5, 6)
    empty = LocalizationMaps(np.array([0]), (8, 8), (1.0,), [np.full((1, 2, 2), np.nan, np.float32)])
    assert not over_photo(empty, (4, 4)).any()


def test_sides() -> None:
    assert within((300, 400), 100) == (75, 100)
    assert within((300, 400), 1000) == (300, 400)
    assert within((3, 4000), 100) == (1, 100)
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert sampled(mask, (2, 2)).tolist() == [[5, 7], [13, 15]]
    assert np.array_equal(sampled(mask, (4, 4)), mask)


def test_the_index_says_what_is_doubtful(run: Path) -> None:
    rows = build_index(open_subjects(run))
    assert list(rows)[:4] == ["photo 0000", world.LOST, world.PLAIN, world.VAL]
    lost = rows[world.LOST]
    assert lost["lost"] == ["dog"]
    assert max(rows.values(), key=lambda row: row["doubt"]) == lost
    fine = rows["photo 0000"]
    assert fine["classes"] == {"cat": round(30 * 26 / 4800, 5)}
    assert fine["cover"] == fine["classes"]["cat"]
    assert fine["agreement"] > 0.6 > lost["agreement"]
    plain = rows[world.PLAIN]
    assert (plain["cover"], plain["agreement"], plain["cuts"], plain["lost"]) == (0.0, None, {}, [])
    assert rows[world.VAL]["cuts"] == {}
    assert rows[world.VAL]["cover"] > 0


def test_the_index_is_kept_and_only_what_changed_is_computed_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tag2mask.review import index

    looked: list[str] = []
    plain = index._row
    monkeypatch.setattr(index, "_row", lambda *asked: looked.append(asked[1].id) or plain(*asked))
    first = build_index(open_subjects(run))
    assert len(looked) == world.KINDS
    assert build_index(open_subjects(run)) == first
    assert len(looked) == world.KINDS
    write_mask(run / "pseudo_masks" / "masks" / "photo 0005.png", np.zeros(world.SIZE, np.uint8))
    assert build_index(open_subjects(run))["photo 0005"]["lost"]
    assert looked[world.KINDS :] == ["photo 0005"]
    append(run, [{"id": world.LOST, "tag": "dog", "present": False}])
    assert build_index(open_subjects(run))[world.LOST]["lost"] == []
    assert looked[world.KINDS + 1 :] == [world.LOST]
    (run / "review" / "index.json").write_text("{cut off")
    assert build_index(open_subjects(run))["photo 0000"] == first["photo 0000"]


def test_files_that_cannot_be_read_are_first_and_say_why(run: Path) -> None:
    (run / "pseudo_masks" / "masks" / "photo 0004.png").write_bytes(b"no picture")
    (run.parent / "photos" / "photo 0006.png").unlink()
    rows = build_index(open_subjects(run))
    assert "photo 0004.png" in rows["photo 0004"]["problem"]
    assert "does not exist" in rows["photo 0006"]["problem"] or "no such" in rows["photo 0006"]["problem"].lower()
    assert sorted(rows, key=lambda name: -rows[name]["doubt"])[:2] == ["photo 0004", "photo 0006"]


def test_agreement() -> None:
    one, other = np.zeros((2, 2, 2), np.uint8)
    one[0], other[:, 0] = 1, 1
    assert agreement_of([one, other], [1]) == round(1 / 3, 4)
    assert agreement_of([one, one, other], [1, 2]) == round((1 + 1 / 3 + 1 / 3) / 6, 4)
    assert agreement_of([one], [1]) is None
    assert agreement_of([one, other], []) is None


def test_thresholds_are_answered_from_the_maps(run: Path) -> None:
    subjects = open_subjects(run)
    rows = build_index(subjects)
    covers = cover_by_class(rows, subjects.classes)
    assert set(covers) == set(world.CLASSES)
    least = least_by_class(covers, 0.4)
    assert least["cat"] == pytest.approx(0.1 * covers["cat"][40])
    for name in ("photo 0000", "photo 0005"):
        maps = load_maps(run / "localization" / "rib" / f"{name}.npz")
        values = over_photo(maps, within(world.SIZE, 64))
        for k in (0, 25, 40, 77, 100):
            labels = labels_from_maps(values, maps.classes, k / 100)
            for tag in maps.classes:
                share = rows[name]["cuts"][world.CLASSES[tag]][k] / 1e6
                assert share == pytest.approx(np.mean(labels == tag + 1), abs=2e-6)
        first = lost_at(rows[name], least)
        for tag in maps.classes:
            shares = [np.mean(labels_from_maps(values, maps.classes, k / 100) == tag + 1) for k in range(101)]
            assert first[world.CLASSES[tag]] == next(
                k for k, share in enumerate(shares) if share < least[world.CLASSES[tag]]
            )
    assert covers["cat"] == sorted(covers["cat"], reverse=True)


def test_pictures_are_bounded(run: Path) -> None:
    subjects = open_subjects(run)
    subject = subjects.photo("photo 0000")
    assert Image.open(io.BytesIO(photo_jpeg(subjects, subject, 320))).size == (80, 60)
    assert np.array_equal(
        mask_pixels(subjects, subject, "pseudo_masks", 2048),
        read_mask(run / "pseudo_masks" / "masks" / "photo 0000.png"),
    )
    best, value = strongest(subjects, subject, "rib", 640)
    assert best.shape == world.SIZE
    assert set(np.unique(best)) == {1}
    assert value.max() == 255
    assert not mask_pixels(subjects, subject, "none", 160).any()
    for side in (0, 321, 10_000):
        with pytest.raises(DataError, match="no picture of"):
            photo_jpeg(subjects, subject, side)
    for layer in ("masks", "../pseudo_masks", "corrected"):
        with pytest.raises(DataError):
            mask_pixels(subjects, subject, layer, 160)
    with pytest.raises(DataError, match=r"no 'cam/\.\.' maps"):
        strongest(subjects, subject, "cam/..", 160)


def test_nothing_outside_of_the_run_is_read(run: Path) -> None:
    secret = run.parent / "secret.png"
    write_mask(secret, np.ones(world.SIZE, np.uint8))
    path = run / "pseudo_masks" / "masks" / "photo 0000.png"
    path.unlink()
    path.symlink_to(secret)
    subjects = open_subjects(run)
    with pytest.raises(DataError, match="leads out of the run"):
        mask_pixels(subjects, subjects.photo("photo 0000"), "pseudo_masks", 160)
    index = read_json(run / "index.json")
    index["images"] |= dict.fromkeys(("../photo 0001", "a/b", "..", ""), index["images"]["photo 0001"])
    (run / "index.json").write_text(json.dumps(index))
    assert not {"../photo 0001", "a/b", "..", ""} & set(open_subjects(run).photos)


def test_a_run_without_anything_to_look_at(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="no run's folder"):
        open_subjects(tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("run.json", "index.json"):
        (bare / name).write_bytes((run / name).read_bytes())
    with pytest.raises(ConfigError, match="neither masks nor maps"):
        open_subjects(bare)


def test_maps_are_those_that_masks_were_cut_from(run: Path) -> None:
    assert open_subjects(run).folders == {"rib": "localization", "cam": "localization"}
    index = read_json(run / "run.json")
    index["recipe"]["affinity"] = {}
    (run / "run.json").write_text(json.dumps(index))
    (run / "localization").rename(run / "affinity")
    assert open_subjects(run).folders == {"rib": "affinity", "cam": "affinity"}
    shutil.copytree(run / "affinity" / "rib", run / "walk_rib" / "rib")
    manifest = read_json(run / "pseudo_masks" / "manifest.json")
    manifest["config"]["method"] = "irn+crf"
    (run / "pseudo_masks" / "manifest.json").write_text(json.dumps(manifest))
    found = open_subjects(run)
    assert found.folders == {"rib": "walk_rib", "cam": "affinity"}
    assert found.cut.adjustable
    manifest["config"]["method"] = "irn"
    (run / "pseudo_masks" / "manifest.json").write_text(json.dumps(manifest))
    assert not open_subjects(run).cut.adjustable


def test_a_score_by_eye_goes_back_to_the_recipe_s(run: Path) -> None:
    path = run / "pseudo_masks" / "manifest.json"
    made = read_json(path)
    edit(path, lambda manifest: manifest["config"].update(threshold=0.6, thresholds={"cat": 0.5}))
    subjects = open_subjects(run)
    assert (subjects.cut.threshold, subjects.own) == (0.6, {"threshold": 0.4, "thresholds": {}})
    edit(run / "run.json", lambda info: info["recipe"]["refine"].update(threshold="auto"))
    assert open_subjects(run).own["threshold"] is None  # it will be found
    edit(path, lambda manifest: {**made, "config": {**made["config"], "threshold": "auto"}, "threshold": 0.31})
    assert open_subjects(run).own["threshold"] == 0.31


def test_two_windows_and_two_programs_lose_nothing(run: Path) -> None:
    one, other = (Store(open_subjects(run)) for _ in range(2))
    one.add([{"id": "photo 0000", "verdict": "accepted"}])
    other.add([{"id": "photo 0001", "verdict": "rejected"}])
    one.add([{"id": "photo 0000", "tag": "dog", "present": True}])
    assert one.decisions() == other.decisions() == read_decisions(run)
    assert other.decisions().verdicts == {"photo 0000": "accepted", "photo 0001": "rejected"}
    assert [line["id"] for line in other.lines(1)[0]] == ["photo 0001", "photo 0000"]


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"id": "nobody", "verdict": "accepted"},
        {"id": "photo 0000", "verdict": "splendid"},
        {"id": "photo 0000", "tag": "horse", "present": True},
        {"id": "photo 0000", "mask": "abc"},
        {"id": "photo 0000", "verdict": "accepted", "tag": "horse", "present": False},
        {"id": "photo 0000", "verdict": "splendid", "tag": "dog", "present": False},
        {"id": "photo 0000", "verdict": "accepted", "present": False},
        {"threshold": 0.5, "id": "photo 0000", "tag": "horse", "present": False},
        {"threshold": 1.5},
        {"threshold": True},
        {"threshold": 0.5, "thresholds": {"horse": 0.5}},
    ],
)
def test_decisions_that_cannot_be_are_refused_whole(run: Path, line: dict[str, Any]) -> None:
    store = Store(open_subjects(run))
    with pytest.raises(DataError):
        store.add([{"id": "photo 0000", "verdict": "accepted"}, line])
    assert store.decisions().verdicts == {}


def test_masks_are_kept_at_the_photo_s_size_and_not_over_another_window_s(run: Path) -> None:
    store, name = Store(open_subjects(run)), "photo 0000"
    mask = np.zeros(world.SIZE, np.uint8)
    mask[5:20, 5:20] = 2
    store.save_mask(name, mask, "")
    digest = store.decisions().masks[name]
    assert np.array_equal(read_mask(mask_path(run, name)), mask)
    with pytest.raises(Conflict, match="another window"):
        store.save_mask(name, mask, "")
    store.save_mask(name, sampled(mask, (30, 40)), digest)
    assert read_mask(mask_path(run, name)).shape == world.SIZE
    for strange in (np.full(world.SIZE, 9, np.uint8), np.zeros((60, 60), np.uint8)):
        with pytest.raises(DataError):
            store.save_mask(name, strange, store.decisions().masks[name])
    store.drop_mask(name, store.decisions().masks[name])
    assert store.decisions().masks == {}
    assert not mask_path(run, name).exists()


def test_a_crash_between_mask_and_line_is_mended(run: Path) -> None:
    mask = np.ones(world.SIZE, np.uint8)
    for name in ("photo 0000", "photo 0001", "photo 0004"):
        write_mask(mask_path(run, name), mask)
    append(
        run,
        [{"id": "photo 0001", "mask": "older"}, {"id": "photo 0004", "mask": "x"}, {"id": "photo 0004", "mask": ""}],
    )
    digest = digest_file(mask_path(run, "photo 0000"))
    assert Store(open_subjects(run)).decisions().masks == {"photo 0000": digest, "photo 0001": digest}
    assert not mask_path(run, "photo 0004").exists()


def test_decisions_go_out_and_come_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(open_subjects(run))
    store.add([{"id": "photo 0000", "verdict": "rejected"}, {"threshold": 0.3, "thresholds": {}}])
    store.save_mask("photo 0004", np.ones(world.SIZE, np.uint8), "")
    store.save_mask("photo 0004", np.full(world.SIZE, 2, np.uint8), store.decisions().masks["photo 0004"])
    out = tmp_path / "decisions.zip"
    assert main(["review", str(run), "--export", str(out)]) == 0
    assert main(["review", str(run), "--export", str(out)]) == 2
    other = world.make_run(tmp_path / "other")
    (other / "pseudo_masks" / "masks" / "photo 0000.png").unlink()
    assert main(["review", str(other), "--import", str(out)]) == 0
    assert "3 decisions taken in" in capsys.readouterr().out
    assert read_decisions(other) == read_decisions(run)
    assert (read_mask(mask_path(other, "photo 0004")) == 2).all()
    with zipfile.ZipFile(io.BytesIO(exported(run))) as archive:
        assert archive.namelist() == ["decisions.jsonl", "masks/photo 0004.png"]
    with pytest.raises(DataError, match="no file of decisions"):
        imported(store, run / "run.json")


def test_what_does_not_fit_is_left_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(open_subjects(run)).save_mask("photo 0004", np.ones(world.SIZE, np.uint8), "")
    write_mask(mask_path(run, "photo 0004"), np.ones((9, 9), np.uint8))
    out = tmp_path / "decisions.zip"
    assert main(["review", str(run), "--export", str(out)]) == 0
    assert main(["review", str(world.make_run(tmp_path / "other")), "--import", str(out)]) == 0
    assert "0 decisions taken in, 1 left out" in (shown := capsys.readouterr().out)
    assert "masks of another size" in shown
    (tmp_path / "empty").mkdir()
    assert main(["review", str(tmp_path / "empty"), "--export", str(tmp_path / "none.zip")]) == 2
    assert "no run's folder" in capsys.readouterr().err
    assert not (tmp_path / "none.zip").exists()


TOKEN = "a-token"
HOST = "127.0.0.1:8000"


@pytest.fixture
def client(run: Path) -> Iterator[Any]:
    """A client of the page of a small run."""
    testclient = pytest.importorskip("starlette.testclient")
    from tag2mask.review.server import Review, make_app

    with testclient.TestClient(make_app(Review(run), TOKEN, [HOST]), base_url=f"http://{HOST}/{TOKEN}/") as made:
        yield made


def test_the_server_answers_the_page(client: Any, run: Path) -> None:
    page = client.get("")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    about = client.get("about").json()
    assert [entry["name"] for entry in about["classes"]] == list(world.CLASSES)
    assert about["cut"] == {"kind": "rib", "threshold": 0.4, "thresholds": {}, "adjustable": True}
    assert about["own"] == {"threshold": 0.4, "thresholds": {}}
    photos = client.get("photos").json()
    assert len(photos) == world.KINDS
    lost = next(row for row in photos if row["id"] == world.LOST)
    assert (lost["lost"], lost["tags"]) == (["dog"], ["dog"])
    assert set(lost["lostAt"]) == {"dog"}
    picture = client.get("photo", params={"id": world.LOST, "side": 320})
    assert picture.headers["content-type"] == "image/jpeg"
    mask = client.get("mask", params={"id": "photo 0000", "layer": "pseudo_masks", "side": 2048})
    assert (mask.headers["x-height"], mask.headers["x-width"]) == ("60", "80")
    assert np.array_equal(
        np.frombuffer(mask.content, np.uint8).reshape(60, 80),
        read_mask(run / "pseudo_masks" / "masks" / "photo 0000.png"),
    )
    assert len(client.get("cut", params={"id": "photo 0000", "kind": "cam", "side": 160}).content) == 2 * 60 * 80
    point = {"id": "photo 0000", "x": 10, "y": 20, "width": 80, "height": 60}
    alike = client.get("alike", params=point)
    assert (alike.headers["x-height"], alike.headers["x-width"], len(alike.content)) == ("60", "80", 60 * 80)
    assert 0 < float(alike.headers["x-parting"]) < 1
    for wrong in ({"x": 80}, {"y": -1}, {"width": 0}, {"height": 4096}, {"id": "photo 9999"}, {"id": "../photo"}):
        assert client.get("alike", params={**point, **wrong}).status_code == 422
    names = [path.name for path in (Path(sys.modules["tag2mask.review"].__file__ or "").parent / "web").iterdir()]
    for name in names:
        assert client.get(f"web/{name}").status_code == 200


def test_decisions_over_the_wire(client: Any, run: Path) -> None:
    lines = [{"id": "photo 0000", "verdict": "accepted", "seen": "s"}]
    answer = client.post("lines?since=0", json=lines).json()
    assert answer["of"] == 1
    assert answer["lines"][0]["verdict"] == "accepted"
    body = np.full(world.SIZE, 3, np.uint8).tobytes()
    asked = {"id": "photo 0004", "height": 60, "width": 80, "base": "", "since": 1}
    saved = client.put("mask", params=asked, content=body)
    digest = saved.json()["lines"][0]["mask"]
    assert client.put("mask", params=asked, content=body).status_code == 409
    assert client.put("mask", params=asked | {"width": 79}, content=body).status_code == 422
    shown = client.get("mask", params={"id": "photo 0004", "layer": "corrected", "side": 2048})
    assert set(shown.content) == {3}
    taken = client.get("decisions.zip")
    assert zipfile.ZipFile(io.BytesIO(taken.content)).namelist()[0] == "decisions.jsonl"
    dropped = client.delete(
        "mask", params={"id": "photo 0004", "base": digest, "since": 2}, headers={"content-length": "0"}
    )
    assert dropped.json() == {
        "lines": [{"time": dropped.json()["lines"][0]["time"], "id": "photo 0004", "mask": ""}],
        "of": 3,
    }
    for bad in ("[]", "{}", "no JSON", '[{"id": "x"}]'):
        assert client.post("lines", content=bad).status_code == 422
    assert client.get("lines", params={"since": "-1"}).status_code == 422
    assert client.get("lines", params={"since": "99"}).json() == {"lines": [], "of": 3}
    assert read_decisions(run).verdicts == {"photo 0000": "accepted"}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"/{TOKEN}/about", {"host": "evil.example:8000"}, 403),
        (f"/{TOKEN}/about", {"host": "localhost:8000"}, 403),
        (f"/{TOKEN}/about", {"host": ""}, 403),
        ("/about", {}, 404),
        ("/wrong/about", {}, 404),
        (f"/{TOKEN}x/about", {}, 404),
        ("/", {}, 404),
        (f"/{TOKEN}/web/../server.py", {}, 404),
        (f"/{TOKEN}/web/%2e%2e/server.py", {}, 404),
        (f"/{TOKEN}/web/..%2fserver.py", {}, 404),
        (f"/{TOKEN}/web/%2e%2e%2f%2e%2e%2fserver.py", {}, 404),
        (f"/{TOKEN}/web//etc/passwd", {}, 404),
        (f"/{TOKEN}/mask?id=../../etc/passwd&layer=corrected&side=160", {}, 422),
        (f"/{TOKEN}/mask?id=photo 0000&layer=../..&side=160", {}, 422),
        (f"/{TOKEN}/photo?id=%2fetc%2fpasswd&side=320", {}, 422),
        (f"/{TOKEN}/photo?id=photo%200000&side=99999999999", {}, 422),
    ],
)
def test_strangers_and_escapes_are_refused(client: Any, path: str, headers: dict[str, str], status: int) -> None:
    answer = client.get(f"http://{HOST}{path}", headers=headers)
    assert answer.status_code == status
    assert "def " not in answer.text
    assert "root:" not in answer.text


def test_other_sites_cannot_decide(client: Any, run: Path) -> None:
    lines = [{"id": "photo 0000", "verdict": "rejected"}]
    assert client.post("lines", json=lines, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("lines", json=lines, headers={"origin": "null"}).status_code == 403
    assert client.put("mask", content=b"x", headers={"content-length": str(2**30)}).status_code == 413
    assert not log_path(run).exists()
    assert client.post("lines", json=lines, headers={"origin": f"http://{HOST}"}).status_code == 200


def test_compressed_answers_are_whole(client: Any) -> None:
    raw = client.send(client.build_request("GET", "photos"), stream=True)
    assert json.loads(gzip.decompress(b"".join(raw.iter_raw()))) == client.get("photos").json()


def test_the_command_says_what_is_wrong(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["review", str(run), "--port", str(taken.getsockname()[1]), "--no-browser"]) == 2
    assert "choose another" in capsys.readouterr().err


def test_without_the_extra_its_name_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["review", str(run), "--no-browser"]) == 2
    assert "[review]" in capsys.readouterr().err


def test_torch_is_not_waited_for(run: Path) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from tag2mask.review.server import Review; "
        f"Review(Path({str(run)!r})).photos(); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip().endswith("False")
