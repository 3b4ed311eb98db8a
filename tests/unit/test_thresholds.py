"""CAM's background scores on RIB's maps: by what they cover, without a mask."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refine_world import make_world

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import read_json
from tag2mask.data import ImageRecord, LocalizationMaps, load_maps, read_mask, save_maps
from tag2mask.engine.execution import Execution
from tag2mask.refine.threshold import colours_explained, cover_by_score, labels_from_maps, otsu_score
from tag2mask.stages import thresholds
from tag2mask.stages.confident import ConfidentConfig, confident
from tag2mask.stages.refine import RefineConfig, background_of, refine
from tag2mask.stages.thresholds import BY_COLOUR, BY_COVER, automatic_threshold, carried_over, surely_more

HERE = Execution(device="cpu", processes=1)
CAM = ConfidentConfig(foreground=0.5, background=0.2, scale="cam", refinement="none")


@pytest.fixture
def world(tmp_path: Path):
    """A world whose RIB maps are the square roots of its CAMs: broader, in the same order."""
    dataset, localization = make_world(tmp_path)
    for path in (localization / "cam").iterdir():
        maps = load_maps(path)
        smooth = [np.sqrt(values + np.linspace(0, 0.2, values.shape[2], dtype=np.float32)) for values in maps.sums]
        save_maps(path, LocalizationMaps(maps.classes, maps.size, maps.scales, smooth))
        broad = [values**0.5 for values in smooth]
        save_maps(localization / "rib" / path.name, LocalizationMaps(maps.classes, maps.size, maps.scales, broad))
    return dataset, localization


def test_the_labels_are_those_of_cam(world, tmp_path: Path) -> None:
    """Maps in the same order give the same labels once the scores are carried over, and others if they aren't."""
    dataset, localization = world
    for name, maps, config in (
        ("cam", "cam", CAM),
        ("rib", "rib", CAM),
        ("own", "rib", ConfidentConfig(0.5, 0.2, "own", "none")),
    ):
        confident(dataset, localization, tmp_path / name, config, maps=maps, execution=HERE)
    found = {
        name: np.stack([read_mask(path) for path in sorted((tmp_path / name / "masks").iterdir())])
        for name in ("cam", "rib", "own")
    }
    assert (found["rib"] == found["cam"]).mean() > 0.97
    assert (found["own"] == found["cam"]).mean() < 0.9
    noted = read_json(tmp_path / "rib" / "manifest.json")["carried_over"]
    assert noted["foreground"] == pytest.approx(0.5**0.5, abs=0.03)
    assert noted["background"] == pytest.approx(0.2**0.5, abs=0.03)
    assert "carried_over" not in read_json(tmp_path / "cam" / "manifest.json")


def test_an_unsure_band_fits_the_score_that_was_found(world, tmp_path: Path) -> None:
    dataset, localization = world
    config = RefineConfig(maps="cam", method="none", threshold="auto", unsure=0.45)
    refine(dataset, localization, tmp_path / "out", config, execution=HERE)
    made = read_json(tmp_path / "out" / "manifest.json")
    room = min(made["threshold"], 1 - made["threshold"])
    assert made["unsure"] == pytest.approx(min(0.45, 0.9 * room), abs=1e-3)
    assert made["unsure"] < room < 0.5
    labels = {int(v) for path in (tmp_path / "out" / "masks").glob("*.png") for v in np.unique(read_mask(path))}
    assert {0, 255} < labels


def test_damaged_maps_are_left_out_and_nothing_left_is_an_error(world) -> None:
    dataset, localization = world
    ids = [record.id for record in dataset.records]
    (localization / "rib" / f"{ids[0]}.npz").write_bytes(b"no map")
    rest = carried_over(localization, "rib", (0.5,), ids, seed=0)
    assert rest == carried_over(localization, "rib", (0.5,), ids[1:], seed=0)
    assert rest == carried_over(localization, "rib", (0.5,), ids[::-1], seed=0)  # whatever their order
    with pytest.raises(ConfigError, match=r"no image has whole maps in .*cam and .*rib"):
        carried_over(localization, "rib", (0.5,), ids[:1], seed=0)


def test_otsu_parts_two_groups() -> None:
    values = np.concatenate([np.full(700, 0.1), np.full(300, 0.8)]).reshape(1, 20, 50)
    assert 0.1 <= otsu_score(cover_by_score(values)) < 0.8
    assert otsu_score(cover_by_score(np.full((1, 4, 4), 0.3))) == 0.0
    rng = np.random.default_rng(0)
    groups = (rng.normal(0.3, 0.05, 6000), rng.normal(0.7, 0.05, 4000))
    spread = np.concatenate(groups).clip(0, 1).reshape(1, 100, 100)
    assert otsu_score(cover_by_score(spread)) == pytest.approx(0.5, abs=0.05)


