"""Whole RIB runs, replayed with the reference implementation's weights, images and sampled batches.

The reference's own round-off (one thread against two) moves its maps by up to 7e-6 at step 0 and 2e-3 later, a
loss by up to 0.2 in a step, final maps by 3.3e-4: GNDRP's hard threshold lets single positions change sides, and
each moves a logit by tau * maximum / positions. Against a float64 run of the default case the recorded maps are off
by up to 2.4e-3 of their maximum and ours by 3.0e-3, so the two may differ by the sum. What has no feedback through
the weights, pooling and loss of recorded maps, is held to float32's last digits.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tag2mask.data.images import decode_image
from tag2mask.data.maps import at_full, at_stride4
from tag2mask.data.records import VOC_CLASSES
from tag2mask.data.transforms import Draws, augment, normalise, rescale
from tag2mask.networks import CAMClassifier, build_classifier
from tag2mask.networks.backbones import create_network, split_network
from tag2mask.networks.weights import load_backbone_state, load_classifier_weight
from tag2mask.rib import RIBConfig, RIBResult, gap, gndrp, merge_mirror, rib, rib_loss, stack_with_mirror
from tag2mask.rib.step import covered_share, runs_away

FIRST_MAPS = 2e-5  # of a map's maximum, step 0
LATER_MAPS = 5e-3  # of a map's maximum, one later step
SUMMED_MAPS = 2e-3  # of a map's maximum, summed over the steps
FIRST_LOGITS = 1e-4
LATER_LOGITS = 0.2  # a position at scale 1 that changes sides moves a logit by about this much
FIRST_LOSS = 1e-4
LATER_LOSS = 0.2
FINAL_MAPS = 1e-3  # of 1
SAME_SUMS = 1e-6  # of 1: joining scales only
WEIGHT_CHANGES = 3e-3  # of a tensor's change over the whole run
RUNS = {
    "default_2007_000032": "partners-exhausted",
    "default_2007_000063": "finished",
    "explode_2007_000032": "run-away",
    "gap_2007_000032": "finished",
    "stopneg_2007_000063": "early-stop",
}


@dataclass
class Replay:
    """One replayed run: its result, every raw class map in the order of the passes, and what was recorded."""

    golden: dict[str, np.ndarray]
    config: RIBConfig
    result: RIBResult
    passes: list[Tensor]  # (rows, 20, h, w) a pass
    weight_changes: dict[str, float]
    outcome: str

    def steps(self) -> Iterator[tuple[int, list[Tensor], Tensor | None]]:
        """Yield step, raw maps of the four scales that were run, and raw maps of the batch if it was."""
        rest = list(self.passes)
        for step in range(int(self.golden["n_steps"])):
            n_scales = int(self.golden[f"step{step}_scales_run"])
            scales = [rest.pop(0) for _ in range(n_scales)]
            batch = rest.pop(0) if f"step{step}_loss" in self.golden else None
            yield step, scales, batch
        assert not rest


@pytest.fixture(scope="module")
def classifier(golden_dir: Path) -> CAMClassifier:
    spec = importlib.util.spec_from_file_location("make_state", golden_dir / "make_state.py")
    make_state = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_state)
    built = build_classifier("resnet50", 20, weights="none")
    network = create_network("resnet50")
    load_backbone_state(network, make_state.resnet50_state(), source="state")
    built.backbone.load_state_dict(split_network(network, "resnet50").state_dict())
    load_classifier_weight(built, torch.tensor(np.load(golden_dir / "cam_classifier.npz")["weight"]), "state")
    return built


@pytest.fixture(scope="module", params=RUNS)
def replay(request, golden_dir: Path, classifier: CAMClassifier) -> Replay:
    recorded = json.loads((golden_dir / f"g_rib_{request.param}.json").read_text())
    golden = dict(np.load(golden_dir / f"g_rib_{request.param}.npz"))
    config = config_of(SimpleNamespace(**recorded["args"]))
    image = decode_image(golden_dir / "data/VOC/JPEGImages" / f"{recorded['image']}.jpg")
    scales = [torch.from_numpy(normalise(rescale(image, scale))).permute(2, 0, 1) for scale in config.scales]
    scaled = stack_with_mirror(scales)
    before = {name: value.clone() for name, value in tuned_half(classifier).items()}
    passes: list[Tensor] = []
    changes: dict[str, float] = {}
    with pytest.MonkeyPatch.context() as patch:
        record_passes(patch, classifier, passes)
        record_changes(patch, classifier, before, changes)
        result = rib(
            classifier, scaled, golden["keys"].tolist(), batches(recorded, golden, golden_dir), config, trace=True
        )
    assert all(torch.equal(value, before[name]) for name, value in tuned_half(classifier).items())
    return Replay(golden, config, result, passes, changes, RUNS[request.param])


def config_of(args: SimpleNamespace) -> RIBConfig:
    return RIBConfig.reference(
        steps=args.RIB_iter,
        learning_rate=args.RIB_lr,
        batch_size=args.RIB_batch,
        tau=args.score_th,
        m=args.stop_th,
        pooling={"gndp": "gndrp", "gap": "gap"}[args.pooling],
        guard_threshold=args.explode_th,
        guard_share=args.explode_ratio,
        scales=tuple(args.cam_scales),
        partner_chunk=args.RIB_batch,
    )


def batches(recorded: dict, golden: dict[str, np.ndarray], golden_dir: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Make each step's batch from the recorded draws, and check it against what is known of the original."""
    lines = (golden_dir / "data/labels.csv").read_text().splitlines()[1:]
    names = {line.split(",")[0].removesuffix(".jpg"): line.split(",")[1].split() for line in lines}
    for step in range(len(recorded["step_names"])):
        samples = recorded["sampled"][4 * step : 4 * step + 4]
        assert [sample["name"] for sample in samples] == recorded["step_names"][step]
        images, labels = [], torch.zeros(4, 20)
        for row, sample in enumerate(samples):
            long_side, mirror, left, top = (draw[2] for draw in sample["rand"])
            image = decode_image(golden_dir / "data/VOC/JPEGImages" / f"{sample['name']}.jpg")
            draws = Draws(long_side=long_side, mirror=bool(mirror), left=left, top=top)
            images.append(torch.from_numpy(augment(image, draws, 512)))
            labels[row, [VOC_CLASSES.index(name) for name in names[sample["name"]]]] = 1
        batch = torch.stack(images)
        if f"step{step}_batch_sub" in golden:
            np.testing.assert_allclose(batch[:, :, 13::64, 13::64], golden[f"step{step}_batch_sub"], atol=1e-6)
            np.testing.assert_array_equal(labels, golden[f"step{step}_batch_label"])
        yield batch, labels


