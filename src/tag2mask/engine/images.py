"""The same work for many images over processes or a Ray cluster: no result depends on how many there are."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from tag2mask.common.errors import ConfigError, DataError, Tag2MaskError
from tag2mask.common.memory import keep_freed_memory, out_of_memory
from tag2mask.common.progress import track
from tag2mask.common.workers import WorkerPool, may_start_processes, never_began
from tag2mask.engine.apart import attempt_apart, can_fork
from tag2mask.runs.folder import StageFolder

if TYPE_CHECKING:  # a worker should load no more than its work needs
    from tag2mask.engine.execution import Cluster

Work = Callable[[str], None]  # does one image, writes its file
MakeWork = Callable[..., Work]  # builds what every image needs, once a process
Outcome = tuple[str, str]  # image id, what is wrong with it ("" = done)
Group = tuple[str, ...]  # ids of images that are done together, one as a rule

ON_A_GPU = 2  # processes by default: one decodes, writes and launches while the other computes
TWICE = "its worker process died twice (out of memory?); run again with fewer processes"
JOBS_WORTH_A_PROCESS = 8  # starting a process takes seconds, mostly to import torch
START_UP = 10.0  # seconds until processes are at work; a guess is enough, no result depends on it
_work: Work | None = None
_failed: Tag2MaskError | None = None  # why a worker could not build its work


class GroupWork(Protocol):
    """Work that can do several images at once."""

    def __call__(self, image_id: str) -> None:
        """Do one image."""

    def together(self, image_ids: Group) -> None:
        """Do several; an error, DataError or a lack of memory, may be that of any of them."""


@dataclass(frozen=True)
class Grouping:
    """Which images may be done together: at most `most`, of the same key; those without a key alone."""

    most: int = 1
    keys: Mapping[str, Hashable] = field(default_factory=dict)  # by image id

    def groups(self, ids: Sequence[str]) -> list[Group]:
        """Every image once, groups in the order of their first image."""
        found: list[list[str]] = []
        open_groups: dict[Hashable, list[str]] = {}
        for image_id in ids:
            group = open_groups.get(self.keys[image_id]) if image_id in self.keys else None
            if group is None or len(group) >= self.most:
                group = []
                found.append(group)
                if image_id in self.keys:
                    open_groups[self.keys[image_id]] = group
            group.append(image_id)
        return [tuple(group) for group in found]


ALONE = Grouping()


def process_count(asked: int, jobs: int, device: str = "cpu") -> int:
    """Processes to start: as asked, else one a CPU core or two on a GPU; never more than the jobs are worth.

    `device` is a torch device's type; devices other than "cpu" and "cuda" get one process. So does a process that
    may have no children.
    """
    if not may_start_processes():
        return 1
    if asked:
        return max(1, min(asked, jobs))
    if device != "cpu":
        return max(1, min(ON_A_GPU, jobs // JOBS_WORTH_A_PROCESS)) if device == "cuda" else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(cores, jobs // JOBS_WORTH_A_PROCESS))


def run_images(
    ids: Sequence[str],
    make_work: MakeWork,
    arguments: tuple[Any, ...],
    folder: StageFolder,
    *,
    processes: int,
    total: int,
    description: str,
    cluster: Cluster | None = None,
    apart: bool = False,
    here_first: bool = False,
    grouping: Grouping = ALONE,
) -> None:
    """Do every image in `ids` by `make_work(*arguments)(id)`, over `processes`; note failures in `folder`.

    With a `cluster` the images go to its workers instead, and `processes` isn't used. A worker that dies takes at
    most the images in flight with it: these are done again, and an image that takes its worker with it twice is
    noted as failed. Each process uses one thread inside torch. Work that may abort is done `apart`, so that it can't
    take a single process with it either; it must not use a GPU. With `here_first` this process begins, and others
    are started only where what is left will take longer than their start. With a `grouping` that allows it, images
    are done together by `GroupWork`; what fails is done again in halves, so that each still fails alone.
    """
    if cluster is not None:
        from tag2mask.engine.ray_cluster import spread  # which imports this module

        outcomes = spread(ids, make_work, arguments, folder, cluster, grouping)
    elif processes <= 1 or here_first:
        how = attempt_apart if apart and can_fork() else None
        outcomes = _here(ids, make_work, arguments, how, processes, grouping)
    else:
        outcomes = _spread(ids, make_work, arguments, processes, grouping)
    done = total - len(ids)
    for image_id, error in track(outcomes, total=total, description=description, done=done):
        if error:
            folder.fail(image_id, error)
        folder.tick()


def _here(
    ids: Sequence[str],
    make_work: MakeWork,
    arguments: tuple[Any, ...],
    apart: Callable[[Work, str], str] | None,
    processes: int,
    grouping: Grouping,
) -> Iterator[Outcome]:
    """Do images in this process, and hand the rest to `processes` as soon as that pays."""
    from tag2mask.engine.execution import cpu_threads

    keep_freed_memory()
    groups = deque(grouping.groups(ids))
    done, left = 0, len(ids)
    with cpu_threads(1):
        work = make_work(*arguments)
        began = time.monotonic()
        while groups and not worth_processes(time.monotonic() - began, done - 1, left, processes):
            group = groups.popleft()
            if apart is None:
                yield from attempt_group(work, group)
            else:
                yield from ((image_id, apart(work, image_id)) for image_id in group)
            if done == 0:  # which warms up, and tells nothing of the pace
                began = time.monotonic()
            done, left = done + len(group), left - len(group)
    if groups:
        del work
        yield from _spread([i for group in groups for i in group], make_work, arguments, processes, grouping)


def worth_processes(seconds: float, done: int, left: int, processes: int) -> bool:
    """Whether `processes` would spare more than their start takes, at the pace of one: `done` jobs in `seconds`."""
    return done > 0 and processes > 1 and seconds / done * left * (1 - 1 / processes) > START_UP


def attempt(work: Work, image_id: str) -> str:
    """Do one image; returns what is wrong with it, or "". An image that is too large for the memory fails alone."""
    try:
        work(image_id)
    except DataError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return f"{image_id}: out of memory; make the image smaller, or use fewer processes or another device"
    return ""


def attempt_group(work: Work, group: Group) -> list[Outcome]:
    """Do images together where there are several; what fails is done in halves, down to single images."""
    if len(group) > 1:
        try:
            cast(GroupWork, work).together(group)
        except DataError:
            pass
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        else:
            return [(image_id, "") for image_id in group]
        half = len(group) // 2  # outside of the except clauses, which hold on to what was in memory
        return [*attempt_group(work, group[:half]), *attempt_group(work, group[half:])]
    return [(image_id, attempt(work, image_id)) for image_id in group]


def _spread(
    ids: Sequence[str], make_work: MakeWork, arguments: tuple[Any, ...], processes: int, grouping: Grouping
) -> Iterator[Outcome]:
    left, deaths = list(ids), dict.fromkeys(ids, 0)
    while left:
        finished: set[str] = set()
        # an image that was in flight when a worker died goes alone the second time, to find the culprit
        groups = grouping.groups([i for i in left if deaths[i] == 0] or left[:1])
        with WorkerPool(processes, _start, (make_work, arguments)) as pool:
            try:
                futures = {pool.submit(_some, group): group for group in groups}
                for future in as_completed(futures):
                    outcomes = future.result()
                    finished.update(futures[future])
                    yield from outcomes
            except BrokenProcessPool:
                if not pool.begun:
                    raise never_began() from None
                # which images were running is unknown: the first few unfinished, in the order they were handed out
                suspects = [group for group in groups if group[0] not in finished][: 2 * processes]
                for image_id in (i for group in suspects for i in group):
                    deaths[image_id] += 1
                    if deaths[image_id] > 1:
                        finished.add(image_id)
                        yield image_id, TWICE
        left = [i for i in left if i not in finished]


def _start(make_work: MakeWork, arguments: tuple[Any, ...]) -> None:
    global _work, _failed
    keep_freed_memory()
    use_one_thread()
    try:
        _work = make_work(*arguments)
    except Tag2MaskError as error:  # raised here it would look like a worker that died
        _failed = ConfigError(str(error))
    except Exception as error:  # so would anything else, and the images would be blamed for it one by one
        _failed = ConfigError(f"a worker process could not start: {type(error).__name__}: {error}")


def use_one_thread() -> None:
    """One thread inside torch, for the rest of this process; torch isn't loaded for work that doesn't need it."""
    os.environ["OMP_NUM_THREADS"] = "1"  # in case that torch comes in later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _some(group: Group) -> list[Outcome]:
    if _failed is not None:
        raise _failed
    assert _work is not None
    return attempt_group(_work, group)