SIDE = 16  # of maps, a quarter of the photos'


@pytest.fixture
def blobs(tmp_path: Path) -> tuple[Path, dict[str, ImageRecord]]:
    """Maps cam/ of blobs and rib/ of their square roots, of four images of one colour."""
    rng = np.random.default_rng(1)
    records = {}
    for number in range(4):
        blob = np.exp(-(distance(number) ** 2) / 20).astype(np.float32)
        for kind, maps in (("cam", blob), ("rib", blob**0.5)):
            noise = rng.uniform(0, 0.01, (1, SIDE, SIDE)).astype(np.float32)
            found = LocalizationMaps(np.array([0]), (4 * SIDE, 4 * SIDE), (1.0,), [maps[None] + noise])
            save_maps(tmp_path / kind / f"{number}.npz", found)
        records[str(number)] = ImageRecord(str(number), tmp_path / f"{number}.png", labels=(0,))
        paint(records[str(number)], radius=0)
    return tmp_path, records


def plain(photo: np.ndarray, maps: LocalizationMaps, score: float) -> np.ndarray:
    """Labels by the threshold alone."""
    return labels_from_maps(maps.full(), maps.classes, score)


def distance(number: int) -> np.ndarray:
    """Of each position of image `number` from its blob's middle."""
    return np.sqrt(((np.mgrid[0:SIDE, 0:SIDE] - 8 - number) ** 2).sum(axis=0))


def paint(record: ImageRecord, radius: float) -> None:
    """Make the photo: what lies within `radius` map positions of the blob's middle is dark."""
    inside = np.kron(distance(int(record.id)) < radius, np.ones((4, 4), bool))
    Image.fromarray(np.where(inside[..., None], 40, 200).astype(np.uint8).repeat(3, axis=2)).save(record.path)


def test_automatic_thresholds_cover_as_much_as_cam_at_otsu(blobs: tuple[Path, dict[str, ImageRecord]]) -> None:
    folder, records = blobs
    cam, found = automatic_threshold(folder / "cam", folder / "cam", records, 0, plain)
    rib, _ = automatic_threshold(folder / "cam", folder / "rib", records, 0, plain)
    assert rib == pytest.approx(cam**0.5, abs=0.03)  # the same pixels
    assert found == BY_COVER


def test_of_peaks_the_power_of_values_is_parted(blobs: tuple[Path, dict[str, ImageRecord]]) -> None:
    """CAM's values to the power of 1/2 are those of the other folder, so the cut lies where that one's does."""
    folder, records = blobs
    peaks, found = automatic_threshold(folder / "cam", folder / "cam", records, 0, plain, power=0.5)
    roots, _ = automatic_threshold(folder / "rib", folder / "rib", records, 0, plain)
    assert peaks == pytest.approx(roots**2, abs=0.01)
    assert peaks < 0.8 * automatic_threshold(folder / "cam", folder / "cam", records, 0, plain)[0]
    assert found == BY_COVER


def covered(folder: Path, score: float) -> float:
    """Share of the images of a folder of maps that lies above a score."""
    return float(np.mean([(load_maps(path).at_stride4() > score).mean() for path in folder.glob("*.npz")]))


def test_behind_an_affinity_the_cover_is_between_that_of_plain_cam_and_of_cam_by_it(
    blobs: tuple[Path, dict[str, ImageRecord]],
) -> None:
    folder, records = blobs
    for path in list((folder / "cam").glob("*.npz")):  # an affinity that broadens maps
        found = load_maps(path)
        broad = dataclasses.replace(found, sums=[values**0.3 for values in found.sums])
        save_maps(folder / "affinity" / "cam" / path.name, broad)
    plain_cam, cam_by_it = folder / "cam", folder / "affinity" / "cam"
    score, found_by = automatic_threshold(plain_cam, cam_by_it, records, 0, plain, cam_by_it)
    least, _ = automatic_threshold(plain_cam, cam_by_it, records, 0, plain)
    most, _ = automatic_threshold(cam_by_it, cam_by_it, records, 0, plain)
    covers = [covered(cam_by_it, cut) for cut in (least, most)]
    assert covers[1] > 1.5 * covers[0]
    assert covered(cam_by_it, score) == pytest.approx(np.mean(covers), abs=0.01)
    assert found_by == BY_COVER


