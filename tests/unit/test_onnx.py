"""The network as an ONNX file: parity with torch, what the file says of itself, prediction without torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from tag2mask.cli import main
from tag2mask.common.errors import DataError, WeightsError
from tag2mask.common.files import read_json, write_json
from tag2mask.config import to_mapping
from tag2mask.data import decode_image, read_mask
from tag2mask.data.records import LongSide
from tag2mask.exports.onnx import AtFullSize, compare, export_network, fixed_padding
from tag2mask.networks import build_classifier, build_segmentation_network, save_module
from tag2mask.networks.pooling import Kind, Pooling
from tag2mask.networks.tag_prior import ClassifierPrior
from tag2mask.onnx_file import OnnxNetwork, Usage
from tag2mask.stages.answer import combined_logits, prior_of
from tag2mask.stages.predict import PredictConfig, predict_answer
from tag2mask.stages.train_segmenter import SegmenterConfig, build_prior, build_segmenter, load_segmenter

CLASSES = ("cat", "big dog")
SEGMENTER = SegmenterConfig(architecture="fpn", backbone="resnet10t", weights="none")
RECIPE = "name: tiny\ndata: {long_side: 96}\npredict: {scales: [1.0, 1.5], mirror: true}\n"


def photo(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    """A photo of (width, height) pixels: coarse noise made smooth, so that nothing hangs on single pixels."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a small network, exported by the command."""
    folder = tmp_path_factory.mktemp("run")
    network = build_segmenter(SEGMENTER, len(CLASSES) + 1, "none")
    with torch.no_grad():  # answers that differ from place to place
        network.head[0].weight.mul_(20)
    save_module(network, folder / "segmenter" / "weights.safetensors")
    manifest = {"stage": "train-segmenter", "config": to_mapping(SEGMENTER), "classes": list(CLASSES)}
    write_json(folder / "segmenter" / "manifest.json", {**manifest, "finished": True})
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    sizes = [(70, 45), (45, 70), (64, 64), (200, 150)]
    paths = [photo(folder / "photos" / f"{number}.png", size, number) for number, size in enumerate(sizes)]
    images = {path.stem: {"path": str(path)} for path in paths}
    write_json(folder / "index.json", {"classes": list(CLASSES), "images": images})
    assert main(["export", "onnx", str(folder)]) == 0
    return folder


def images_of(run: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((run / "photos").glob("*.png"))]


def test_logits_are_torchs_at_several_sizes(run: Path) -> None:
    parity = compare(
        load_segmenter(run / "segmenter"), OnnxNetwork(run / "segmenter" / "network.onnx"), images_of(run)
    )
    assert parity.images == 4
    assert parity.largest < 1e-3
    assert parity.equal > 0.999


