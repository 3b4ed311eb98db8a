"""A stage's folder: what made it, which images are done, and whether it may be continued."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.common.errors import ConfigError, DataError
from tag2mask.common.files import DONE, digest_value, is_leftover, read_object, remove_leftovers, write_json
from tag2mask.common.values import as_dict, as_list, as_number, as_text

if TYPE_CHECKING:
    from tag2mask.data import ImageRecord

PACKAGES = ("tag2mask", "torch", "torchvision", "timm", "numpy", "pillow")
SAVE_EVERY = 60.0  # seconds between notes of the time spent, while images are worked on
_SHARE = 100  # times what writing takes, until it is done again
NAMED = ("stage", "config", "seed", "inputs")  # what decides a stage's results


def versions() -> dict[str, str]:
    """Return the versions that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


class StageFolder:
    """The folder that one stage writes, with its `manifest.json`.

    A folder made with other settings, another seed or other inputs is never continued or overwritten: ConfigError
    names the difference. `absent` says what a manifest of an earlier version means that doesn't name a setting or
    an input: {"config": ..., "inputs": ...}; settings in `free`, dotted names, may differ. Whether an image is done
    is decided by its file, which is written whole or not at all.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        *,
        config: dict[str, Any],
        seed: int,
        inputs: dict[str, str],
        absent: Mapping[str, Any] | None = None,
        free: Collection[str] = (),
    ) -> None:
        self.path = path
        self.started = time.monotonic()
        self.writing = 0.0  # seconds that the manifest took
        self.failures: dict[str, str] = {}
        self.versions = versions()
        self.manifest: dict[str, Any] = {
            "stage": stage,
            "config": config,
            "seed": seed,
            "inputs": inputs,
            "versions": self.versions,
            "finished": False,
            "seconds": 0.0,
        }
        existing = path / "manifest.json"
        if existing.is_file():
            old = read_object(existing)
            refuse_other(path, old, self.manifest, absent=absent, free=free)
            # what made the results so far stays noted; a finished stage's manifest isn't touched at all
            kept = old if old.get("finished") else {key: old[key] for key in set(old) - {"config", "inputs"}}
            self.manifest |= kept
        elif path.is_dir() and not all(map(is_leftover, path.iterdir())):
            raise ConfigError(f"{path}: not empty and without a manifest.json; choose another folder or empty it")
        path.mkdir(parents=True, exist_ok=True)
        if not self.finished:
            remove_leftovers(path)
            self._write()

    @property
    def fingerprint(self) -> str:
        """A digest of everything that decides the results."""
        return digest_value({k: self.manifest[k] for k in NAMED})

    @property
    def finished(self) -> bool:
        """Whether the stage has run to its end."""
        return bool(self.manifest["finished"])

    def left(self, records: Mapping[str, ImageRecord], *outputs: str) -> list[str]:
        """Ids of `records` that lack one of their files `outputs`, e.g. "masks/{}.png", in this folder.

        In a finished stage these are images that failed, or whose file was deleted: they are tried again, save those
        that still can't be read. These are told without loading any network, so that looking for nothing is cheap.
        """
        todo = [i for i in records if not all((self.path / output.format(i)).is_file() for output in outputs)]
        return [i for i in todo if self._readable(records[i])] if self.finished else todo

    def _readable(self, record: ImageRecord) -> bool:
        from tag2mask.data import read_image  # which brings torch; workers that need none import this module

        try:
            read_image(record)
        except DataError as error:
            self.fail(record.id, str(error))
            return False
        return True

    def fail(self, image_id: str, error: str) -> None:
        """Note an image that could not be processed; the rest of the set goes on."""
        self.failures[image_id] = error

    def tick(self) -> None:
        """Store the seconds so far if that was last done a minute ago; for work that may be killed any time.

        A manifest that lists a million photos is written less often: at most a hundredth of the time goes into it.
        """
        if time.monotonic() - self.started >= max(SAVE_EVERY, _SHARE * self.writing):
            self.save()

    def save(self, **more: Any) -> None:
        """Store how far the stage is: seconds so far and anything in `more`."""
        now = time.monotonic()
        self.manifest["seconds"] = round(self.manifest["seconds"] + now - self.started, 3)
        self.started = now
        if self.manifest["versions"] != self.versions:
            self.manifest["later_versions"] = self.versions  # of the part that was made now
        self.manifest.update(more)
        self._write()

    def finish(self, done: Iterable[str] = (), **more: Any) -> None:
        """Mark the stage as complete with the state of every image."""
        images: dict[str, Any] = dict.fromkeys(done, DONE)
        images |= {image_id: {"status": "failed", "error": error} for image_id, error in self.failures.items()}
        self.manifest["finished"] = True
        self.save(images=images, **more)

    def _write(self) -> None:
        started = time.monotonic()
        write_json(self.path / "manifest.json", self.manifest)
        self.writing = time.monotonic() - started


def refuse_other(
    path: Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    absent: Mapping[str, Any] | None = None,
    free: Collection[str] = (),
) -> None:
    """Raise ConfigError, naming the first difference, unless manifest `old` in `path` is of the stage `new` asks for.

    Compares those of stage, config, seed and inputs that `new` has; `absent` and `free` as in `StageFolder`.
    """
    allowed = {f"config.{name}" for name in free}
    for key in NAMED:
        if key in new:
            difference = _difference(old.get(key), new[key], (absent or {}).get(key), key, allowed)
            if difference:
                raise ConfigError(
                    f"{path}: was made with other settings ({difference}); nothing is overwritten: choose another "
                    "folder, restore the setting, or delete this folder"
                )


def _difference(old: Any, new: Any, absent: Any, place: str, free: Collection[str]) -> str:
    if place in free:
        return ""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        absent = absent if isinstance(absent, Mapping) else {}
        for key in sorted(set(old) | set(new)):
            if key not in old and key in absent and absent[key] == new[key]:
                continue
            inner = _difference(old.get(key), new.get(key), absent.get(key), f"{place}.{key}", free)
            if inner:
                return inner
        return ""
    return "" if old == new else f"{place}: {old!r} there, {new!r} now"


def read_manifest(folder: Path, *stages: str, unfinished: bool = False) -> dict[str, Any]:
    """Read the manifest of a finished stage, one of `stages`; ConfigError when the folder isn't of one.

    `unfinished` allows for a stage that is still at work, for what it reads of itself.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: has no manifest.json; expected the folder that '{stages[0]}' wrote")
    manifest: dict[str, Any] = read_object(path)
    stage = manifest.get("stage")
    if stage not in stages:
        raise ConfigError(f"{folder}: was written by '{stage}'; expected one by '{stages[0]}'")
    if not unfinished and not manifest.get("finished"):
        raise ConfigError(f"{folder}: '{stage}' is not finished there; run {stage} to its end first")
    names = manifest.get("classes", [])
    if not isinstance(manifest.get("config", {}), dict) or not _are_names(names):
        raise DataError(f"{path}: its settings or classes are damaged; take a whole copy or delete {folder}")
    return manifest


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


