"""Worker processes: they end with the process that started them, and a script without a guard isn't run again."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import current_process, get_context, parent_process, spawn
from pathlib import Path
from typing import Any

from tag2mask.common.errors import ConfigError

GUARD = "if __name__ == '__main__':"
_DIED = "a worker process was killed (out of memory?); give the command again with fewer processes (--processes)"
_prepare = spawn.get_preparation_data
_thread = threading.local()


class WorkerPool(ProcessPoolExecutor):
    """A pool of spawned processes; an interrupt ends them at once, whatever they are at.

    Each runs `initializer(*initargs)` first. ConfigError where these are defined in a script that has no guard.
    """

    def __init__(self, processes: int, initializer: Callable[..., None] | None = None, initargs: tuple = ()) -> None:
        if not may_start_processes():
            raise ConfigError(
                "this is a daemonic process, which may start no others: work in one (Execution(processes=1))"
            )
        refuse_while_starting()
        refuse_script_objects(initializer, initargs)
        context = get_context("spawn")
        self._begun = context.RawValue("b", 0)  # without a lock, which a worker that is killed would keep
        super().__init__(
            processes, mp_context=context, initializer=_begin, initargs=(self._begun, initializer, initargs)
        )

    @property
    def begun(self) -> bool:
        """Whether any worker came as far as its first line."""
        return bool(self._begun.value)

    def submit(self, *work: Any, **options: Any) -> Future:
        """As of any executor."""
        with script_left_out():
            return super().submit(*work, **options)

    def __enter__(self) -> WorkerPool:
        return self

    def kill(self) -> None:
        """End all workers at once."""
        for process in list((self._processes or {}).values()):
            process.kill()
        self.shutdown(wait=True, cancel_futures=True)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and not issubclass(kind, Exception):  # an interrupt, or a generator that is left
            self.kill()
        self.shutdown(wait=True, cancel_futures=kind is not None)
        if isinstance(error, BrokenProcessPool):
            raise (ConfigError(_DIED) if self.begun else never_began()) from None


def never_began() -> ConfigError:
    """What to say when no worker came as far as its first line."""
    return ConfigError(
        "worker processes ended before they began: the memory is too small for their number, or the call stands in a "
        f"script outside of '{GUARD}'; put it there, or work in one process (--processes 1, Execution(processes=1))"
    )


def may_start_processes() -> bool:
    """Whether this process may have children; those of a `multiprocessing.Pool` may not."""
    return not current_process().daemon


def refuse_while_starting() -> None:
    """Raise ConfigError in a worker that runs its parent's script again."""
    if getattr(current_process(), "_inheriting", False):
        raise ConfigError(f"a worker process runs the script again: put what starts the work under '{GUARD}'")


def refuse_script_objects(*values: Any) -> None:
    """Raise ConfigError for values that workers could only read by running a script again that has no guard."""
    if _script_can_run_again():
        return
    sink = _Sink()
    pickle.Pickler(sink, pickle.HIGHEST_PROTOCOL).dump(values)
    if sink.found:
        raise ConfigError(
            "the work is defined in the script itself, which worker processes can't read: move it to a module, put "
            f"what starts it under '{GUARD}' in a file, or work in one process (Execution(processes=1))"
        )


class _Sink:
    """Where a pickle goes that is only searched."""

    found = False

    def write(self, data: Any) -> int:
        self.found = self.found or b"__main__" in bytes(data)
        return len(data)


@contextmanager
def script_left_out() -> Iterator[None]:
    """Processes that this thread starts meanwhile don't run the main script, unless it has a guard.

    Python lets each spawned process run its parent's script, for what may be defined there. Without a guard that
    would start the whole work again, and a script that was piped in can't be found.
    """
    spawn.get_preparation_data = _preparation_data
    before = getattr(_thread, "left_out", False)
    _thread.left_out = not _script_can_run_again()
    try:
        yield
    finally:
        _thread.left_out = before


def _preparation_data(name: str) -> dict[str, Any]:
    data = _prepare(name)
    if getattr(_thread, "left_out", False):
        data.pop("init_main_from_path", None)
        data.pop("init_main_from_name", None)
    return data


def _script_can_run_again() -> bool:
    """Whether the main module's source names its guard; a module of a package, such as pytest, has one."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    source = getattr(spec, "origin", None) or getattr(main, "__file__", None)
    try:
        return source is not None and "__main__" in Path(source).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _begin(begun: Any, initializer: Callable[..., None] | None, initargs: tuple) -> None:
    begun.value = 1
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    if initializer is not None:
        initializer(*initargs)


def end_with_parent() -> None:
    """Wait for the process that started this one, however that ends; then end this one."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
