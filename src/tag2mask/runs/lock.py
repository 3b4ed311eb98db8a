"""One run at a time in a folder: a second one is refused before it does anything."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tag2mask.common.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: only runs of one process are told apart
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"  # stays in the folder: it is the system that knows whether somebody holds it
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # some network drives
_held: dict[Path, tuple[int, int]] = {}  # by folder: the thread, and how often it holds it
_changing = threading.Lock()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes and threads; ConfigError where one of these is at work in it.

    The system lets go of it when the process ends, however that happens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place, thread = folder.resolve(), threading.get_ident()
    with _changing:
        owner, depth = _held.get(place, (thread, 0))
        if owner != thread:
            raise _taken(folder, "another thread of this process")
        _held[place] = (thread, depth + 1)
    stream = None
    try:
        stream = _locked(folder) if depth == 0 else None
        yield
    finally:
        with _changing:
            _held[place] = (thread, depth)
            if not depth:
                del _held[place]
        if stream is not None:
            stream.close()


def _locked(folder: Path) -> IO[str]:
    stream = open(folder / FILE, "a+", encoding="utf-8")  # noqa: SIM115  (it is the lock, and closed by who holds it)
    try:
        if fcntl is not None:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return stream
        stream.seek(0)
        holder = stream.read(200).strip() or "another process"
        stream.close()
        if error.errno in _TAKEN:
            raise _taken(folder, holder) from None
        raise
    return stream


def _taken(folder: Path, holder: str) -> ConfigError:
    return ConfigError(f"{folder}: {holder} is at work in it; wait until it ends, stop it, or choose another --out")