def tuned_half(classifier: CAMClassifier) -> dict[str, Tensor]:
    tuned = {id(p) for group in classifier.tuned_parameters() for p in group}
    return {name: p.detach() for name, p in classifier.named_parameters() if id(p) in tuned}


def record_passes(patch: pytest.MonkeyPatch, classifier: CAMClassifier, passes: list[Tensor]) -> None:
    class_maps = classifier.class_maps

    def recording(features: Tensor) -> Tensor:
        maps = class_maps(features)
        passes.append(maps.detach().clone())
        return maps

    patch.setattr(classifier, "class_maps", recording)


def record_changes(
    patch: pytest.MonkeyPatch, classifier: CAMClassifier, before: dict[str, Tensor], changes: dict[str, float]
) -> None:
    """After every update, note how far each tuned tensor has moved."""
    step = torch.optim.SGD.step
    own = tuned_half(classifier)  # the parameters themselves: while they are folded the modules hold others

    def recording(self, *args):
        done = step(self, *args)
        for name, value in own.items():
            changes[name] = (value - before[name]).norm().item()
        return done

    patch.setattr(torch.optim.SGD, "step", recording)


def pooled(replay: Replay, maps: Tensor, present: list[int] | Tensor) -> Tensor:
    if replay.config.pooling == "gap":
        return gap(maps)
    return gndrp(maps, present, replay.config.tau, slip_classes=20)


