"""The command line: parsing and printing only. One module a group of commands, one line in `GROUPS`."""

from __future__ import annotations

import _thread
import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tag2mask import __version__
from tag2mask.cli import (
    ablate,
    choose,
    data,
    demo,
    export,
    hgr,
    new,
    recipes,
    report,
    rerun,
    results,
    review,
    run,
    toy,
)
from tag2mask.common.errors import Tag2MaskError
from tag2mask.common.files import FULL, GONE
from tag2mask.common.memory import out_of_memory

GROUPS = (
    new,
    run,
    choose,
    rerun,
    report,
    review,
    data,
    recipes,
    export,
    results,
    ablate,
    demo,
    toy,
    hgr,
)  # in --help's order
_OUT_OF_MEMORY = (
    "out of memory; give fewer --processes or --workers, smaller photos (data.long_side) or another --device"
)
_REMEDIES = (
    (FULL, "; make room there, then give the same command again: what is finished is kept"),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "; it can't be written there: choose another --out, or allow it"),
    (GONE, "; once the drive is back, give the same command again: what is finished is kept"),
)
AGAIN_AFTER = 0.05  # seconds until a signal is given once more that met a place where it can't be passed on
_UNFINISHED = re.compile(r"\.([^/\\]+)\.\d+(?:-[0-9a-f]{6})?\.partial")  # names of what is being written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 (problems were found) or 2 (an error the user can act on)."""
    for stream in (sys.stdout, sys.stderr):  # a path that isn't UTF-8 is printed all the same
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # before torch is loaded: threads that wait asleep leave a core to whatever else runs (a training step on two
    # cores beside one busy program: 1.6 s instead of 2.5; alone the same)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    try:
        with _stopped_by_signals():
            return int(options.command(options) or 0)
    except Tag2MaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"error: {_OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        again = "goes on where it stopped" if getattr(options, "resumes", True) else "starts anew"
        print(f"\nstopped; the same command {again}", file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"error: {_os_text(error)}", file=sys.stderr)
        return 2


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems and containers send it before they kill."""


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, and neither be lost; only a program's main thread may say so.

    Where Python can't pass on what a signal raises, in a destructor or a callback, it drops it: the signal is then
    given once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Terminated

    waiting: list[threading.Timer] = []

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            told(what)
            return
        number = signal.SIGTERM if isinstance(what.exc_value, Terminated) else signal.SIGINT
        again = threading.Timer(AGAIN_AFTER, _signal_main_thread, (number,))
        again.daemon = True
        waiting.append(again)
        again.start()

    before, told = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        for again in waiting:  # what is said after the end would meet whoever goes on
            again.cancel()
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = told


def _signal_main_thread(number: signal.Signals) -> None:
    if hasattr(signal, "pthread_kill"):  # ends a wait, too
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def _os_text(error: OSError) -> str:
    """One line of what the system said, about which file and the remedy; a file that isn't whole goes by its name."""
    text = error.strerror or str(error) or type(error).__name__
    if error.filename:
        text += ": " + _UNFINISHED.sub(r"\1", str(error.filename))
    remedy = next((remedy for numbers, remedy in _REMEDIES if error.errno in numbers), "")
    return " ".join((text + remedy).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tag2mask",
        description="From image-level labels to pixel masks and a trained segmentation network (RIB).",
    )
    parser.add_argument("--version", action="version", version=f"tag2mask {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return parser