@dataclass(frozen=True)
class Manifest:
    """manifest.json as those who look at a whole run use it; what isn't there or of another type is absent."""

    stage: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    finished: bool = False
    done: int = 0  # images
    failed: dict[str, str] = field(default_factory=dict)  # what is wrong with an image, by its id
    warnings: tuple[str, ...] = ()  # of a training
    raw: dict[str, Any] = field(default_factory=dict)


def parse_manifest(value: Any) -> Manifest:
    """Read the value of a manifest.json, as far as it is one."""
    found = as_dict(value)
    images = as_dict(found.get("images"))
    failed = {name: state for name, state in images.items() if as_dict(state).get("status") == "failed"}
    return Manifest(
        as_text(found.get("stage")),
        as_dict(found.get("config")),
        as_number(found.get("seconds")),
        bool(found.get("finished")),
        sum(as_dict(state).get("status") == "done" for state in images.values()),
        {name: as_text(state.get("error")) or "failed" for name, state in failed.items()},
        tuple(filter(None, map(as_text, (*as_list(found.get("warnings")), found.get("warning"))))),
        found,
    )


def is_finished(folder: Path) -> bool:
    """Whether a stage has run to its end in `folder`."""
    path = folder / "manifest.json"
    return path.is_file() and bool(read_object(path).get("finished"))


def started_without(out: Path, error: str) -> set[str]:
    """Ids of images that the training in `out` was begun without, as an earlier stage had failed on them.

    A network is neither outdated nor stopped by an image that works by now: it stays without it. `error` is how that
    training notes such an image.
    """
    path = out / "manifest.json"
    manifest = read_object(path) if path.is_file() else {}
    if "without" in manifest:
        return set(manifest["without"])
    images: dict[str, Any] = manifest.get("images", {})  # earlier versions told it there alone, at the end
    return {image_id for image_id, state in images.items() if state.get("error") == error}
