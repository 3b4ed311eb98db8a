"""One image in a process of its own: what aborts there, as C++ can, costs that image and not the run."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import warnings
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tag2mask.engine.images import Work


def can_fork() -> bool:
    """Whether this system has processes that begin as a copy of this one."""
    return hasattr(os, "fork") and sys.platform != "darwin"  # where libraries don't survive it


def attempt_apart(work: Work, image_id: str) -> str:
    """As `attempt`, in a copy of this process; raises what `work` raises. No GPU may be in use."""
    from tag2mask.engine.images import attempt  # which imports this module

    end, begin = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a process with threads is forked: the copy has one, and uses no others
        process = os.fork()
    if process == 0:
        os.close(end)
        try:
            outcome: object = attempt(work, image_id)
        except BaseException as error:
            outcome = error
        _answer(outcome, begin)
    os.close(begin)
    with os.fdopen(end, "rb") as stream:
        data = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status or not data:
        return f"{image_id}: its process ended with {_name(status)}; take the photo out, or make it smaller"
    answer = pickle.loads(data)  # of our own copy
    if isinstance(answer, BaseException):
        raise answer
    assert isinstance(answer, str)
    return answer


def _answer(answer: object, begin: int) -> NoReturn:
    """Hand the answer over and end, without anything that belongs to the process this is a copy of."""
    try:
        data = pickle.dumps(answer)
    except Exception:
        data = pickle.dumps(RuntimeError(str(answer)))
    with os.fdopen(begin, "wb") as stream:
        stream.write(data)
    os._exit(0)


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
