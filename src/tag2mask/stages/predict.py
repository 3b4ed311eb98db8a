"""Stage 5: masks of unseen images by the trained segmentation network, over scales and mirrors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from tag2mask.common.errors import MissingExtraError
from tag2mask.common.files import digest_file, digest_value
from tag2mask.config import Free, Range, SettingError, Settings
from tag2mask.data import Dataset, ImageRecord, image_size, read_image, read_mask, resize_labels, write_mask
from tag2mask.data.class_files import write_class_files
from tag2mask.engine.execution import Execution, resolve_device
from tag2mask.engine.images import Work, process_count, run_images
from tag2mask.networks.decoders import SegmentationNetwork
from tag2mask.refine.crf import crf_available, crf_probabilities
from tag2mask.refine.methods import METHODS, method_named, sharpened
from tag2mask.runs.folder import read_manifest
from tag2mask.runs.photos import done_before, note_photos
from tag2mask.runs.scores import Score
from tag2mask.stages.answer import Answer, Place, answer_of_logits, by_tiles, combined_logits, joined, prior_of
from tag2mask.stages.confident import as_made
from tag2mask.stages.evaluate import score_masks
from tag2mask.stages.predict_onnx import write_confidence
from tag2mask.stages.stage import LAST, Context, Planned, Stage, has_masks
from tag2mask.stages.train_segmenter import load_segmenter

SMALLEST_TILE = 128  # pixels: in smaller ones a network sees too little around an object


@dataclass(frozen=True)
class PredictConfig(Settings):
    """Settings of inference; defaults are those of the paper's line of work."""

    scales: Annotated[tuple[float, ...], Range(gt=0, le=8, items=(1, 20))] = (0.5, 0.75, 1.0, 1.25, 1.5)
    mirror: bool = True
    combine: Literal["mean", "max"] = "mean"  # of the logits over scales and mirrors
    crf: bool = False  # dense CRF on the probabilities (extra 'crf'), of all labels: the paper's line of work
    # how probabilities are made to follow the photo's edges: none, crf, pamr, or auto: crf where installed, else pamr
    # not used where crf is true
    edges: Annotated[str, Free("a name in METHODS or auto, checked below")] = "none"
    restrict: bool = False  # labels of an image's own tags only; an image without tags may have any
    negatives: bool = False  # where labels are restricted, an image without tags is all background
    # added to the logits of an image's tags where labels are restricted to them: they are known to be there
    tagged: Annotated[float, Range(ge=0, le=20)] = 0.0
    # final masks: added to the logits of the labels of the image's pseudo-mask
    joined: Annotated[float, Range(ge=0, le=20)] = 0.0
    # larger images are answered in overlapping tiles of this side
    tile: Annotated[int | None, Range(ge=SMALLEST_TILE, le=65_536, note="pixels")] = None
    confidence: bool = False  # also write confidence/ID.png: 0..255 for a probability of 0..1

    def check_relations(self) -> None:
        """Raise ConfigError for an unknown way of following edges."""
        if self.edges not in ("auto", *METHODS):
            raise SettingError(self, ("edges",), f"one of auto, {', '.join(METHODS)}")

    @property
    def by_crf(self) -> bool:
        """Whether a dense CRF is used, whose C++ may end the process."""
        return self.crf or self.edges == "crf"


def check(config: PredictConfig) -> None:
    """Raise MissingExtraError for settings that can't work here, before any work is done."""
    if config.crf and not crf_available():
        raise MissingExtraError("pydensecrf2", "crf", "predict.crf: true")
    if not config.crf:
        method_named(config.edges, "predict.edges")


