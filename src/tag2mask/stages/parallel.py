"""The same work for many images over processes: no result depends on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from tag2mask.common.errors import DataError
from tag2mask.common.memory import keep_freed_memory
from tag2mask.common.progress import track
from tag2mask.stages.folder import StageFolder
from tag2mask.stages.training import cpu_threads

Work = Callable[[str], None]  # does one image, writes its file
MakeWork = Callable[..., Work]  # builds what every image needs, once a process

JOBS_WORTH_A_PROCESS = 8  # starting a process takes seconds, mostly to import torch
_work: Work | None = None


def process_count(asked: int, jobs: int) -> int:
    """Processes to start: as asked, else one a CPU core; never more than the jobs are worth."""
    if asked:
        return max(1, min(asked, jobs))
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
) -> None:
    """Do every image in `ids` by `make_work(*arguments)(id)`, over `processes`; note failures in `folder`.

    A worker that dies takes at most the images in flight with it: these are done again, and an image that takes its
    worker with it twice is noted as failed. Each process uses one thread inside torch.
    """
    outcomes = _here(ids, make_work, arguments) if processes <= 1 else _spread(ids, make_work, arguments, processes)
    done = total - len(ids)
    for image_id, error in track(outcomes, total=total, description=description, done=done):
        if error:
            folder.fail(image_id, error)


def _here(ids: Sequence[str], make_work: MakeWork, arguments: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    keep_freed_memory()
    with cpu_threads(1):
        work = make_work(*arguments)
        for image_id in ids:
            yield image_id, _attempt(work, image_id)


def _attempt(work: Work, image_id: str) -> str:
    try:
        work(image_id)
    except DataError as error:
        return str(error)
    return ""


def _spread(
    ids: Sequence[str], make_work: MakeWork, arguments: tuple[Any, ...], processes: int
) -> Iterator[tuple[str, str]]:
    left, deaths = list(ids), dict.fromkeys(ids, 0)
    while left:
        finished: set[str] = set()
        pool = ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_start, initargs=(make_work, arguments)
        )
        try:
            # an image that was in flight when a worker died goes alone the second time, to find the culprit
            batch = [i for i in left if deaths[i] == 0] or left[:1]
            futures = {pool.submit(_one, image_id): image_id for image_id in batch}
            for future in as_completed(futures):
                image_id = futures[future]
                error = future.result()
                finished.add(image_id)
                yield image_id, error
        except BrokenProcessPool:
            # which images were running is unknown: the first few unfinished ones, in the order they were handed out
            suspects = [i for i in batch if i not in finished][: 2 * processes]
            for image_id in suspects:
                deaths[image_id] += 1
                if deaths[image_id] > 1:
                    finished.add(image_id)
                    yield image_id, "its worker process died twice (out of memory?); use fewer processes"
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        left = [i for i in left if i not in finished]


def _start(make_work: MakeWork, arguments: tuple[Any, ...]) -> None:
    import torch

    global _work
    keep_freed_memory()
    torch.set_num_threads(1)
    _work = make_work(*arguments)


def _one(image_id: str) -> str:
    assert _work is not None
    return _attempt(_work, image_id)
