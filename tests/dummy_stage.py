"""A stage as somebody else would add it: a module that ends in its `Stage`, with a section of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tag2mask.common.errors import DataError
from tag2mask.common.files import atomic_write
from tag2mask.data import read_image
from tag2mask.runs.scores import Score
from tag2mask.stages.stage import Context, Planned, Stage


@dataclass(frozen=True)
class DummyConfig:
    """How brightness is noted."""

    digits: int = 2


def _entries(context: Context) -> Iterable[Planned]:
    yield Planned(STAGE, "brightness", context.recipe.section(STAGE), heading="brightness")


def _run(entry: Planned, context: Context) -> None:
    inputs = {"dataset": context.train.digest()}
    folder = STAGE.open(context.out / entry.folder, entry.config, seed=context.seed, inputs=inputs)
    records = {record.id: record for record in context.train.records}
    for image_id in folder.left(records, "{}.txt"):
        try:
            mean = float(read_image(records[image_id]).mean())
        except DataError as error:
            folder.fail(image_id, str(error))
            continue
        with atomic_write(folder.path / f"{image_id}.txt") as temporary:
            temporary.write_text(f"{mean:.{entry.config.digits}f}\n", encoding="utf-8")
    folder.finish(image_id for image_id in records if image_id not in folder.failures)


def _score(entry: Planned, context: Context) -> dict[str, Score]:
    row = {"miou": 0.125, "per_class": {"cat": 0.25}, "images": 8, "split": "train", "threshold": None}
    return {"brightness": Score(row, {})}


STAGE = Stage(
    name="brighten",
    title="Note the brightness",
    config=DummyConfig,
    entries=_entries,
    run=_run,
    score_keys=lambda entry, context: ["brightness"],
    score=_score,
    section="brightness",
)