def relative(ours: Tensor | np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def test_length_and_reason_of_the_end(replay):
    assert replay.result.steps_run == int(replay.golden["n_steps"])
    assert replay.result.stopped == replay.outcome


def test_raw_maps_of_every_step_and_scale(replay):
    for step, scales, _ in replay.steps():
        for index, maps in enumerate(scales):
            difference = relative(maps, replay.golden[f"step{step}_cam_scale{index}"])
            assert difference < (LATER_MAPS if step else FIRST_MAPS), (step, index)


def test_logits_of_every_row_and_class(replay):
    for step, scales, batch in replay.steps():
        if batch is None:
            continue
        keys = replay.golden["keys"].tolist()
        rows = [pooled(replay, maps, keys) for index, maps in enumerate(scales) if index != 1]
        rows.append(pooled(replay, batch, torch.tensor(replay.golden[f"step{step}_batch_label"])))
        tolerance = LATER_LOGITS if step else FIRST_LOGITS
        np.testing.assert_allclose(torch.cat(rows), replay.golden[f"step{step}_logits"], rtol=0, atol=tolerance)


def test_pooling_loss_and_guard_of_recorded_maps(replay):
    keys, covered = replay.golden["keys"].tolist(), []
    for step in range(int(replay.golden["n_steps"])):
        recorded = {name: replay.golden.get(f"step{step}_{name}") for name in ("logits", "labels", "loss")}
        first = torch.tensor(replay.golden[f"step{step}_cam_scale0"])
        covered.append(covered_share(merge_mirror(first)[keys], replay.config.guard_threshold))
        if recorded["loss"] is None:
            continue
        maps = [torch.tensor(replay.golden[f"step{step}_cam_scale{index}"]) for index in (0, 2, 3)]
        logits = torch.cat([pooled(replay, scale, keys) for scale in maps])
        np.testing.assert_allclose(logits, recorded["logits"][:6], rtol=0, atol=5e-6)
        loss = rib_loss(torch.tensor(recorded["logits"]), torch.tensor(recorded["labels"]))
        assert loss.item() == pytest.approx(float(recorded["loss"]), abs=5e-5)
    away = [runs_away(share, step, replay.config) for step, share in enumerate(covered)]
    assert away == [False] * (len(away) - 1) + [replay.outcome == "run-away"]


def test_losses_and_learning_rates(replay):
    for step, record in enumerate(replay.result.steps):
        if f"step{step}_loss" not in replay.golden:
            assert np.isnan(record.loss)
            continue
        tolerance = LATER_LOSS if step else FIRST_LOSS
        assert record.loss == pytest.approx(float(replay.golden[f"step{step}_loss"]), abs=tolerance)
        assert record.target_sum == pytest.approx(float(replay.golden[f"step{step}_target_loss"]), abs=tolerance)
        assert record.learning_rate == pytest.approx(float(replay.golden[f"step{step}_lr"][0]), rel=1e-12)


def test_sums_over_the_steps(replay):
    keys = replay.golden["keys"]
    for index, (ours, first) in enumerate(zip(replay.result.rib_sums, replay.result.cam_sums, strict=True)):
        assert relative(ours, replay.golden[f"accum_scale{index}"][keys]) < SUMMED_MAPS
        raw = torch.tensor(replay.golden[f"step0_cam_scale{index}"])
        assert relative(first, merge_mirror(raw)[keys].numpy()) < FIRST_MAPS
    assert torch.equal(replay.result.steps[-1].accumulated, replay.result.rib_sums[0])


def test_how_far_each_tensor_moved(replay):
    names, norms = replay.golden["param_names"].tolist(), replay.golden["param_delta_norm"].tolist()
    moved = {name.removeprefix("resnet50."): norm for name, norm in zip(names, norms, strict=True) if norm > 0}
    ours = {
        name.replace("backbone.head.0.", "layer3.").replace("backbone.head.1.", "layer4."): norm
        for name, norm in replay.weight_changes.items()
    }
    assert len(moved) == 88
    assert ours == pytest.approx(moved, rel=WEIGHT_CHANGES)


def test_final_maps(replay):
    """The recorded sums give the recorded maps, and ours give them within round-off."""
    size = tuple(replay.golden["size"].tolist())
    recorded = [torch.tensor(replay.golden[f"accum_scale{index}"][replay.golden["keys"]]) for index in range(4)]
    for key, join in (("cam", at_stride4), ("high_res", at_full)):
        np.testing.assert_allclose(join(recorded, size), replay.golden[key], rtol=0, atol=SAME_SUMS)
        np.testing.assert_allclose(join(replay.result.rib_sums, size), replay.golden[key], rtol=0, atol=FINAL_MAPS)
