"""The report: what it shows of a run, what it admits, and that it is one harmless self-contained file."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli.scores import print_scores
from tag2mask.common.errors import DataError
from tag2mask.common.files import read_json, write_json
from tag2mask.reports import charts, gallery, pictures, write_report
from tag2mask.reports.gather import gather
from tag2mask.reports.html import duration
from tag2mask.reports.look import look
from tag2mask.reports.palette import class_colour, heat_table
from tag2mask.reports.pick import choose, even_draw
from tag2mask.runs.scores import chosen_on_truth, letter
from tiny_run import BROKEN, CLASSES, STEPS, TRAIN, VAL, copy_run, edit, replaced

PHOTO = "photo 00 é"
HEADINGS = [
    "What to do next",
    "What the network does",
    "Held-out photos",
    "Your tagged photos",
    "What is doubtful",
    "Scores",
    "Pseudo-masks compared",
    "How it came",
    "Curves",
    "Run",
]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be damaged."""
    return copy_run(finished_run, tmp_path)


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


def change(file: Path, key: str, **values: Any) -> None:
    """Change values of one entry of a JSON file."""
    edit(file, lambda whole: whole | {key: whole[key] | values})


def words(page: Page) -> str:
    """The text of a page with single spaces."""
    return " ".join(page.text.split())


@pytest.mark.parametrize(("maps", "shown"), [("rib", "rib"), ("cam", "cam"), ("gone", "rib")])
def test_a_doubtful_photo_has_the_map_that_its_mask_was_made_of(run: Path, maps: str, shown: str) -> None:
    change(run / "pseudo_masks" / "manifest.json", "config", maps=maps)
    facts = gather(run)
    assert gallery._maps_of_masks(facts) == shown
    doubtful = look(run, facts.index, 0).doubts[0].id
    card = gallery._doubtful_card(facts, facts.index.images[doubtful], {})
    assert card.panels[1].title == shown.upper()


def test_the_epoch_that_held_out_photos_chose_is_told_of(run: Path) -> None:
    kept = {"epoch": 3, "learned": 7, "planned": 24, "photos": 4}
    edit(run / "classifier" / "manifest.json", lambda whole: whole | {"kept": kept})
    shown = words(page_of(run)[1])
    assert "the figure is a little too good: weights of epoch 3, ended early after 7 of 24, the best on 4 of" in shown


