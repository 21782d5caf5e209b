"""How far preparation is, on stderr: a bar in a terminal, a line each tenth of the way anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Told of the phases of a preparation."""

    def phase(self, name: str, total: int) -> Callable[[int], None]:
        """Begin a phase of ``total`` steps; the returned function says how many more are done."""

    def note(self, text: str) -> None:
        """Tell what should not go unnoticed."""


class Quiet:
    """Says nothing."""

    def phase(self, name: str, total: int) -> Callable[[int], None]:
        del name, total
        return lambda _: None

    def note(self, text: str) -> None:
        del text


class Lines:
    """For a file or a pipe: one line at each tenth of a phase."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def phase(self, name: str, total: int) -> Callable[[int], None]:
        done, said = 0, -1

        def advance(more: int) -> None:
            nonlocal done, said
            done += more
            tenth = 10 if total == 0 else 10 * done // total
            if tenth > said:
                said = tenth
                self._write(f"{name}: {10 * tenth} %")

        advance(0)
        return advance

    def note(self, text: str) -> None:
        self._write(f"note: {text}")


class Bars:
    """For a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def phase(self, name: str, total: int) -> Callable[[int], None]:
        task = self._progress.add_task(name, total=total)

        def advance(more: int) -> None:
            self._progress.advance(task, more)

        advance(0)
        return advance

    def note(self, text: str) -> None:
        self._progress.console.print(f"note: {text}", highlight=False, markup=False)


@contextmanager
def reporter() -> Iterator[Reporter]:
    """A reporter that suits where stderr goes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)
