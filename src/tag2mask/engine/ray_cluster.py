"""Single images over a Ray cluster. Each image's result is that of one process, byte for byte.

Actors build the work once each (load the network, index the partners) and then take images. Nothing comes back but
what was wrong with an image: workers write to the stage's folder, which all machines must share.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError, MissingExtraError, Tag2MaskError
from tag2mask.common.files import temporary_beside
from tag2mask.data import Dataset, ImageRecord
from tag2mask.engine.execution import Cluster
from tag2mask.engine.images import ALONE, Group, Grouping, MakeWork, Outcome, process_count
from tag2mask.engine.ray_worker import Checks, Worker
from tag2mask.runs.folder import StageFolder, versions

IN_FLIGHT = 2  # groups of images handed to an actor at once, so that it needn't wait for the next
DEATHS = 2  # an image that took its worker with it so often is given up
PATIENCE = 300.0  # seconds to wait for a first worker
SEEN = 4  # images that a node must see before it may work
OBJECT_STORE = 256 * 2**20  # bytes on this machine; only the stage's arguments go through it


def spread(
    ids: Sequence[str],
    make_work: MakeWork,
    arguments: tuple[Any, ...],
    folder: StageFolder,
    cluster: Cluster,
    grouping: Grouping = ALONE,
) -> Iterator[Outcome]:
    """Yield (image id, error or "") as images are finished by the actors of `cluster`, alone or in groups.

    Raises ConfigError when the cluster can't be reached or a node doesn't share the driver's files and versions,
    MissingExtraError without ray.
    """
    if not ids:
        return
    check_cluster(cluster)
    ray = _import_ray(cluster)
    with _connected(ray, cluster, len(ids)) as count, _token(folder.path) as token:
        # relative paths mean the driver's folder on every node
        arguments = tuple(a.absolute() if isinstance(a, Path) else a for a in arguments)
        checks = Checks(token.absolute(), Path.cwd(), versions(), tuple(_witnesses(arguments)))
        team = _Team(ray, ray.put((make_work, arguments, checks)), count, cluster.gpus)
        try:
            yield from team.run(grouping.groups(ids))
        finally:
            team.dismiss()


class _Team:
    """Actors, their shards of the images and what is in flight.

    Group k, of one image as a rule, belongs to shard k mod n of n actors. An actor whose shard is done takes from the
    end of the longest one.
    Any of the images in flight when it dies may be to blame, since the answer to one that was done may be lost with
    it: each is done again by a new actor, alone, and one that takes this one with it too is given up.
    """

    def __init__(self, ray: Any, job: Any, count: int, gpus: int) -> None:
        self.ray, self.job, self.count = ray, job, count
        self.make = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)
        self.actors: dict[int, Any] = {}
        self.flying: dict[Any, tuple[int, Group]] = {}  # in the order of sending; () is an actor's start
        self.shards: list[deque[Group]] = []
        self.deaths: dict[str, int] = {}
        self.failed_starts = 0

    def run(self, groups: Sequence[Group]) -> Iterator[Outcome]:
        """Yield each image's outcome once."""
        self.shards = [deque(groups[member :: self.count]) for member in range(self.count)]
        left = {image_id for group in groups for image_id in group}
        for member in range(self.count):
            self._hire(member)
        while left:
            for image_id, error in self._next():
                left.discard(image_id)
                yield image_id, error

    def dismiss(self) -> None:
        """End all actors, also those that wait for a free CPU."""
        for actor in self.actors.values():
            self.ray.kill(actor, no_restart=True)

    def _next(self) -> list[Outcome]:
        ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=PATIENCE)
        if not ready:
            if not any(group for _, group in self.flying.values()):
                raise ConfigError(
                    f"the Ray cluster started no worker in {PATIENCE:.0f} s; it has {self.ray.cluster_resources()}, "
                    f"of which {self.ray.available_resources()} are free"
                )
            return []
        member, _ = self.flying[ready[0]]
        try:
            outcomes = self._get(ready[0])
        except self._lost() as lost:
            return self._replace(member, lost)
        del self.flying[ready[0]]
        self._feed(member)
        return outcomes

    def _get(self, ref: Any) -> list[Outcome]:
        try:
            return self.ray.get(ref) or []
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Tag2MaskError):
                raise error.cause from None  # without the worker's traceback
            if isinstance(error.cause, self.ray.exceptions.RaySystemError):  # it could not read what it was sent
                raise ConfigError(f"a node of the cluster can't take part: {_last_line(error)}") from error
            raise

    def _lost(self) -> tuple[type[BaseException], ...]:
        errors = self.ray.exceptions
        return errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError

    def _replace(self, member: int, lost: BaseException) -> list[Outcome]:
        """Sort out what a dead actor had in flight, and hire another."""
        self.ray.kill(self.actors[member], no_restart=True)  # it may only be out of reach
        outcomes: list[Outcome] = []
        suspects: list[str] = []
        for ref in [ref for ref, (owner, _) in self.flying.items() if owner == member]:
            _, group = self.flying.pop(ref)
            try:
                outcomes += self._get(ref)
            except self._lost():
                suspects += group
        if not suspects:
            self.failed_starts += 1
            if self.failed_starts > 2 * self.count:
                raise ConfigError(
                    f"Ray's workers die while they start: {_last_line(lost)}; is tag2mask installed on every node, "
                    "and is there memory for all of them (--processes)?"
                )
        for image_id in suspects:
            self.deaths[image_id] = self.deaths.get(image_id, 0) + 1
            if self.deaths[image_id] >= DEATHS:
                outcomes.append((image_id, "its worker died twice (out of memory?); run again with fewer processes"))
        again = [(image_id,) for image_id in suspects if self.deaths[image_id] < DEATHS]
        self.shards[member].extendleft(reversed(again))
        self._hire(member)
        starting = {owner for owner, group in self.flying.values() if not group}
        for other in self.actors.keys() - starting:  # they may have been idle, and the new one may find no room
            self._feed(other)
        return outcomes

    def _hire(self, member: int) -> None:
        self.actors[member] = self.make.remote()
        self.flying[self.actors[member].start.remote(self.job)] = (member, ())

    def _feed(self, member: int) -> None:
        """Hand images to an actor that has started, from its own shard or else from the longest; suspects alone."""
        flying = [group for owner, group in self.flying.values() if owner == member]
        while len(flying) < IN_FLIGHT and not any(group[0] in self.deaths for group in flying):
            shard = self.shards[member] or max(self.shards, key=len)
            if not shard:
                return
            own = shard is self.shards[member]
            group = shard[0] if own else shard[-1]
            if flying and group[0] in self.deaths:
                return
            shard.popleft() if own else shard.pop()
            self.flying[self.actors[member].work.remote(group)] = (member, group)
            flying.append(group)


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def check_cluster(cluster: Cluster) -> None:
    """Raise ConfigError for an address that is none, MissingExtraError without ray; nothing is started."""
    if cluster.address not in ("local", "auto") and not _is_address(cluster.address):
        raise ConfigError(f"--ray {cluster.address}: expected local, auto or HOST:PORT; a recipe comes before --ray")
    _import_ray(cluster)


