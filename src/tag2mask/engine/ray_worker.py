"""What runs on a Ray cluster's nodes. Light to import: a node loads no more than its work needs."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError, Tag2MaskError
from tag2mask.common.memory import keep_freed_memory
from tag2mask.engine.images import Group, MakeWork, Outcome, Work, attempt_group, use_one_thread
from tag2mask.runs.folder import versions


@dataclass(frozen=True)
class Checks:
    """What a node must have in common with the driver."""

    token: Path  # a file that the driver has just written to the stage's folder
    folder: Path  # the driver's working folder
    versions: dict[str, str]
    witnesses: tuple[Path, ...]  # files that the driver sees

    def check(self, node: str) -> None:
        """Raise ConfigError, naming the node, where something differs."""
        if not self.token.is_file():
            raise ConfigError(
                f"node {node} doesn't see {self.token.parent}, where the results go; "
                "all nodes must share that folder under the same path (NFS, Lustre, ...)"
            )
        missing = next((path for path in self.witnesses if not path.exists()), None)
        if missing is not None:
            raise ConfigError(f"node {node} doesn't see {missing}; all nodes must share it under the same path")
        own = versions()
        for name, wanted in self.versions.items():
            if own.get(name) != wanted:
                raise ConfigError(
                    f"node {node} has {name} {own.get(name)}, the driver {wanted}; results could differ: "
                    "install the same versions everywhere"
                )
        probe = self.token.with_name(f"{self.token.name}-{secrets.token_hex(4)}")
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"node {node} can't write to {self.token.parent}: {error}") from error


class Worker:
    """What runs on the nodes: one process, one thread, one image or group of images at a time."""

    def __init__(self) -> None:
        self.do: Work | None = None

    def start(self, job: tuple[MakeWork, tuple[Any, ...], Checks]) -> None:
        """Check the node and build what every image needs."""
        make_work, arguments, checks = job
        node = f"{socket.gethostname()} (pid {os.getpid()})"
        checks.check(node)
        with contextlib.suppress(OSError):  # only a relative path inside a recipe needs it
            os.chdir(checks.folder)
        keep_freed_memory()
        use_one_thread()
        try:
            self.do = make_work(*arguments)
        except Tag2MaskError as error:
            raise ConfigError(f"node {node}: {error}") from error

    def work(self, group: Group) -> list[Outcome]:
        """Do one image or several; returns of each what is wrong with it, or ""."""
        assert self.do is not None
        return attempt_group(self.do, group)
