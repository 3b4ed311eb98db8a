"""A stage's folder: what made it, which images are done, and whether it may be continued."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError
from tag2mask.common.files import digest_value, read_json, write_json

PACKAGES = ("tag2mask", "torch", "torchvision", "timm", "numpy", "pillow")


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
    names the difference. Whether an image is done is decided by its file, which is written whole or not at all.
    """

    def __init__(self, path: Path, stage: str, *, config: dict[str, Any], seed: int, inputs: dict[str, str]) -> None:
        self.path = path
        self.started = time.monotonic()
        self.failures: dict[str, str] = {}
        self.manifest: dict[str, Any] = {
            "stage": stage,
            "config": config,
            "seed": seed,
            "inputs": inputs,
            "versions": versions(),
            "finished": False,
            "seconds": 0.0,
        }
        existing = path / "manifest.json"
        if existing.is_file():
            self._continue(read_json(existing))
        elif path.is_dir() and any(path.iterdir()):
            raise ConfigError(f"{path}: not empty and without a manifest.json; choose another folder or empty it")
        path.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def fingerprint(self) -> str:
        """A digest of everything that decides the results."""
        return digest_value({k: self.manifest[k] for k in ("stage", "config", "seed", "inputs")})

    @property
    def finished(self) -> bool:
        """Whether the stage has run to its end."""
        return bool(self.manifest["finished"])

    def _continue(self, old: dict[str, Any]) -> None:
        for key in ("stage", "config", "seed", "inputs"):
            difference = _difference(old.get(key), self.manifest[key])
            if difference:
                raise ConfigError(
                    f"{self.path}: was made with other settings ({key}{difference}); nothing is overwritten: choose "
                    "another folder, restore the setting, or delete this folder"
                )
        self.manifest["finished"] = bool(old.get("finished"))
        self.manifest["seconds"] = float(old.get("seconds", 0.0))
        for key in set(old) - set(self.manifest):
            self.manifest[key] = old[key]

    def fail(self, image_id: str, error: str) -> None:
        """Note an image that could not be processed; the rest of the set goes on."""
        self.failures[image_id] = error

    def save(self, **more: Any) -> None:
        """Store how far the stage is: seconds so far and anything in `more`."""
        now = time.monotonic()
        self.manifest["seconds"] = round(self.manifest["seconds"] + now - self.started, 3)
        self.started = now
        self.manifest.update(more)
        self._write()

    def finish(self, done: Iterable[str] = (), **more: Any) -> None:
        """Mark the stage as complete with the state of every image."""
        images: dict[str, Any] = {image_id: {"status": "done"} for image_id in done}
        images |= {image_id: {"status": "failed", "error": error} for image_id, error in self.failures.items()}
        self.manifest["finished"] = True
        self.save(images=images, **more)

    def _write(self) -> None:
        write_json(self.path / "manifest.json", self.manifest)


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            inner = _difference(old.get(key), new.get(key))
            if inner:
                return f".{key}{inner}"
        return ""
    return "" if old == new else f": {old!r} there, {new!r} now"


def read_manifest(folder: Path, stage: str) -> dict[str, Any]:
    """Read the manifest of a finished stage; ConfigError when the folder isn't one."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: has no manifest.json; expected the folder that '{stage}' wrote")
    manifest = read_json(path)
    if manifest.get("stage") != stage:
        raise ConfigError(f"{folder}: was written by '{manifest.get('stage')}'; expected one by '{stage}'")
    return manifest
