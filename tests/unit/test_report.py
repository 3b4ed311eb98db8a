"""The report: what it shows of a run, what it admits, and that it is one harmless self-contained file."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data import LocalizationMaps, save_maps, write_mask
from tag2mask.reports import charts, gallery, pictures, write_report
from tag2mask.reports.gather import chosen_on_truth, gather
from tag2mask.reports.html import duration
from tag2mask.reports.letters import letter
from tag2mask.reports.palette import class_colour, heat_table
from tag2mask.reports.pick import choose, even_draw

CLASSES = ("cat", "cow", "person")
STEPS = 4


def blob(size: tuple[int, int], centre: tuple[float, float], width: float) -> np.ndarray:
    """A round bump (h, w) in 0..1; centre and width are shares of the size."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    y, x = (rows + 0.5) / size[0] - centre[0], (columns + 0.5) / size[1] - centre[1]
    return np.exp(-(x**2 + y**2) / (2 * width**2)).astype(np.float32)


def write_fake_run(run: Path, photos: dict[str, dict[str, Any]], classes: tuple[str, ...]) -> Path:
    """Write every part of a run for `photos`: id -> {path, labels, split, mask (path or None), truth (H, W)}."""
    rng = np.random.default_rng(0)
    index = {name: {key: entry[key] for key in ("path", "labels", "split", "mask")} for name, entry in photos.items()}
    per_image: dict[str, dict[str, float]] = {}
    for number, (name, entry) in enumerate(photos.items()):
        if entry["split"] == "train":
            _fake_localization(run, name, entry, classes)
            keys, folders = ("seed_cam", "seed_rib", "pseudo_mask"), ("pseudo_masks",)
        else:
            keys, folders = ("segmentation_val", "supervised_val"), ("predictions", "supervised_predictions")
        for folder in folders:
            shift = int(rng.integers(1, 6))
            mask = np.roll(entry["truth"], shift, axis=1)
            if folder == "pseudo_masks":
                mask = mask.copy()
                mask[: len(mask) // 8] = 255
            write_mask(run / folder / "masks" / f"{name}.png", mask)
        for place, key in enumerate(keys):
            per_image.setdefault(key, {})[name] = round(0.3 + 0.1 * place + 0.4 * number / len(photos), 4)
    lut = list(range(256))
    write(run / "index.json", {"classes": list(classes), "images": index, "mask_lut": lut})
    write(run / "scores_per_image.json", per_image)
    write(run / "scores.json", _fake_scores(classes))
    _fake_manifests(run, photos)
    _fake_logs(run)
    write(run / "run.json", {
        "name": "fake run", "recipe": "fake.yaml", "seed": 3, "finished": True, "versions": {"tag2mask": "9.9"},
        "machine": {"cpu": "abacus", "cores": 2}, "seconds": {"localize": 120.0, "evaluate": 6.5},
        "data": {"root_name": "farm", "classes": list(classes), "limited_to": 12,
                 "train_images": sum(e["split"] == "train" for e in photos.values()),
                 "val_images": sum(e["split"] == "val" for e in photos.values())},
    })  # fmt: skip
    (run / "recipe.yaml").write_text("localize:\n  steps: 10\n", encoding="utf-8")
    return run


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _fake_localization(run: Path, name: str, entry: dict[str, Any], classes: tuple[str, ...]) -> None:
    size = entry["truth"].shape
    present = np.array(sorted(classes.index(label) for label in entry["labels"] if label in classes))
    small = (max(4, size[0] // 16), max(4, size[1] // 16))
    centres = {}
    for c in present:
        where = np.argwhere(entry["truth"] == c + 1)
        centres[c] = tuple((where.mean(0) + 0.5) / size) if len(where) else (0.5, 0.4)
    for kind, width in (("cam", 0.1), ("rib", 0.2)):
        sums = [np.stack([blob(small, centres[c], width) for c in present])]
        save_maps(run / "localization" / kind / f"{name}.npz", LocalizationMaps(present, size, (1.0,), sums))
    widths = np.linspace(0.1, 0.2, STEPS)
    stack = np.stack([[blob(small, centres[c], width) for c in present] for width in widths]).astype(np.float16)
    path = run / "localization" / "traces" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, classes=present, maps=stack, accumulated=stack, loss=np.linspace(-2, -9, STEPS),
        target_logit=np.linspace(4, 16, STEPS), covered=np.linspace(0.1, 0.4, STEPS),
    )  # fmt: skip


def _fake_scores(classes: tuple[str, ...]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    keys = ("seed_cam", "seed_rib", "pseudo_mask", "segmentation_val", "supervised_val")
    for number, key in enumerate(keys):
        miou = 0.481 + 0.05 * number
        per_class = {n: miou - 0.2 + 0.4 * ((i * 7 + 3) % 5) / 5 for i, n in enumerate(("background", *classes))}
        split = "val" if key.endswith("val") else "train"
        scores[key] = {"miou": miou, "per_class": per_class, "images": 8, "split": split, "threshold": None}
        if key.startswith("seed"):
            curve = [[t / 50, max(0.05, miou - 3 * (t / 50 - 0.2 - 0.04 * number) ** 2)] for t in range(0, 41)]
            scores[key] |= {"curve": curve, "threshold": 0.2 + 0.04 * number,
                            "threshold_chosen_on": "best on the true masks of these images"}  # fmt: skip
    return scores


def _fake_manifests(run: Path, photos: dict[str, dict[str, Any]]) -> None:
    for folder, stage, split in (
        ("classifier", "train_classifier", ""), ("localization", "localize", "train"),
        ("pseudo_masks", "refine", "train"), ("segmenter", "train_segmenter", ""), ("predictions", "predict", "val"),
        ("supervised", "train_segmenter", ""), ("supervised_predictions", "predict", "val"),
    ):  # fmt: skip
        images = {name: {"status": "done"} for name, entry in photos.items() if entry["split"] == split}
        write(run / folder / "manifest.json", {"stage": stage, "images": images, "seconds": 44.0})


def _fake_logs(run: Path) -> None:
    rng = np.random.default_rng(1)
    for folder, steps in (("classifier", 60), ("segmenter", 500), ("supervised", 500)):
        lines = []
        for step in range(steps):
            loss = 0.7 * float(np.exp(-3 * step / steps)) + 0.04 * float(rng.random())
            lines.append({"epoch": step // 20, "step": step, "loss": loss, "lr": 0.1, "seconds": 0.5 * step})
            if folder == "classifier" and step % 20 == 19:
                lines.append({"epoch": step // 20, "train_loss": loss, "val_map": 0.7 + step / 300})
        (run / folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def make_run(folder: Path, classes: tuple[str, ...] = CLASSES, photos: int = 12) -> Path:
    """A run over small synthetic photos with one or two discs each; the last third is held out."""
    entries: dict[str, dict[str, Any]] = {}
    rng = np.random.default_rng(2)
    (folder / "photos").mkdir(parents=True)
    for number in range(photos):
        name = f"photo {number:02d} é"
        truth = np.zeros((48, 64), np.uint8)
        labels = sorted({classes[number % len(classes)], classes[(number * number) % len(classes)]})
        pixels = rng.integers(60, 120, (48, 64, 3)).astype(np.uint8)
        for place, label in enumerate(labels):
            disc = blob(truth.shape, (0.5, 0.3 + 0.4 * place), 0.12) > 0.5
            truth[disc] = classes.index(label) + 1
            pixels[disc] = class_colour(classes.index(label))
        path, mask = folder / "photos" / f"{number}.png", folder / "photos" / f"{number}_mask.png"
        Image.fromarray(pixels).save(path)
        write_mask(mask, truth)
        split = "train" if number < 2 * photos // 3 else "val"
        entries[name] = {"path": str(path), "labels": labels, "split": split, "mask": str(mask), "truth": truth}
    return write_fake_run(folder / "run", entries, classes)


class Page(HTMLParser):
    """Collects what the tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open[-1:]):
            self.text += data + " "

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and (not kind or kind in (a.get("class") or "").split())]


def page_of(run: Path, **options: Any) -> tuple[str, Page]:
    text = write_report(run, **options).read_text(encoding="utf-8")
    return text, Page(text)


def test_a_finished_run_shows_every_part(run: Path) -> None:
    text, page = page_of(run)
    for expected in (
        "fake run", "farm", "limited to 12 images", "CAM seed", "RIB seed", "Pseudo-mask", "Upper bound",
        "trained on true masks", "chosen on ground truth", "threshold: best on the true masks of these images",
        "+5.0 over CAM", "15.0 s", "abacus", "RIB, step by step", "Differences",
    ):  # fmt: skip
        assert expected in " ".join(page.text.split()), expected
    assert "53.1" in page.text  # the RIB seed, percent
    assert "could not be shown" not in page.text
    assert len(page.all("article", "card")) == 8 + 4
    assert len(page.all("svg", "chart")) == 4 + 4  # a chart per class and background; threshold and training
    frames = [a for a in page.all("img", "layer") if a.get("data-step")]
    assert {a["data-step"] for a in frames} == {str(step) for step in range(STEPS)}
    steps = json.loads(re.search(r'id="steps">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert steps["train-0"][-1] == {"step": 3, "last": 3, "loss": -9.0, "target_logit": 16.0, "covered": 0.4}


def test_the_file_needs_no_network_and_every_picture_has_a_text(run: Path) -> None:
    text, page = page_of(run)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "base"}
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/")
            assert attributes["alt"]
        if tag in {"script", "a"}:
            assert attributes.get("src") is None
            assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\((?!data:)", text)
    assert "default-src 'none'" in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    run = make_run(tmp_path, (evil, "\"'><img src=x onerror=alert(2)>", "{{ 7*7 }}"), photos=6)
    info = json.loads((run / "run.json").read_text())
    info["name"] = "<b>bold</b>"
    info["machine"] = {"<i>k</i>": "</dd><script>alert(3)</script>"}
    write(run / "run.json", info)
    _, page = page_of(run)
    assert len(page.all("script")) == 2  # the page's own: its data and its code
    assert not page.all("b", "bold")
    assert not [a for a in page.all("img") if "onerror" in a]
    assert evil in page.text
    assert "<b>bold</b>" in page.text
    assert "{{ 7*7 }}" in page.text


@pytest.mark.parametrize("part", [
    "run.json", "index.json", "scores.json", "scores_per_image.json", "recipe.yaml", "classifier", "localization",
    "localization/cam", "localization/rib", "localization/traces", "pseudo_masks", "predictions", "supervised",
    "supervised_predictions", "segmenter/log.jsonl",
])  # fmt: skip
def test_any_part_may_be_missing(run: Path, part: str) -> None:
    (run / part).rename(run.parent / "taken away")
    _, page = page_of(run, examples=2)
    assert page.all("article", "card")
    if part in {"classifier", "pseudo_masks", "supervised"}:
        assert f"{part}/" in page.text


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    _, page = page_of(tmp_path)
    assert "Not in this run, or not yet:" in page.text
    for part in ("classifier/", "localization/", "predictions/", "score of the CAM seed"):
        assert part in page.text


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK\x03\x04" + bytes(60), b"[]"]
)
def test_broken_files_are_named_and_the_rest_is_shown(run: Path, content: bytes) -> None:
    name = "photo 00 é"
    broken = [run / "localization" / kind / f"{name}.npz" for kind in ("cam", "rib", "traces")]
    broken += [run / "scores.json", run / "classifier" / "manifest.json"]
    broken += [run / "pseudo_masks" / "masks" / f"{name}.png"]
    broken += [run.parent / "photos" / "0.png", run.parent / "photos" / "0_mask.png"]
    for path in broken:
        path.write_bytes(content)
    _, page = page_of(run)
    assert len(page.all("article", "card")) == 8 + 4
    for place in ("cam", "rib", "traces"):
        assert f"localization/{place}/{name}.npz" in page.text
    assert f"photo of {name}" in page.text
    assert f"true mask of {name}" in page.text
    assert f"pseudo_masks/masks/{name}.png" in page.text
    assert str(run.parent) not in page.text


def test_a_truncated_map_file_is_noted(run: Path) -> None:
    path = next((run / "localization" / "traces").iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    _, page = page_of(run)
    assert f"localization/traces/{path.name}" in page.text


def test_numbers_that_are_none_or_not_finite_are_shown_as_unknown(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    scores["seed_rib"]["per_class"]["cat"] = None
    scores["seed_cam"]["threshold"] = float("nan")
    scores["pseudo_mask"]["images"] = "many"
    scores["segmentation_val"] = 7
    write(run / "scores.json", scores)
    _, page = page_of(run)
    assert "nan" not in page.text.lower()
    assert "score of the segmentation" in page.text


def test_a_loss_of_rib_is_said_plainly(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    scores["seed_rib"]["miou"] = 0.401
    write(run / "scores.json", scores)
    _, page = page_of(run)
    assert "RIB takes the seed from 48.1 to 40.1" in page.text
    assert "−8.0 against CAM" in page.text


def test_a_log_of_a_resumed_and_killed_run(run: Path) -> None:
    log = run / "classifier" / "log.jsonl"
    repeated = [json.dumps({"epoch": 0, "step": step, "loss": 5.0}) for step in range(10)]
    log.write_text(log.read_text() + "\n".join(repeated) + '\n{"epoch": 3, "st')
    facts = gather(run)
    assert len(facts.logs["classifier"].loss) == 60  # a step counts once, as it went last
    assert facts.logs["classifier"].loss[0] == (0.0, 5.0)
    assert facts.logs["classifier"].val_map[0] == (0.0, pytest.approx(0.7 + 19 / 300))
    assert facts.notes.broken == ["classifier/log.jsonl: 1 unreadable line left out"]


def test_a_log_of_whole_epochs_gives_curves(run: Path) -> None:
    rows = [json.dumps({"epoch": e, "step": 40 * e, "train_loss": 1 / e, "lr": 0.1}) for e in range(1, 4)]
    for folder in ("classifier", "segmenter"):
        (run / folder / "log.jsonl").write_text("\n".join(rows) + "\n")
    assert gather(run).logs["segmenter"].epoch_loss == [(1.0, 1.0), (2.0, 0.5), (3.0, pytest.approx(1 / 3))]
    text, _ = page_of(run)
    assert "loss against epoch: classifier from 1 to 0.333" in text
    assert "loss against epoch: trained on pseudo-masks" in text


def test_the_way_from_seed_to_pseudo_mask_is_shown(run: Path) -> None:
    """With IRN: confident labels, edges, walk and saliency between seed and pseudo-mask, comparisons in the table."""
    manifest = json.loads((run / "pseudo_masks" / "manifest.json").read_text())
    write(run / "pseudo_masks" / "manifest.json", manifest | {"config": {"method": "irn", "maps": "rib"}})
    names = sorted(path.stem for path in (run / "pseudo_masks" / "masks").iterdir())
    for name in names:
        mask = np.full((48, 64), 255, np.uint8)
        mask[10:20] = 1
        write_mask(run / "confident_rib" / "masks" / f"{name}.png", mask)
    (run / "pseudo_masks" / "steps").mkdir()
    edge, walked = np.zeros((12, 16), np.float16), np.ones((1, 12, 16), np.float16)
    np.savez(run / "pseudo_masks" / "steps" / f"{names[0]}.npz", classes=np.array([0]), edge=edge, walked=walked,
             saliency=edge)  # fmt: skip
    (run / "pseudo_masks" / "steps" / f"{names[1]}.npz").write_bytes(b"PK")
    for folder in ("confident_rib", "boundary_rib", "pseudo_masks_cam_irn"):
        write(
            run / folder / "manifest.json", {"stage": "x", "images": {names[0]: {"status": "done"}}, "seconds": 8.0}
        )
    (run / "boundary_rib" / "log.jsonl").write_text(
        '{"epoch": 1, "train_loss": 2.7}\n{"epoch": 2, "train_loss": 2.5}\n'
    )
    scores = json.loads((run / "scores.json").read_text())
    scores["pseudo_mask"] |= {
        "title": "RIB+IRN+Sal",
        "coverage": 0.9,
        "miou_decided": 0.7,
        "saliency": "from a model",
    }
    scores["pseudo_mask_cam_irn"] = scores["seed_cam"] | {"title": "CAM+IRN", "curve": []}
    write(run / "scores.json", scores)
    _, page = page_of(run)
    text = " ".join(page.text.split())
    for expected in (
        "Confident labels", "Edges", "Random walk", "Saliency", "CAM+IRN", "Boundary network",
        "RIB+IRN+Sal: what the segmenter learns from", "saliency from a model; 90.0 % of the pixels decided",
        "Confident labels: RIB", "Train boundary network: RIB", "Compare: CAM IRN",
    ):  # fmt: skip
        assert expected in text, expected
    cards = page.all("article", "card")
    columns = {re.search(r"--columns: (\d+)", card["style"] or "").group(1) for card in cards}  # type: ignore[union-attr]
    assert max(map(int, columns)) <= 7
    assert f"pseudo_masks/steps/{names[1]}.npz" in text  # the broken one is named
    tiles = page.all("div", "stat")
    assert len(tiles) == 5  # comparisons stand in the table only


def test_images_with_recorded_steps_come_first_and_others_have_no_empty_panel(run: Path) -> None:
    traces = sorted((run / "localization" / "traces").iterdir())
    for path in traces[2:]:
        path.unlink()
    _, page = page_of(run, examples=6)
    assert len(page.all("button", "steps")) == 2  # 2 random training images, and both have their steps
    assert "images with recorded steps first" in page.text


def test_the_last_step_without_a_loss_is_shown(run: Path) -> None:
    path = sorted((run / "localization" / "traces").iterdir())[0]
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["loss"][-1] = np.nan  # the last step made no update
    np.savez_compressed(path, **arrays)
    text, _ = page_of(run)
    steps = json.loads(re.search(r'id="steps">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert sum("loss" not in frames[-1] for frames in steps.values()) == 1
    assert text.count('data-field="loss"') == len(steps)


def test_an_unfinished_stage_is_marked(run: Path) -> None:
    write(run / "localization" / "manifest.json", {"stage": "localize", "finished": False, "seconds": 3.0})
    _, page = page_of(run)
    assert "Localize: CAM and RIB not finished" in " ".join(page.text.split())


def test_failed_images_are_listed(run: Path) -> None:
    manifest = json.loads((run / "localization" / "manifest.json").read_text())
    manifest["images"]["odd one"] = {"status": "failed", "error": "zero bytes"}
    write(run / "localization" / "manifest.json", manifest)
    _, page = page_of(run)
    assert "odd one: zero bytes" in page.text


def test_failed_images_are_listed_without_private_folders(run: Path) -> None:
    index = json.loads((run / "index.json").read_text())
    name = next(iter(index["images"]))
    index["images"][name]["path"] = "/home/ann/my photos/one.jpg"
    write(run / "index.json", index)
    errors = {
        name: "mask of /home/ann/my photos/one.jpg has another size",
        "b": "/home/ann/other photos/two.jpg: is empty; delete it",
        "c": f"{run}/localization/cam/c.npz: is cut off",
        "d": "the file '/srv/d.png' and C:\\Users\\ann\\d.jpg differ; see https://host/a/b",
    }
    images = {name: {"status": "failed", "error": error} for name, error in errors.items()}
    write(run / "localization" / "manifest.json", {"stage": "localize", "images": images, "seconds": 1.0})
    text, page = page_of(run)
    for expected in ("mask of one.jpg has", "b: two.jpg: is empty; delete it", "c: localization/cam/c.npz: is cut",
                     "'d.png' and d.jpg differ; see https://host/a/b"):  # fmt: skip
        assert expected in page.text
    for private in ("/home", "my photos", "other photos", str(run), "/srv", "Users"):
        assert private not in text


def test_more_ways_to_choose_a_threshold_than_letters(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    for number in range(30):
        scores[f"pseudo_mask_{number}"] = scores["seed_cam"] | {"threshold_chosen_on": f"way {number}", "curve": []}
    write(run / "scores.json", scores)
    _, page = page_of(run)
    assert all(f"threshold: way {number}" in page.text for number in range(30))
    assert [letter(number) for number in (0, 8, 25, 26, 27, 52)] == ["a", "i", "z", "aa", "ab", "ba"]


def test_the_showcase_stays_inside_the_run(run: Path) -> None:
    (run / "showcase").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(run / "showcase" / "a.png")
    item = {"name": "chelsea", "tag": "tabby cat", "photo": "showcase/a.png", "seconds": 12.3}
    outside = {"name": "x", "photo": "../photos/0.png"}
    write(run / "showcase.json", {"title": "Four photos", "text": "From a tag.", "items": [item, outside]})
    _, page = page_of(run)
    assert "Four photos" in page.text
    assert "tabby cat" in page.text
    assert len(page.all("article", "show")) == 1
    assert "lies outside the run's folder" in page.text


def test_options_and_their_errors(run: Path, tmp_path: Path) -> None:
    out = write_report(run, out=tmp_path / "elsewhere" / "r.html", examples=3, seed=1)
    assert out.is_file()
    assert not (run / "report.html").exists()
    groups = [a["data-groups"] or "" for a in Page(out.read_text("utf-8")).all("article", "card")]
    assert sum(len(json.loads(group)) for group in groups) == 6  # one each best, worst, random in two parts
    assert not page_of(run, examples=0)[1].all("article", "card")
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="examples is -1"):
        write_report(run, examples=-1)


def test_the_same_run_and_seed_give_the_same_file(run: Path, tmp_path: Path) -> None:
    first = write_report(run, out=tmp_path / "a.html", seed=5).read_bytes()
    assert write_report(run, out=tmp_path / "b.html", seed=5).read_bytes() == first


def test_examples_that_do_not_fit_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SIZE_LIMIT", 60_000)
    _, page = page_of(run)
    assert 0 < len(page.all("article", "card")) < 12
    assert "left out to keep this file small" in page.text


def test_choose_gives_best_worst_and_an_even_draw() -> None:
    labels = {f"{n:03d}": ["common"] for n in range(90)} | {f"r{n}": ["rare"] for n in range(3)}
    scores = {name: number / 100 for number, name in enumerate(labels)}
    chosen = choose(labels, scores, 12, 0, "train")
    best = sorted((n for n in chosen if "best" in chosen[n]), key=lambda n: chosen[n]["best"])
    worst = sorted((n for n in chosen if "worst" in chosen[n]), key=lambda n: chosen[n]["worst"])
    assert best == ["r2", "r1", "r0", "089"]
    assert worst == ["000", "001", "002", "003"]
    drawn = [name for name in chosen if "random" in chosen[name]]
    assert sum(name.startswith("r") for name in drawn) == 2
    assert set(choose(labels, {}, 5, 0, "train")) == set(even_draw(labels, 5, 0, "train"))
    assert even_draw(labels, 5, 0, "train") != even_draw(labels, 5, 1, "train")
    assert len(choose({"a": [], "b": ["x"]}, {"a": 0.5}, 24, 0, "val")) == 2


def test_heat_scale_rises_in_lightness_and_classes_differ() -> None:
    lightness = heat_table().astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[0] < 5
    assert lightness[-1] > 230
    colours = np.array([class_colour(index) for index in range(80)], float)
    gaps = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(80)
    assert gaps.min() > 4


def test_mask_overlay_keeps_the_class_colour_and_clear_background() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 200  # a class far beyond the fixed colours
    overlay = np.asarray(decode_uri(pictures.mask_uri(mask)).convert("RGBA"))  # enlarged 25 times
    assert overlay.shape == (500, 500, 4)
    assert overlay[0, 0, 3] == 0
    assert tuple(overlay[250, 250, :3]) == class_colour(199)
    assert overlay[250, 250, 3] < overlay[250, 125, 3] == 255


def test_heat_and_photo_are_small_and_keep_their_shape() -> None:
    heat = decode_uri(pictures.heat_uri(blob((24, 32), (0.5, 0.5), 0.2)))
    assert heat.size == (144, 108)
    assert decode_uri(pictures.heat_uri(np.full((3, 3), np.nan))).size == (144, 144)
    assert decode_uri(pictures.photo_uri(np.zeros((1000, 2000, 3), np.uint8))).size == (512, 256)


def decode_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(("text", "expected"), [
    ("ground truth of the scored images", True), ("best on true masks", True), ("GT", True), ("oracle", True),
    ("", False), ("fixed, 0.35", False), ("share of pixels; no true masks were used", False),
    ("coverage, without ground truth", False), ("not chosen on masks", False),
])  # fmt: skip
def test_chosen_on_truth(text: str, expected: bool) -> None:
    assert chosen_on_truth(text) is expected


def test_line_chart_scales_marks_and_survives_odd_curves() -> None:
    curve = [(0.0, 0.2), (0.5, 0.6), (1.0, 0.1)]
    line = charts.Line("a<b", curve, "red", mark=0.5, mark_text="best & only")
    svg = str(charts.line_chart([line], "x", "y", scale=100))
    assert "best &amp; only" in svg
    assert "a&lt;b" in svg
    assert charts.line_chart([], "x", "y") == ""
    assert "circle" in str(charts.line_chart([charts.Line("one", [(3.0, 3.0)], "red")], "x", "y"))
    assert len(charts.thin([(float(n), 1.0) for n in range(30_000)])) <= 240


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "–"), (0.4213, "0.42 s"), (12.34, "12.3 s"), (250, "4 min 10 s"), (7500, "2 h 5 min"), (59.97, "60.0 s"),
])  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