def test_the_command_says_how_far_apart_they_are(run: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    out = tmp_path / "network.onnx"
    assert main(["export", "onnx", str(run), "--to", str(out), "--images", str(run / "photos" / "0.png")]) == 0
    said = capsys.readouterr().out
    assert "on 1 photos: largest difference of logits" in said
    assert "labels equal on 100.000 % of the pixels" in said or "labels equal on 99.9" in said


def test_a_file_that_is_there_is_kept(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "keep.onnx"
    out.write_text("mine")
    assert main(["export", "onnx", str(run), "--to", str(out)]) == 2
    assert "keep.onnx: is there already, and nothing is overwritten; choose another --to" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_the_file_says_how_it_is_to_be_used(run: Path) -> None:
    network = OnnxNetwork(run / "segmenter" / "network.onnx")
    assert network.classes == CLASSES
    assert (network.multiple, network.scales, network.mirror, network.long_side) == (32, (1.0, 1.5), True, 96)
    notes = network.session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["labels"]) == ["background", *CLASSES]
    assert json.loads(notes["mean"]) == [0.485, 0.456, 0.406]
    assert "fpn on resnet10t, recipe tiny" in json.loads(notes["about"])
    names = [value.name for value in (*network.session.get_inputs(), *network.session.get_outputs())]
    assert names == ["images", "logits"]


def test_what_decides_an_answer_goes_along(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Another way of joining views, no background, deep pictures; what can't go along is said."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    data = "data: {long_side: 96, background: false}"
    predict = "predict: {scales: [1.0, 1.5], mirror: true, combine: max, tile: 128, edges: pamr}"
    (copy / "recipe.yaml").write_text(f"name: tiny\n{data}\n{predict}\n", encoding="utf-8")
    write_json(copy / "run.json", {"name": "tiny", "data": {"value_range": [0.0, 900.0]}})
    assert main(["export", "onnx", str(copy)]) == 0
    assert "predict.tile isn't in the file" in capsys.readouterr().err
    exported, network = OnnxNetwork(copy / "segmenter" / "network.onnx"), load_segmenter(run / "segmenter")
    assert exported.reading.value_range == (0.0, 900.0)
    config = PredictConfig(scales=(1.0, 1.5), mirror=True, combine="max", edges="pamr")
    for image in images_of(run):
        expected = predict_answer(network, image, config, background=False)
        found = exported.predict(image)
        assert found.labels.min() > 0
        assert (found.labels == expected.labels).mean() > 0.98
    assert not exported.predict(images_of(run)[0], []).labels.any()  # none of the classes

    deep = np.random.default_rng(0).integers(0, 900, (40, 64)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    read: list[np.ndarray] = []
    answer = OnnxNetwork.predict

    def seen(network: OnnxNetwork, image: np.ndarray, tags: object) -> object:
        read.append(image)
        return answer(network, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxNetwork, "predict", seen)
        options = ["--images", str(tmp_path / "deep.png"), "--masks", str(tmp_path / "m")]
        assert main(["predict", "--onnx", str(copy / "segmenter" / "network.onnx"), *options]) == 0
    assert read[0].max() > 240
    assert "background" not in (tmp_path / "m" / "labelmap.txt").read_text("utf-8")


def test_prediction_is_that_of_torch(run: Path) -> None:
    network, exported = load_segmenter(run / "segmenter"), OnnxNetwork(run / "segmenter" / "network.onnx")
    config = PredictConfig(scales=(1.0, 1.5), mirror=True)
    for image in images_of(run):
        expected, found = predict_answer(network, image, config), exported.predict(image)
        assert found.labels.shape == image.shape[:2]
        assert (found.labels == expected.labels).mean() > 0.98  # Pillow's downsizing of logits isn't torch's
        assert np.abs(found.confidence.astype(int) - expected.confidence).mean() < 3
    tagged = exported.predict(images_of(run)[0], ["big dog"])
    assert set(np.unique(tagged.labels)) <= {0, 2}


def test_predict_without_torch(run: Path, tmp_path: Path) -> None:
    """The command in a Python that can't import torch."""
    tags = tmp_path / "tags.csv"
    tags.write_text("image,labels\n0.png,cat\n3,big dog\n", encoding="utf-8")
    photo(run / "photos" / "broken.png", (30, 30)).write_bytes(b"no picture")
    code = "import sys; sys.modules['torch'] = None; from tag2mask.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [
        "predict",
        "--onnx",
        str(run / "segmenter" / "network.onnx"),
        "--images",
        str(run / "photos"),
        "--masks",
        str(tmp_path / "out"),
        "--tags",
        str(tags),
        "--confidence",
    ]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    (run / "photos" / "broken.png").unlink()
    assert done.returncode == 1, done.stderr
    assert "broken.png: is not an image" in done.stderr
    masks = {path.stem: read_mask(path) for path in (tmp_path / "out" / "masks").glob("*.png")}
    assert set(masks) == {"0", "1", "2", "3"}
    assert masks["3"].shape == (150, 200)  # worked on at 96 pixels, written in the photo's size
    assert set(np.unique(masks["0"])) <= {0, 1}
    assert set(np.unique(masks["3"])) <= {0, 2}
    with Image.open(tmp_path / "out" / "confidence" / "3.png") as picture:
        assert (picture.mode, picture.size) == ("L", (200, 150))
    assert (tmp_path / "out" / "classes.txt").read_text("utf-8").split("\n") == ["cat", "big dog", ""]
    assert "big dog:0,128,0::" in (tmp_path / "out" / "labelmap.txt").read_text("utf-8")
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert {name for name, state in manifest["images"].items() if state["status"] == "failed"} == {"broken"}


@pytest.mark.parametrize("name", ["fpn", "segformer", "deeplabv3plus", "deeplabv2"])
def test_fixed_padding_changes_nothing_at_multiples_of_32(name: str) -> None:
    network = build_segmentation_network(name, "efficientnet_lite0", 3, "none", output_stride=16)
    module = AtFullSize(network)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        (expected,) = module(images)
        fixed_padding(module)
        assert torch.equal(module(images)[0], expected)
    assert not any(type(child).__name__ == "Conv2dSame" for child in module.modules())


def test_foreign_files_are_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        OnnxNetwork(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not an ONNX file"):
        OnnxNetwork(tmp_path / "bad.onnx")
    import onnx

    model = onnx.load(run / "segmenter" / "network.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(WeightsError, match=r"says nothing of 'labels' in its metadata.*export onnx"):
        OnnxNetwork(tmp_path / "bare.onnx")
    exported = OnnxNetwork(run / "segmenter" / "network.onnx")
    with pytest.raises(DataError, match="no photo to check the network on"):
        compare(load_segmenter(run / "segmenter"), exported, [])


@pytest.mark.parametrize("long_side", [None, 40, (150, 200)])
def test_the_example_of_the_docs_runs(run: Path, tmp_path: Path, long_side: LongSide) -> None:
    docs = Path(__file__).parents[2] / "docs" / "network.md"
    (tmp_path / "example.py").write_text(docs.read_text("utf-8").split("```python\n")[1].split("```")[0], "utf-8")
    network, source, out = tmp_path / "network.onnx", run / "photos" / "0.png", tmp_path / "mask.png"
    image = decode_image(source, long_side=long_side)
    export_network(load_segmenter(run / "segmenter"), network, CLASSES, [image], Usage(long_side=long_side))
    command = [sys.executable, str(tmp_path / "example.py"), str(network), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    exported = OnnxNetwork(network)
    assert exported.long_side == long_side
    expected = Image.fromarray(exported.predict(image).labels)
    found = Image.open(out)
    assert found.size == Image.open(source).size
    assert (np.asarray(found) == np.asarray(expected.resize(found.size, Image.Resampling.NEAREST))).mean() > 0.999
    assert "background" in done.stdout or "cat" in done.stdout or "big dog" in done.stdout


@pytest.mark.parametrize("asked", [None, "average", "log-sum-exp", "top-share", "generalised-mean"])
def test_a_tag_prior_goes_along(asked: Kind | None, tmp_path: Path) -> None:
    """It is part of the logits, and taken out where tags are known."""
    config = dataclasses.replace(SEGMENTER, tag_prior=1.0)
    network = build_segmenter(config, len(CLASSES) + 1, "none")
    if asked is None:
        network.prior = build_prior(config, len(CLASSES) + 1, "none")
        network.prior.linear.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    else:
        classifier = build_classifier(config.backbone, len(CLASSES), "none")
        classifier.pooling = Pooling.of(asked)
        network.prior = ClassifierPrior(classifier, config.tag_prior)
    images = [
        np.asarray(Image.open(photo(tmp_path / f"{n}.png", size, n))) for n, size in enumerate([(70, 45), (96, 64)])
    ]
    usage = Usage(scales=(1.0, 1.5), mirror=True, tagged=0.3)
    export_network(network, tmp_path / "network.onnx", CLASSES, images, usage)
    exported = OnnxNetwork(tmp_path / "network.onnx")
    assert [value.name for value in exported.session.get_outputs()] == ["logits", "prior"]
    for image in images:
        shift = prior_of(network, image)
        assert shift is not None
        assert np.allclose(exported.prior(image), shift[:, 0, 0].numpy(), atol=1e-4)
        expected = combined_logits(network, image, (1.0,), mirror=False) + shift
        found = exported.run(exported.prepared(image))[0][0, :, : image.shape[0], : image.shape[1]]
        assert np.allclose(found, expected.numpy(), atol=1e-3)
        plain = PredictConfig(scales=(1.0, 1.5), mirror=True, tagged=0.3)
        for tags, classes in ((None, None), (CLASSES, (0, 1))):
            labels = predict_answer(network, image, plain, classes).labels
            assert (exported.predict(image, tags).labels == labels).mean() > 0.97
