"""The whole experiment: for every seed and last activation train, tune with and without it, and measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tag2mask.common.errors import ConfigError
from tag2mask.common.progress import track
from tag2mask.common.workers import WorkerPool
from tag2mask.engine.execution import cpu_threads
from tag2mask.engine.images import process_count
from tag2mask.experiments.toy.config import ToyConfig
from tag2mask.experiments.toy.data import Pictures, ToyData, toy_data
from tag2mask.experiments.toy.endings import ending_of
from tag2mask.experiments.toy.measure import WITHOUT, Gradients, Reading, Row, gradients, ratios, some
from tag2mask.experiments.toy.network import STAGES, SixStages
from tag2mask.experiments.toy.train import (
    Loss,
    Tuning,
    accuracy,
    as_batch,
    gndrp_loss,
    mean_margin,
    opposed_loss,
    rib_loss,
    shared_batches,
    single_batches,
    train,
    training_loss,
    tuning_for,
)

# The four networks that are compared, in the order of the tables
WEIGHTS = {
    "trained": "trained through the activation",
    "continued": "as many more steps through it: the control",
    "without": "then tuned without it, one network for all pictures",
    "without-opposed": "the same, the absent class's output pushed down",
    "without-single": "tuned without it for each picture by itself",
    "without-gndrp": "tuned without it for each picture by itself, pooled by GNDRP: all of RIB",
}
EXAMPLES = 2  # pictures whose gradients the figure shows, one a class
Examples = dict[str, npt.NDArray[np.float32]]  # "input" and a weights/stage name -> (EXAMPLES, S, S), 0..1


@dataclass(frozen=True)
class Measured:
    """What one seed and one last activation gave."""

    seed: int
    last: str
    rows: dict[str, list[Row]]  # by WEIGHTS
    checks: dict[str, float]  # is the network what it should be? shares in 0..1
    examples: Examples


@dataclass(frozen=True)
class ToyResult:
    """All seeds and endings, and what they were made with."""

    config: ToyConfig
    digits: str
    measured: list[Measured]  # endings in the order asked for, seeds ascending within each
    pictures: Pictures  # a few of the first seed's training pictures, for the figure

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({one.seed for one in self.measured})

    @property
    def endings(self) -> list[str]:
        """The last activations, in the order asked for."""
        return list(dict.fromkeys(one.last for one in self.measured))


def run_toy(
    seeds: Sequence[int],
    last: Sequence[str] = ("sigmoid",),
    config: ToyConfig | None = None,
    *,
    digits: str = "sklearn",
    processes: int = 0,
) -> ToyResult:
    """Run the experiment for every seed and last activation; deterministic, however many processes there are.

    `digits`: "sklearn" or the folder of MNIST's files. Raises ConfigError, DataError, MissingExtraError.
    """
    config = config or ToyConfig()
    if not seeds or not last:
        raise ConfigError("the toy experiment needs at least one seed and one last activation")
    jobs = [(seed, ending_of(name).name) for name in last for seed in sorted(seeds)]
    shown = toy_data(dataclasses.replace(config, images=40), min(seeds), digits).train  # fails early, here
    count = processes or min(process_count(0, 8 * len(jobs)), len(jobs))
    found = _spread(jobs, config, digits, count) if count > 1 else _here(jobs, config, digits)
    measured = list(track(found, total=len(jobs), description="toy experiment"))
    return ToyResult(config, digits, measured, _for_figure(shown))


def _here(jobs: list[tuple[int, str]], config: ToyConfig, digits: str) -> Iterator[Measured]:
    for seed, last in jobs:
        yield measure_one(seed, last, config, digits)


def _spread(jobs: list[tuple[int, str]], config: ToyConfig, digits: str, count: int) -> Iterator[Measured]:
    with WorkerPool(count) as pool:
        seeds, lasts = zip(*jobs, strict=True)
        yield from pool.map(measure_one, seeds, lasts, [config] * len(jobs), [digits] * len(jobs))


def measure_one(seed: int, last: str, config: ToyConfig, digits: str) -> Measured:
    """Train, tune and measure for one seed and one last activation, on one thread: sums depend on the width."""
    with cpu_threads(1):
        data = toy_data(config, seed, digits)
        ending = ending_of(last)
        network = train(data.train, ending, config, seed)
        shared = shared_batches(data.train, config, seed)
        tuning = tuning_for(network, [(shared[0], len(shared[0][0]))], config)
        scaled = Tuning(tuning.learning_rate * len(shared[0][0]), config)  # rib_loss sums, a training loss averages
        without = tuning.tuned(network, shared, rib_loss)
        found = {
            "trained": gradients(network, data.marked, ending),
            "continued": gradients(scaled.tuned(network, shared, training_loss(ending)), data.marked, ending),
            "without": gradients(without, data.marked, None),
            "without-opposed": gradients(tuning.tuned(network, shared, opposed_loss), data.marked, None),
            "without-single": tuned_singly(network, data, config, seed, rib_loss),
            "without-gndrp": tuned_singly(network, data, config, seed, gndrp_loss),
        }
        rows = {name: ratios(maps, data.marked, config) for name, maps in found.items()}
        return Measured(seed, last, rows, _checks(network, without, data, found), _examples(data.marked, found, last))


def tuned_singly(network: SixStages, data: ToyData, config: ToyConfig, seed: int, loss_of: Loss) -> Gradients:
    """Gradients of each marked picture through its own network, tuned on it and on pictures of the other class."""
    images, labels = as_batch(data.marked)
    places = range(len(data.marked))
    runs = [single_batches((images[i : i + 1], labels[i : i + 1]), data.train, config, seed, i) for i in places]
    tuning = tuning_for(network, [(steps[0], 1) for steps in runs], config)
    parts = [gradients(tuning.tuned(network, runs[i], loss_of), some(data.marked, [i]), None) for i in places]
    return Gradients.joined(parts)


def _checks(network: SixStages, without: SixStages, data: ToyData, found: dict[str, Gradients]) -> dict[str, float]:
    slope = found["trained"].slope
    bare, marked = (mean_margin(network, pictures) for pictures in (data.marked.without_marks(), data.marked))
    return {
        "accuracy": accuracy(network, data.test),
        "accuracy_mark_only": accuracy(network, data.mark_only),
        "accuracy_without": accuracy(without, data.test),
        "accuracy_mark_only_without": accuracy(without, data.mark_only),
        # what the mark adds to the lead of the own class, over that lead without the mark
        "mark_effect": (marked - bare) / bare,
        "median_slope": float(slope.median()),  # over the steepest
        "flat_share": float((slope < 0.3).float().mean()),  # pictures whose damped gradient can't pass 0.3
    }


def _examples(pictures: Pictures, found: dict[str, Gradients], last: str) -> Examples:
    places = [int(np.flatnonzero(pictures.labels == label)[0]) for label in range(EXAMPLES)]
    shown: Examples = {"input": pictures.images[places]}
    for stage in range(1, STAGES):
        shown[f"G{stage}"] = found["trained"].shares[Reading(stage, "sum", "")][places].numpy()
    shown["G6"] = found["trained"].shares[Reading(STAGES, "class", last)][places].numpy()
    shown["G6 without"] = found["without"].shares[Reading(STAGES, "class", WITHOUT)][places].numpy()
    return shown


def _for_figure(pictures: Pictures) -> Pictures:
    """Both classes with their mark (these come first), then without."""
    return some(pictures, [0, 1, len(pictures) - 2, len(pictures) - 1])
