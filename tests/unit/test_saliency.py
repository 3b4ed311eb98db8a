"""Saliency: the rule for pseudo-masks, maps from a folder, and maps from an ONNX model."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.common.errors import ConfigError, DataError, MissingExtraError
from tag2mask.refine.saliency import apply_saliency
from tag2mask.stages import saliency as sources
from tag2mask.stages.saliency import OnnxConfig, OnnxSaliency, SaliencyConfig, read_saliency

RULE = {"salient": 0.5, "confident": 0.6}


def one_row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


# --- the rule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "scores", "saliency", "expected"),
    [
        (0, (0.1, 0.0), 0.2, 0),  # nothing there
        (3, (0.5, 0.0), 0.2, 0),  # a class, but not confident, where nothing is salient
        (3, (0.7, 0.0), 0.2, 3),  # confident: stands although saliency overlooks it
        (3, (0.5, 0.0), 0.5, 3),  # salient and a class; 0.5 counts as salient
        (0, (0.1, 0.0), 0.9, 255),  # salient, but no tag explains it
        (0, (0.7, 0.0), 0.9, 255),  # the same, where refinement took the class away
        (3, (0.7, 0.8), 0.9, 255),  # two classes claim it
        (3, (0.7, 0.8), 0.1, 255),
        (0, (0.7, 0.8), 0.1, 0),
        (255, (0.5, 0.4), 0.1, 0),  # unsure, and neither salient nor confident
        (255, (0.5, 0.4), 0.9, 255),
        (255, (0.7, 0.4), 0.1, 255),
    ],
)
def test_every_case_of_the_rule(label: int, scores: tuple[float, ...], saliency: float, expected: int) -> None:
    maps = np.array(scores, np.float32).reshape(-1, 1, 1)
    before = np.array([[label]], np.uint8)
    assert apply_saliency(before, maps, one_row(saliency), **RULE).item() == expected
    assert before.item() == label  # not changed in place


def test_no_class_at_all_and_sizes_that_differ() -> None:
    nothing = np.zeros((0, 1, 2), np.float32)
    assert apply_saliency(np.zeros((1, 2), np.uint8), nothing, one_row(0.1, 0.9), **RULE).tolist() == [[0, 255]]
    with pytest.raises(DataError, match="differ in size"):
        apply_saliency(np.zeros((1, 2), np.uint8), nothing, one_row(0.1), **RULE)


# --- a folder of maps --------------------------------------------------------------------------------


def test_greyscale_maps_of_any_size_are_read(tmp_path: Path) -> None:
    half = np.zeros((10, 20), np.uint8)
    half[:, 10:] = 255
    Image.fromarray(half).save(tmp_path / "grey.png")
    Image.fromarray(half).convert("RGB").save(tmp_path / "rgb.png")  # grey in three channels
    Image.fromarray(half.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(half > 0).save(tmp_path / "bits.png")
    for name in ("grey", "rgb", "deep", "bits"):
        found = read_saliency(tmp_path / f"{name}.png", (40, 80))
        assert found.shape == (40, 80)
        assert found.dtype == np.float32
        assert found[:, :35].max() == 0
        assert found[:, 45:].min() == 1
        assert 0.2 < found[0, 39:41].mean() < 0.8, name  # bilinear
    assert read_saliency(tmp_path / "grey.png", (11, 20)).shape == (11, 20)  # rounded to whole pixels


def test_pictures_that_are_no_saliency_maps_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"photo.png: is a colour picture.*8-bit grey"):
        read_saliency(tmp_path / "photo.png", (9, 9))
    mask = Image.fromarray(np.zeros((9, 9), np.uint8))
    mask.putpalette([0, 0, 0, 255, 0, 0])
    mask.save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="is a palette picture"):
        read_saliency(tmp_path / "mask.png", (9, 9))
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "turned.png")
    with pytest.raises(DataError, match=r"30 x 40 .* image 40 x 30: other proportions"):
        read_saliency(tmp_path / "turned.png", (40, 30))
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:60])
    with pytest.raises(DataError, match="damaged or cut off"):
        read_saliency(tmp_path / "cut.png", (9, 9))


def test_a_folder_and_what_it_lacks(tmp_path: Path) -> None:
    config = SaliencyConfig(str(tmp_path))
    image = np.zeros((4, 4, 3), np.uint8)
    assert sources.open_saliency(config)("a", image) is None
    assert sources.without_map(config, ["a", "b"]) == ["a", "b"]
    before = sources.source_digest(config)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "a.png")
    found = sources.open_saliency(config)("a", image)
    assert found is not None
    assert found.min() == 1
    assert sources.without_map(config, ["a", "b"]) == ["b"]
    assert sources.source_digest(config) != before
    assert sources.source_about(config) == ""
    (tmp_path / "about.txt").write_text("simulated from true masks\nmore\n")
    assert sources.source_about(config) == "simulated from true masks"
    with pytest.raises(ConfigError, match="no such folder"):
        sources.check_source(SaliencyConfig(str(tmp_path / "absent")))


def test_confidence_follows_the_background_score() -> None:
    assert SaliencyConfig().confident_from(0.3) == pytest.approx(0.65)
    assert SaliencyConfig(confident=0.4).confident_from(0.3) == 0.4


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"saliency.salient is 50"):
        SaliencyConfig(salient=50)
    with pytest.raises(ConfigError, match="a list of 3 numbers"):
        OnnxConfig(mean=(0.5,))


# --- an ONNX model -----------------------------------------------------------------------------------


class FakeSession:
    """Stands in for onnxruntime's session: one output a pixel's first channel, one of a wrong shape."""

    seen: np.ndarray

    def __init__(self, path: str, options: Any, providers: list[str]) -> None:
        assert options.intra_op_num_threads == 1
        if Path(path).read_bytes() != b"model":
            raise RuntimeError("protobuf parsing failed")

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="in")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="flat"), SimpleNamespace(name="map")]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        FakeSession.seen = inputs["in"]
        return [inputs["in"][:, :1] if names == ["map"] else np.zeros((1, 5), np.float32)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake = ModuleType("onnxruntime")
    fake.SessionOptions = SimpleNamespace  # type: ignore[attr-defined]
    fake.InferenceSession = FakeSession  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    (tmp_path / "model.onnx").write_bytes(b"model")
    return tmp_path / "model.onnx"


def test_a_model_gets_what_its_description_says(model: Path) -> None:
    image = np.zeros((6, 12, 3), np.uint8)
    image[..., 0], image[..., 2] = 51, 255
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "output": 1}
    found = OnnxSaliency(model, OnnxConfig(size=8, **plain))("a", image)
    assert FakeSession.seen.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(FakeSession.seen[0, :, 0, 0], [0.2, 0, 1], atol=1e-6)
    np.testing.assert_allclose(found, np.full((6, 12), 0.2), atol=1e-6)
    found = OnnxSaliency(model, OnnxConfig(size=0, channels="bgr", **plain))("a", image)
    assert FakeSession.seen.shape == (1, 3, 6, 12)
    np.testing.assert_allclose(found, 1)
    scaled = OnnxConfig(size=0, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), output=1, sigmoid=True)
    OnnxSaliency(model, scaled)("a", image)
    np.testing.assert_allclose(FakeSession.seen[0, :, 0, 0], [0.2, -0.2, 0.35], atol=1e-6)


def test_outputs_are_scaled_as_described(model: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0, 0], image[1, 1, 0] = 51, 102
    plain = {"size": 0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "output": 1}
    stretched = OnnxSaliency(model, OnnxConfig(**plain, stretch=True))("a", image)
    np.testing.assert_allclose(stretched, [[0.5, 0], [0, 1]], atol=1e-6)
    curved = OnnxSaliency(model, OnnxConfig(**plain, sigmoid=True))("a", image)
    np.testing.assert_allclose(curved[0], [1 / (1 + np.exp(-0.2)), 0.5], atol=1e-6)
    even = OnnxSaliency(model, OnnxConfig(**plain, stretch=True))("a", np.full((2, 2, 3), 9, np.uint8))
    assert not even.any()


def test_models_that_cannot_be_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"output is 2; it has 2: flat, map"):
        sources.check_source(SaliencyConfig(str(model), onnx=OnnxConfig(output=2)))
    with pytest.raises(DataError, match=r"shape \(1, 5\).*another saliency.onnx.output"):
        OnnxSaliency(model, OnnxConfig(output=0))("a", np.zeros((4, 4, 3), np.uint8))
    other = model.with_name("other.onnx")
    other.write_bytes(b"")
    with pytest.raises(ConfigError, match="not a usable ONNX model"):
        sources.check_source(SaliencyConfig(str(other)))
    with pytest.raises(ConfigError, match="no such file"):
        sources.check_source(SaliencyConfig(str(model.with_name("absent.onnx"))))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"tag2mask\[sal\]"):
        sources.check_source(SaliencyConfig(str(model)))


def test_a_real_model(tmp_path: Path) -> None:
    """With onnx and onnxruntime installed: the mean of the colours as a model."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("ReduceMean", ["image"], ["saliency"], axes=[1], keepdims=1)
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("image", kind, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("saliency", kind, [1, 1, "h", "w"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    onnx.save(made, str(tmp_path / "mean.onnx"))
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    config = SaliencyConfig(str(tmp_path / "mean.onnx"), onnx=OnnxConfig(0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    sources.check_source(config)
    found = sources.open_saliency(config)("a", image)
    np.testing.assert_allclose(found, image.mean(axis=2) / 255, atol=1e-5)