def predict(
    dataset: Dataset,
    segmenter: Path,
    out: Path,
    config: PredictConfig,
    *,
    execution: Execution | None = None,
    of_a_set: bool = False,
    pseudo_masks: Path | None = None,
) -> None:
    """Write `out`/masks/ID.png for every image of `dataset`; masks of the data set are not used.

    A tag of an image that the network gives no pixel gets those of the image's mask in `pseudo_masks`, the folder of
    a refinement, if given: that the class is there is known.

    Resumes; broken images are noted in the manifest, and tried again by a later call. Images `of_a_set`, as those of
    a split always are, are told by the data set's digest. Photos, which belong to no split, are told one by one, by
    path, size and time: further ones may be added to a folder of masks, while a mask that was made from another photo
    of the same name is kept and raises ConfigError. Raises ConfigError, MissingExtraError.
    """
    config = dataclasses.replace(config, edges=as_made(out, "edges", config.edges))
    check(config)
    if config.tile is not None:
        dataset = dataset.not_reduced()
    execution = execution or Execution()
    read_manifest(segmenter, "train-segmenter")
    inputs = {"weights": digest_file(segmenter / "weights.safetensors")}
    photos = False if of_a_set else not any(record.split for record in dataset.records)
    if not photos:
        inputs["images"] = dataset.digest()
    absent = {}
    if pseudo_masks is not None:
        made = read_manifest(pseudo_masks, "refine")
        inputs["pseudo_masks"] = absent["pseudo_masks"] = digest_value([made["config"], made["inputs"]])
    folder = STAGE.open(out, config, seed=0, inputs=inputs, absent_inputs=absent)
    records = {record.id: record for record in dataset.records}
    if photos:
        note_photos(folder, dataset.records, tagged=config.restrict)
    todo = folder.left(records, "masks/{}.png")
    if folder.finished and not todo:
        return
    device = resolve_device(execution.device)
    processes = process_count(execution.processes, len(todo), device.type)
    if todo:
        run_images(
            todo,
            make_predictor,
            (records, segmenter, out / "masks", config, str(device), dataset.background, pseudo_masks),
            folder,
            processes=processes,
            total=len(records),
            description="predict",
            cluster=execution.cluster(device),
            apart=config.by_crf and device.type == "cpu",
            here_first=not execution.processes and device.type == "cpu",
        )
    done = [i for i in records if i not in folder.failures]
    folder.finish([*done_before(folder, records), *done] if photos else done)


def make_predictor(
    records: dict[str, ImageRecord],
    segmenter: Path,
    masks: Path,
    config: PredictConfig,
    device: str = "cpu",
    background: bool = True,
    pseudo_masks: Path | None = None,
) -> Work:
    """Return the function that predicts one image by its id; arguments as `predict`."""
    network = load_segmenter(segmenter).to(device)

    def work(image_id: str) -> None:
        record = records[image_id]
        image = read_image(record)
        size = (image.shape[0], image.shape[1]) if record.long_side is None else image_size(record.path)
        pseudo_mask = None if pseudo_masks is None else _pseudo_mask(record, pseudo_masks)
        answer = predict_answer(network, image, config, _allowed(record, config), background, pseudo_mask)
        if config.confidence:  # before the mask, which says that the image is done
            write_confidence(masks.parent / "confidence" / f"{image_id}.png", answer.confidence, size)
        labels = resize_labels(answer.labels, size)
        if pseudo_mask is not None:
            labels = with_every_tag(labels, record, pseudo_mask)
        write_mask(masks / f"{image_id}.png", labels)

    return work


def _pseudo_mask(record: ImageRecord, folder: Path) -> np.ndarray | None:
    """The image's mask in the folder of a refinement, if it has one there."""
    path = folder / "masks" / f"{record.id}.png"
    return read_mask(path) if path.is_file() else None


def with_every_tag(labels: np.ndarray, record: ImageRecord, pseudo_mask: np.ndarray) -> np.ndarray:
    """Labels (H, W) in which a tag of the image without a pixel has those of its pseudo-mask."""
    lost = [label + 1 for label in record.labels if not (labels == label + 1).any()]
    return np.where(np.isin(pseudo_mask, lost), pseudo_mask, labels)


def _allowed(record: ImageRecord, config: PredictConfig) -> tuple[int, ...] | None:
    """The classes that an image's answer is restricted to; None for no restriction."""
    return record.labels if config.restrict and record.told and (record.labels or config.negatives) else None