def test_a_finished_run_shows_every_part(finished_run: Path, tmp_path: Path) -> None:
    text, page = page_of(finished_run, out=tmp_path / "report.html")
    shown = words(page)
    for expected in (
        "tiny|tiny: random networks, for tests|farm|9 training images|seed 3|CAM seed|RIB seed|Pseudo-mask RIB+IRN|"
        "refined seeds: what the segmenter learns from|Pseudo-mask CAM+threshold (plain_cam)|"
        "refined otherwise; only scored|Segmentation|Upper bound|trained on true masks|chosen on ground truth|"
        "threshold: best on the true masks of these images|95 % bootstrap interval|Confident labels|Edges|"
        "Random walk|Final mask|RIB, step by step|Differences|Train classifier|Confident labels: RIB|"
        f"Train boundary network: RIB|Compare: CAM+threshold (plain_cam)|Predict with upper bound|steps: 3|{BROKEN}: "
    ).split("|"):
        assert expected in shown, expected
    scores = read_json(finished_run / "scores.json")
    for row in scores.values():
        low, high = (100 * row["interval"][end] for end in ("low", "high"))
        assert f"{100 * row['miou']:.1f} {low:.1f}-{high:.1f} {row['images']} {row['split']}" in shown
    for folder in ("classifier", "boundary_rib", "segmenter", "supervised"):
        losses = [json.loads(line)["train_loss"] for line in (finished_run / folder / "log.jsonl").open()]
        assert f"from {losses[0]:.3g} to {losses[-1]:.3g}" in text
    figure = read_json(finished_run / "classifier" / "manifest.json")["validation_map"]
    assert f"mean average precision {100 * figure:.1f} percent, 4 held-out images" in shown
    for nothing_of in ("could not be shown", "Not in this run", "Not part of this run", "not finished"):
        assert nothing_of not in shown
    assert str(finished_run.parent) not in text
    found = look(finished_run, gather(finished_run).index, 0)
    assert (found.photos, found.available) == (TRAIN, TRAIN)
    others = len(found.doubts) + len(found.differing)
    assert len(page.all("article", "card")) == VAL + 2 * TRAIN + others  # held out, final masks, from tag to mask
    titles = re.findall(r"<h[23][^>]*>([^<]+)</h[23]>", text)
    assert [title for title in titles if title in HEADINGS] == HEADINGS  # what matters first comes first
    # a chart per class and background; threshold, three trainings and the classifier on held-out images
    assert len(page.all("svg", "chart")) == 4 + 5
    assert len(page.all("div", "stat")) == 6  # comparisons stand in the table only
    columns = {re.search(r"--columns: (\d+)", card["style"] or "").group(1) for card in page.all("article", "card")}  # type: ignore[union-attr]
    assert max(map(int, columns)) <= 7
    frames = [a for a in page.all("img", "layer") if a.get("data-step")]
    assert {a["data-step"] for a in frames} == {str(step) for step in range(STEPS)}
    steps = json.loads(re.search(r'id="steps">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert len(steps) == TRAIN
    for shown_steps in steps.values():
        first, last = shown_steps[0], shown_steps[-1]
        assert {"step", "last", "loss", "target_logit", "covered"} == set(first)
        assert {"step", "last", "target_logit", "covered"} == set(last)  # after it no update is made
        assert 0 < last["step"] == last["last"] < STEPS
    assert text.count('data-field="loss"') == len(steps)


def test_the_file_needs_no_network_and_every_picture_has_a_text(finished_run: Path, tmp_path: Path) -> None:
    text, page = page_of(finished_run, out=tmp_path / "report.html")
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


def test_hostile_names_stay_text(run: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    names = dict(zip(CLASSES, (evil, "\"'><img src=x onerror=alert(2)>", "{{ 7*7 }}"), strict=True))
    for file in ("index.json", "scores.json", "run.json"):
        edit(run / file, lambda value: replaced(value, names))
    hostile = {"name": "<b>bold</b>", "machine": {"<i>k</i>": "</dd><script>alert(3)</script>"}}
    edit(run / "run.json", lambda info: info | hostile | {"stages": replaced(info["stages"], {"Train": "<b>bold"})})
    _, page = page_of(run)
    assert len(page.all("script")) == 2  # the page's own: its data and its code
    assert not page.all("b", "bold")
    assert not [a for a in page.all("img") if "onerror" in a]
    assert evil in page.text
    assert "<b>bold</b>" in page.text
    assert "{{ 7*7 }}" in page.text


PARTS = """run.json index.json scores.json scores_per_image.json recipe.yaml classifier localization localization/cam
localization/rib localization/traces confident_rib boundary_rib/manifest.json pseudo_masks predictions supervised
supervised_predictions segmenter/log.jsonl"""


@pytest.mark.parametrize("part", PARTS.split())
def test_any_part_may_be_missing(run: Path, part: str) -> None:
    (run / part).rename(run.parent / "taken away")
    _, page = page_of(run, examples=2)
    assert page.all("article", "card")
    if part in {"classifier", "confident_rib", "pseudo_masks", "supervised"}:
        assert f"{part}/ (" in page.text
    if part in {"run.json", "index.json"}:
        assert f"{part}, so" in page.text


def test_a_run_of_an_earlier_version_is_called_by_its_stages(run: Path) -> None:
    edit(run / "run.json", lambda info: {key: value for key, value in info.items() if key != "stages"})
    text, page = page_of(run, examples=1)
    shown = words(page)
    assert "Localize: CAM and RIB (localization)" in shown
    assert "Train segmenter (supervised)" in shown
    assert "Refine to pseudo-masks (pseudo_masks_plain_cam)" in shown
    folders = [stage.step.folder for stage in gather(run).stages]
    assert folders[:4] == ["classifier", "localization", "confident_rib", "boundary_rib"]
    assert ">Confident labels<" in text


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    _, page = page_of(tmp_path)
    assert "Not in this run, or not yet:" in page.text
    for part in ("run.json", "index.json", "score of the CAM seed"):
        assert part in page.text


def test_a_run_that_has_just_begun_says_what_is_to_come(run: Path) -> None:
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    for name in ("scores.json", "scores_per_image.json"):
        (run / name).unlink()
    edit(run / "run.json", lambda info: info | {"finished": False, "seconds": {}})
    shown = words(page_of(run, examples=0)[1])
    assert "Not in this run, or not yet:" in shown
    for part in ("classifier/ (train classifier)", "supervised_predictions/ (predict with upper bound)"):
        assert part in shown


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK\x03\x04" + bytes(60), b"[]"]
)
def test_broken_files_are_named_and_the_rest_is_shown(run: Path, content: bytes) -> None:
    parts = [f"localization/{kind}/{PHOTO}.npz" for kind in ("cam", "rib", "traces")]
    parts += [f"pseudo_masks/steps/{PHOTO}.npz", f"pseudo_masks/masks/{PHOTO}.png"]
    broken = [run / name for name in (*parts, "scores.json", "classifier/manifest.json")]
    broken += [run.parent / "farm" / f"{PHOTO}.png", run.parent / "farm" / "masks" / f"{PHOTO}.png"]
    for path in broken:
        assert path.is_file()
        path.write_bytes(content)
    _, page = page_of(run)
    assert len(page.all("article", "card")) >= 2 * TRAIN + VAL
    assert page.text.count(f"photo of {PHOTO}: ") == 1
    for part in (*parts, f"photo of {PHOTO}", f"true mask of {PHOTO}"):
        assert part in page.text
    assert str(run.parent) not in page.text


STAGES = [1, {"folder": "../run"}, {"folder": ".."}]
FOREIGN = {"data": 3, "stages": STAGES, "seconds": [2], "classes": 4, "images": {"a": 5}}


@pytest.mark.parametrize("file", ["run.json", "index.json", "scores.json", "scores_per_image.json", "showcase.json"])
@pytest.mark.parametrize("value", [7, "x", [1], FOREIGN | {"items": 6, "recipe": []}])
def test_foreign_values_are_taken_as_absent(run: Path, file: str, value: Any) -> None:
    write_json(run / file, value)
    assert page_of(run, examples=1)[1].all("section")


def test_a_truncated_map_file_is_noted(run: Path) -> None:
    path = next((run / "localization" / "traces").iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    _, page = page_of(run)
    assert f"localization/traces/{path.name}" in page.text


def test_numbers_that_are_none_or_not_finite_are_shown_as_unknown(run: Path) -> None:
    def damage(scores: dict[str, Any]) -> dict[str, Any]:
        scores["seed_rib"]["per_class"]["cat"] = None
        scores["seed_cam"]["threshold"] = float("nan")
        scores["pseudo_mask"]["images"] = "many"
        return scores | {"segmentation_val": 7}

    edit(run / "scores.json", damage)
    _, page = page_of(run, examples=0)
    assert "nan" not in page.text.lower()
    assert "score of the segmentation" in page.text


@pytest.mark.parametrize(
    ("rib", "lead", "tile"),
    [
        (0.401, "takes the seed from 48.1 to 40.1", "−8.0 against CAM"),
        (0.531, "lifts the seed from 48.1 to 53.1", "+5.0 over CAM"),
    ],
)
def test_a_gain_or_loss_of_rib_is_said_plainly(run: Path, rib: float, lead: str, tile: str) -> None:
    change(run / "scores.json", "seed_cam", miou=0.481)
    change(run / "scores.json", "seed_rib", miou=rib)
    _, page = page_of(run, examples=0)
    assert f"RIB {lead}" in page.text
    assert tile in page.text


def test_a_log_of_a_resumed_and_killed_run(run: Path) -> None:
    log = run / "classifier" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    again = json.dumps(rows[0] | {"train_loss": 5.0})
    log.write_text(log.read_text() + again + '\n{"epoch": 3, "st')
    facts = gather(run)
    epochs = facts.stages[0].epochs
    assert [(row.epoch, row.train_loss) for row in epochs] == [(1, 5.0), (2, rows[1]["train_loss"])]
    assert facts.notes.broken == ["classifier/log.jsonl: 1 unreadable line left out"]


def test_what_the_classifier_makes_of_tags_is_shown_as_far_as_it_was_measured(run: Path) -> None:
    precision = {"cat": 0.75, "cow": 1.0, "person": None}
    doubted = [{"id": PHOTO, "class": "cow", "tagged": False, "score": 0.93, "split": "train"}, {"id": "x"}, 3]
    manifest = run / "classifier" / "manifest.json"
    looks = {"criterion": 0.4321, "shares": [0.05, 0.4], "kept": [0.5, 0.9], "erased": [0.3, 0.2], "photos": 7}
    told = {"validation_map": 0.875, "validation_ap": precision, "doubted_tags": doubted}
    edit(manifest, lambda made: made | told | {"localization_criterion": looks})
    log = run / "classifier" / "log.jsonl"
    rows = [json.loads(line) | {"val_map": 0.5 + 0.25 * n} for n, line in enumerate(log.read_text().splitlines())]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, page = page_of(run, examples=0)
    shown = words(page)
    assert "tags' mAP 87.5" in shown
    assert "cat 75.0 cow 100.0" in shown
    assert "mAP, percent against epoch: Train classifier from 50 to 75" in text
    assert "1 tag that the classifier contradicts most" in shown
    assert f"{PHOTO}: not tagged cow, score 93.0 percent" in shown
    assert "Where it looks, on 7 photos: of a tag's score, 50 percent stay" in shown
    assert "and 30 where these are erased; of 40 percent of the photo 90 and 20. The mean difference, the" in shown
    assert "localization criterion, is 0.43, 1 at the best" in shown
    edit(manifest, lambda made: made | {"localization_criterion": looks | {"kept": [0.5, "x"]}})
    assert "Where it looks" not in words(page_of(run, examples=0)[1])
    edit(manifest, lambda made: made | dict.fromkeys((*told, "localization_criterion")))
    assert 'id="tags"' not in page_of(run, examples=0)[0]


def test_what_was_counted_and_added_is_said_beside_a_score(run: Path) -> None:
    steps = sorted((run / "pseudo_masks" / "steps").iterdir())[0]
    with np.load(steps) as stored:
        arrays = dict(stored)
    np.savez(steps, **arrays, saliency=arrays["edge"])
    more = {"coverage": 0.9, "miou_decided": 0.7, "saliency": "from a model", "count_ignored": True}
    change(run / "scores.json", "pseudo_mask", **more)
    shown = words(page_of(run)[1])
    assert "Random walk" in shown
    assert "Saliency" in shown
    assert "saliency from a model" in shown
    assert "ignored pixels counted, as in the reference's slip" in shown
    assert "90.0 % of the pixels decided, the rest scored as background (mIoU over the decided ones alone: 7" in shown


def test_scores_by_size(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert read_json(run / "scores.json")["pseudo_mask"]["by_size"].keys() == {"medium"}  # the discs
    assert "By size" not in words(page_of(run, examples=0)[1])
    sizes = {"small": {"iou": 0.123, "count": 7}, "large": {"iou": 0.875, "count": 31}, "medium": {"iou": "x"}}
    change(run / "scores.json", "pseudo_mask", by_size=sizes)
    shown = words(page_of(run, examples=0)[1])
    print_scores(read_json(run / "scores.json"))
    printed = capsys.readouterr().out
    for text in (shown, printed):
        assert "12.3 (7)" in text
        assert "87.5 (31)" in text
        for words_of_size in ("up to 1 %", "over 10 %"):
            assert words_of_size in text


def test_images_with_recorded_steps_come_first_and_others_have_no_empty_panel(run: Path) -> None:
    traces = sorted((run / "localization" / "traces").iterdir())
    for path in traces[2:]:
        path.unlink()
    _, page = page_of(run, examples=6)
    assert len(page.all("button", "steps")) == 2  # 2 random training images, and both have their steps
    assert "images with recorded steps first" in page.text


def test_deep_photos_are_shown_as_the_run_saw_them(run: Path) -> None:
    edit(run / "run.json", lambda info: info["data"].update(value_range=[0.0, 900.0]))
    facts = gather(run)
    assert facts.reading.value_range == (0.0, 900.0)
    Image.fromarray(np.full((48, 64), 890, np.uint16)).save(run.parent / "farm" / f"{PHOTO}.png")
    card = gallery._start(facts, facts.index.images[PHOTO], {})
    shown = Image.open(io.BytesIO(base64.b64decode(card.photo.partition(",")[2])))
    assert np.asarray(shown.convert("L")).min() > 240
    edit(run / "run.json", lambda info: info["recipe"]["data"].update(bands="all"))
    assert gather(run).reading.value_range is None  # what can't be read is noted, and the rest is shown
    assert any("bands" in note for note in gather(run).notes.broken)


def test_a_rejected_photo_is_called_that(run: Path) -> None:
    assert "Rejected in the review" not in words(page_of(run, examples=100)[1])
    shown = sorted(path.stem for path in (run / "pseudo_masks" / "masks").glob("*.png"))[0]
    (run / "review").mkdir(exist_ok=True)
    (run / "review" / "applied.json").write_text(f'{{"rejected": ["{shown}"]}}', encoding="utf-8")
    assert "Rejected in the review" in words(page_of(run, examples=100)[1])


def test_an_unfinished_stage_is_marked(run: Path) -> None:
    edit(run / "localization" / "manifest.json", lambda made: made | {"finished": False})
    _, page = page_of(run, examples=0)
    assert "Localize: CAM and RIB not finished" in words(page)


def test_what_a_training_warns_of_is_said(run: Path) -> None:
    edit(run / "classifier" / "manifest.json", lambda made: made | {"warnings": ["cow: only 2 photos", 7]})
    edit(run / "segmenter" / "manifest.json", lambda made: made | {"warning": "answers background everywhere"})
    shown = words(page_of(run, examples=0)[1])
    assert "Train classifier: look at this cow: only 2 photos" in shown
    assert "Train segmenter: look at this answers background everywhere" in shown


def test_a_subset_is_said(run: Path) -> None:
    change(run / "run.json", "data", limited_to=12)
    assert "limited to 12 images" in words(page_of(run, examples=0)[1])


def test_failed_images_are_listed_without_private_folders(run: Path) -> None:
    moved = {f"{run.parent}/farm/{PHOTO}.png": "/home/ann/my photos/one.jpg"}
    edit(run / "index.json", lambda index: replaced(index, moved))
    errors = {
        PHOTO: "mask of /home/ann/my photos/one.jpg has another size",
        "b": "/home/ann/other photos/two.jpg: is empty; delete it",
        "c": f"{run}/localization/cam/c.npz: is cut off",
        "d": "the file '/srv/d.png' and C:\\Users\\ann\\d.jpg differ; see https://host/a/b",
    }
    images = {name: {"status": "failed", "error": error} for name, error in errors.items()}
    edit(run / "localization" / "manifest.json", lambda made: made | {"images": images})
    text, page = page_of(run, examples=0)
    assert "Localize: CAM and RIB: 4 images failed" in words(page)
    assert "mask of one.jpg has" in page.text
    assert "b: two.jpg: is empty; delete it" in page.text
    assert "c: localization/cam/c.npz: is cut" in page.text
    assert "'d.png' and d.jpg differ; see https://host/a/b" in page.text
    for private in ("/home", "my photos", "other photos", str(run), "/srv", "Users"):
        assert private not in text


def test_more_ways_to_choose_a_threshold_than_letters(run: Path) -> None:
    seed = read_json(run / "scores.json")["seed_cam"] | {"curve": []}
    more = {f"pseudo_mask_{number}": seed | {"threshold_chosen_on": f"way {number}"} for number in range(30)}
    edit(run / "scores.json", lambda scores: scores | more)
    _, page = page_of(run, examples=0)
    assert all(f"threshold: way {number}" in page.text for number in range(30))
    assert [letter(number) for number in (0, 8, 25, 26, 27, 52)] == ["a", "i", "z", "aa", "ab", "ba"]


def test_the_showcase_stays_inside_the_run(run: Path) -> None:
    (run / "showcase").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(run / "showcase" / "a.png")
    item = {"name": "chelsea", "tag": "tabby cat", "photo": "showcase/a.png", "seconds": 12.3}
    outside = {"name": "x", "photo": f"../farm/{PHOTO}.png"}
    write_json(run / "showcase.json", {"title": "Four photos", "text": "From a tag.", "items": [item, outside]})
    _, page = page_of(run, examples=0)
    assert "Four photos" in page.text
    assert "tabby cat" in page.text
    assert len(page.all("article", "show")) == 1
    assert "lies outside the run's folder" in page.text


def test_options_and_their_errors(run: Path, tmp_path: Path) -> None:
    out = write_report(run, out=tmp_path / "elsewhere" / "r.html", examples=3, seed=1)
    assert out.is_file()
    assert not (run / "report.html").exists()
    groups = [a["data-groups"] or "" for a in Page(out.read_text("utf-8")).all("article", "card")]
    drawn = [rank for group in groups for rank in json.loads(group) if rank != "order"]
    assert len(drawn) == 9  # one each best, worst, random in three parts
    assert len(groups) <= 15
    assert not page_of(run, examples=0)[1].all("article", "card")
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="examples is -1"):
        write_report(run, examples=-1)


def test_the_same_run_and_seed_give_the_same_file(finished_run: Path, tmp_path: Path) -> None:
    first = write_report(finished_run, out=tmp_path / "a.html", seed=5).read_bytes()
    assert write_report(finished_run, out=tmp_path / "b.html", seed=5).read_bytes() == first


def test_examples_that_do_not_fit_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SIZE_LIMIT", 100_000)
    _, page = page_of(run)
    assert 0 < len(page.all("article", "card")) < 2 * TRAIN + VAL
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


def blob(size: tuple[int, int], centre: tuple[float, float], width: float) -> np.ndarray:
    """A round bump (h, w) in 0..1; centre and width are shares of the size."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    y, x = (rows + 0.5) / size[0] - centre[0], (columns + 0.5) / size[1] - centre[1]
    return np.exp(-(x**2 + y**2) / (2 * width**2)).astype(np.float32)


def test_heat_and_photo_are_small_and_keep_their_shape() -> None:
    heat = decode_uri(pictures.heat_uri(blob((24, 32), (0.5, 0.5), 0.2)))
    assert heat.size == (144, 108)
    assert decode_uri(pictures.heat_uri(np.full((3, 3), np.nan))).size == (144, 144)
    assert decode_uri(pictures.photo_uri(np.zeros((1000, 2000, 3), np.uint8))).size == (512, 256)


def decode_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ground truth of the scored images", True),
        ("best on true masks", True),
        ("GT", True),
        ("oracle", True),
        ("", False),
        ("fixed, 0.35", False),
        ("share of pixels; no true masks were used", False),
        ("coverage, without ground truth", False),
        ("not chosen on masks", False),
    ],
)
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


def test_duration() -> None:
    texts = {None: "–", 0.4213: "0.42 s", 12.34: "12.3 s", 250: "4 min 10 s", 7500: "2 h 5 min", 59.97: "60.0 s"}
    assert {seconds: duration(seconds) for seconds in texts} == texts
