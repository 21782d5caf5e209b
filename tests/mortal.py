"""Programs that end themselves, as kill -9 does, at a named point of their own code.

They are forked from a process that has imported them already, so a life costs no imports and a test can afford many.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PROGRAMS = ("photon_gate.main", "photon_gate.program", "photon_aggregator.main")


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after a call of ``where`` (``module:name`` or ``module:Class.name``), at its ``passing``-th time.

    After: calls that raise do not count, such as one to a hub that is not ready yet.
    """

    name: str
    where: str
    after: bool = False
    passing: int = 1


def start(
    program: str, words: Sequence[str], *, environment: Mapping[str, str], log: Path, point: Point | None
) -> BaseProcess:
    """``program``: a module with ``main``. Its exit code is -9 when it died of ``point``."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(PROGRAMS))
    process = forks.Process(target=_live, args=(program, list(words), dict(environment), log, point), daemon=True)
    process.start()
    return process


def _live(program: str, words: list[str], environment: dict[str, str], log: Path, point: Point | None) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if point is not None:
        _mine(point)
    sys.argv = [program, *words]
    importlib.import_module(program).main()


def _mine(point: Point) -> None:
    module, _, path = point.where.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    setattr(owner, name, _mined(getattr(owner, name), point))


def _mined(call: Callable[..., Any], point: Point) -> Callable[..., Any]:
    passings = itertools.count(1)

    def pass_by(*, after: bool) -> None:
        if after is point.after and next(passings) == point.passing:
            os.kill(os.getpid(), signal.SIGKILL)

    if inspect.iscoroutinefunction(call):

        async def later(*arguments: Any, **named: Any) -> Any:
            pass_by(after=False)
            result = await call(*arguments, **named)
            pass_by(after=True)
            return result

        return later

    def now(*arguments: Any, **named: Any) -> Any:
        pass_by(after=False)
        result = call(*arguments, **named)
        pass_by(after=True)
        return result

    return now