def predict_answer(
    network: SegmentationNetwork,
    image: np.ndarray,
    config: PredictConfig,
    classes: Sequence[int] | None = None,
    background: bool = True,
    pseudo_mask: np.ndarray | None = None,
) -> Answer:
    """Answer an image (H, W, 3) uint8; `classes` are its tags, where labels are restricted to them.

    Without `background` every pixel gets a class. What the whole image says of its classes counts where its tags
    aren't known. A `pseudo_mask` (uint8 labels, of any size) counts as much as `config.joined` says.
    """
    size = (image.shape[0], image.shape[1])
    mask = resize_labels(pseudo_mask, size) if pseudo_mask is not None and config.joined else None
    prior = prior_of(network, image, config.tile) if classes is None else None

    def of_part(place: Place) -> Answer:
        part = np.ascontiguousarray(image[place])
        logits = combined_logits(network, part, config.scales, mirror=config.mirror, combine=config.combine)
        logits = logits if prior is None else logits + prior
        logits = logits if mask is None else joined(logits, mask[place], config.joined)
        sharpen = _sharpening(config, part, str(next(network.parameters()).device))
        return answer_of_logits(logits, classes, sharpen=sharpen, background=background, tagged=config.tagged)

    whole = (slice(0, size[0]), slice(0, size[1]))
    return of_part(whole) if config.tile is None else by_tiles(of_part, size, config.tile)


def _sharpening(config: PredictConfig, image: np.ndarray, device: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """How the probabilities of an image are made to follow its edges, if they are."""
    if config.crf:
        return partial(crf_probabilities, image)
    method = method_named(config.edges, "predict.edges")
    return None if method == "none" else partial(sharpened, image, method=method, device=device)


def _entries(context: Context) -> Iterable[Planned]:
    recipe, last = context.recipe, context.recipe.rounds
    rounds = [(f"_round{n}", f"round_mask_{n}", f", round {n}", n) for n in range(last)]
    for name, score, said, turn in [*rounds, *([("", "final_mask", "", last)] if recipe.final_masks else [])]:
        what = f"masks of the tagged images{said}" if said else "final masks of the tagged images"
        reads = {"network": f"segmenter{name}", "masks": "pseudo_masks"}
        config = dataclasses.replace(_settings(context, f"masks{name}"), restrict=True, negatives=True)
        title = what[0].upper() + what[1:]
        yield Planned(STAGE, f"masks{name}", config, reads, score=score, seed=0, heading=what, title=title, turn=turn)
    if context.val is None:
        return
    yield _held_out(context, "predictions", "segmenter", score="segmentation_val", turn=last)
    if recipe.supervised and has_masks(context.train) and has_masks(context.val):
        bound = _held_out(context, "supervised_predictions", "supervised", score="supervised_val", turn=LAST)
        heading, title = f"{bound.heading} by the upper bound", "Predict with upper bound"
        yield dataclasses.replace(bound, heading=heading, title=title, upper_bound=True, optional=True)


def _settings(context: Context, folder: str) -> PredictConfig:
    """The recipe's settings with what "auto" means in a folder of the run."""
    config = context.recipe.predict
    return dataclasses.replace(config, edges=as_made(context.out / folder, "edges", config.edges))


def _held_out(context: Context, folder: str, network: str, *, score: str, turn: int) -> Planned:
    reads, heading = {"network": network}, "masks of the held-out images"
    config = _settings(context, folder)
    return Planned(STAGE, folder, config, reads, on="val", score=score, seed=0, heading=heading, turn=turn)


def _run(entry: Planned, context: Context) -> None:
    network, out = context.out / entry.reads["network"], context.out / entry.folder
    images = context.images(entry.on)
    masks = context.out / entry.reads["masks"] if "masks" in entry.reads else None
    predict(images, network, out, entry.config, execution=context.execution, of_a_set=True, pseudo_masks=masks)
    write_class_files(out, images.classes, background=images.background)


def _score(entry: Planned, context: Context) -> dict[str, Score]:
    data = context.recipe.data
    score = score_masks(
        context.images(entry.on),
        context.out / entry.folder / "masks",
        split=data.val_split if entry.on == "val" else data.train_split,
        config=context.recipe.evaluate,
        processes=context.execution.processes,
        seed=context.seed,
    )
    return {entry.score: score}


STAGE = Stage(
    name="predict",
    title="Predict held-out images",
    config=PredictConfig,
    entries=_entries,
    run=_run,
    check=lambda entry, context: check(entry.config),
    score_keys=lambda entry, context: [entry.score],
    score=_score,
    idle="no held-out images to predict",
    free=("negatives",),  # what it decides for a photo is noted with the photo's tags
)