def _import_ray(cluster: Cluster) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    if cluster.address == "local":
        # on Linux too, this makes a cluster of one machine listen on the loopback address only
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "--ray") from error
    return ray


@contextmanager
def _connected(ray: Any, cluster: Cluster, jobs: int) -> Iterator[int]:
    """Join or start the cluster; yield how many actors to use. A connection that exists already is used and kept."""
    own = not ray.is_initialized()
    if own:
        _connect(ray, cluster, jobs)
    try:
        yield _actor_count(ray, cluster, jobs)
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, cluster: Cluster, jobs: int) -> None:
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if cluster.address == "local":
        count = process_count(cluster.actors, jobs)
        _start_here(
            ray, num_cpus=max(4, count + 2), include_dashboard=False, object_store_memory=OBJECT_STORE, **common
        )
        return
    try:
        ray.init(cluster.address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray {cluster.address}: no Ray cluster could be joined there ({' '.join(str(error).split())[:200]}); "
            "start one with 'ray start --head' and 'ray start --address=HOST:PORT', or use --ray local"
        ) from error


def _start_here(ray: Any, **options: Any) -> None:
    """Start a cluster of this machine; a busy one may need a second try, since Ray waits for 30 s only."""
    for last in (False, True):
        try:
            ray.init("local", **options)
            return
        except Exception as error:  # Ray raises a bare Exception when it has waited in vain
            ray.shutdown()
            if last:
                raise ConfigError(f"--ray local: Ray didn't start on this machine: {_last_line(error)}") from error


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in host and port.isdigit()


def _actor_count(ray: Any, cluster: Cluster, jobs: int) -> int:
    """As many as asked for, else one a CPU (or GPU) of the cluster; never more than there are images."""
    resources = ray.cluster_resources()
    there = int(resources.get("GPU", 0)) // cluster.gpus if cluster.gpus else int(resources.get("CPU", 0))
    if there < 1:
        raise ConfigError(f"--ray {cluster.address}: the cluster has no {'GPU' if cluster.gpus else 'CPU'}")
    if cluster.actors == 0 and cluster.address == "local" and not cluster.gpus:
        there = process_count(0, jobs)
    return max(1, min(cluster.actors or there, jobs))


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """A file in the stage's folder under a name that no node can have seen before, or have cached as missing."""
    path = temporary_beside(folder / "cluster")  # goes with other leftovers where this process is killed
    path.write_text(f"{time.time()}\n", encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _witnesses(arguments: Iterable[Any]) -> Iterator[Path]:
    """Files of the stage's arguments that are there: folders of earlier stages, some images."""
    for argument in arguments:
        records: Iterable[Any] = ()
        if isinstance(argument, Path) and argument.exists():
            yield argument
        elif isinstance(argument, Dataset):
            records = argument.records
        elif isinstance(argument, Mapping):
            records = argument.values()
        images = (r.path.absolute() for r in records if isinstance(r, ImageRecord))
        yield from islice((path for path in images if path.exists()), SEEN)