@pytest.mark.parametrize("kind", ["cam", "rib"])
def test_a_threshold_rises_to_what_is_smaller_than_its_map(
    kind: str, blobs: tuple[Path, dict[str, ImageRecord]]
) -> None:
    folder, records = blobs
    least, _ = automatic_threshold(folder / "cam", folder / kind, records, 0, plain)
    for record in records.values():
        paint(record, radius=2.5)
    records["0"].path.write_bytes(b"no photo")  # is left out
    score, found = automatic_threshold(folder / "cam", folder / kind, records, 0, plain)
    cut = np.exp(-(2.5**2) / 20) ** (1 if kind == "cam" else 0.5)  # the blob's value where the dark ends
    assert score > least + 0.1
    assert score == pytest.approx(cut, abs=0.06)
    assert found == BY_COLOUR


def test_a_threshold_does_not_fall_to_what_is_larger_than_its_map(
    blobs: tuple[Path, dict[str, ImageRecord]],
) -> None:
    folder, records = blobs
    least, _ = automatic_threshold(folder / "cam", folder / "cam", records, 0, plain)
    for record in records.values():
        paint(record, radius=6)
    assert automatic_threshold(folder / "cam", folder / "cam", records, 0, plain)[0] == pytest.approx(least, abs=0.05)


def test_a_single_photo_does_not_decide(
    blobs: tuple[Path, dict[str, ImageRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, records = blobs
    for number in range(4, 10):
        records[str(number)] = ImageRecord(str(number), folder / f"{number}.png", labels=(0,))
        paint(records[str(number)], radius=0)
        (folder / "cam" / f"{number}.npz").write_bytes((folder / "cam" / "0.npz").read_bytes())
    Image.new("RGB", (4 * SIDE, 4 * SIDE), (7, 7, 7)).save(records["3"].path)

    def explained(pixels: np.ndarray, labels: np.ndarray) -> float:
        share = float((labels > 0).mean())  # smaller at each score that is tried
        return 10 - 10 * share if pixels[0, 0] in single else 0.2 + 0.01 * share

    monkeypatch.setattr(thresholds, "colours_explained", explained)
    single = (7,)
    assert automatic_threshold(folder / "cam", folder / "cam", records, 0, plain)[1] == BY_COVER
    single = (7, 40, 200)  # all of them
    assert automatic_threshold(folder / "cam", folder / "cam", records, 0, plain)[1] == BY_COLOUR


def test_more_is_sure_where_it_exceeds_what_chance_gives() -> None:
    before = np.array([0.1, 0.4, 0.2, 0.3])
    assert surely_more(before + np.array([0.01, 0.02, 0.01, 0.02]), before)  # 0.015, two standard errors are 0.0058
    assert not surely_more(before + np.array([0.4, -0.01, 0.0, 0.01]), before)  # 0.1 and 0.2
    assert not surely_more(before, before)
    assert not surely_more(before[:1] + 1, before[:1])  # one photo tells nothing of chance


def test_labels_explain_colours_as_counted_one_by_one() -> None:
    rng = np.random.default_rng(3)
    pixels, labels = rng.integers(0, 256, (90, 3), np.uint8), rng.choice(np.array([0, 2, 7], np.uint8), 90)
    groups = [pixels[labels == label].astype(float) for label in (0, 2, 7)]
    within = sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)
    everything = ((pixels - pixels.mean(axis=0)) ** 2).sum()
    assert colours_explained(pixels, labels) == pytest.approx(1 - within / everything, abs=1e-12)
    assert colours_explained(pixels, np.zeros_like(labels)) == pytest.approx(0, abs=1e-12)
    assert colours_explained(np.full_like(pixels, 9), labels) == 0


def test_the_manifest_says_how_the_threshold_was_found(world, tmp_path: Path) -> None:
    dataset, localization = world
    config = RefineConfig(maps="rib", method="none", threshold="auto")
    refine(dataset, localization, tmp_path / "masks", config, execution=HERE)
    manifest = read_json(tmp_path / "masks" / "manifest.json")
    tagged = {record.id: record for record in dataset.records if record.labels}
    expected = automatic_threshold(localization / "cam", localization / "rib", tagged, 0, plain)
    assert background_of(manifest) == expected == (manifest["threshold"], manifest["threshold_found"])
    del manifest["threshold_found"]  # as of versions that knew one way
    assert background_of(manifest)[1] == BY_COVER
