"""The state of a preparation that is under way: what it was begun with, and what of it another run may use.

It is in ``.prepare`` within the output folder until the preparation is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ValidationError

from photon.files import lock, write_atomic
from photon_worker.data.findings import printable
from photon_worker.data.index import INDEX, PreparationSettings
from photon_worker.data.listing import STATE
from photon_worker.lifecycle.data_errors import DataError, OutOfReach

_PLAN: Final = "plan.json"
_MISTAKE: Final = "mistake"
_MADE: Final = ("tokens-*.bin", "heldout-*.bin")
_ENCODED: Final = ("encoded-*", "train-*", "heldout-*", "assembled.*", "tokens-*")
# What becomes of damage: a scan says itself whether it depends on these.
_POLICY: Final = {"encoding", "invalid_bytes", "bad_records"}


class PreparationPlan(BaseModel):
    """What a preparation was begun with."""

    version: Literal[2] = 2
    settings: PreparationSettings
    sources: list[str]
    tokenizer_digest: str
    input: str


class State:
    """The state folder of an output folder, held by this process alone."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._agreed = False
        self.folder = output / STATE
        self._plan = self.folder / _PLAN
        self._mistake = self.folder / _MISTAKE

    def begin(self, *, restart: bool) -> None:
        """Make the folder; with ``restart``, without anything that was prepared before.

        Raises:
            DataError: The output is prepared already.
        """
        if restart:
            self._clear()
        elif (self.output / INDEX).exists() and not self._plan.exists():
            raise DataError(
                f"{printable(str(self.output))} is prepared already: choose another --output, or start over with "
                "--restart"
            )
        self.folder.mkdir(exist_ok=True)

    def agree(self, plan: PreparationPlan) -> None:
        """Go on with what was begun with the same plan, or begin.

        After a mistake another plan is what one expects; of the scans, those that still hold are used.

        Raises:
            DataError: A preparation with another plan was interrupted, and what it has done would be lost.
        """
        changed = self._changed(plan)
        if changed - _POLICY and not self._mistake.exists():
            raise DataError(
                f"{printable(str(self.output))} holds an unfinished preparation with another "
                f"{', '.join(sorted(changed - _POLICY))}: repeat it with the same to finish it, or start over with "
                "--restart"
            )
        if changed:
            for pattern in _ENCODED:
                for path in self.folder.glob(pattern):
                    path.unlink()
            for pattern in _MADE:
                for path in self.output.glob(pattern):
                    path.unlink()
        if changed or not self._plan.exists():
            write(self._plan, plan.model_dump_json())
        if self._mistake.exists():
            self._mistake.unlink()
        self._agreed = True

    def _changed(self, plan: PreparationPlan) -> set[str]:
        try:
            former = PreparationPlan.model_validate_json(self._plan.read_bytes())
        except FileNotFoundError:
            return set()
        except ValidationError as error:
            raise DataError(
                f"{printable(str(self.output))} holds an unfinished preparation by another version: run again with "
                "--restart"
            ) from error
        changed = {name for name in PreparationPlan.model_fields if getattr(former, name) != getattr(plan, name)}
        if "settings" in changed:
            changed.remove("settings")
            fields = PreparationSettings.model_fields
            changed |= {name for name in fields if getattr(former.settings, name) != getattr(plan.settings, name)}
        return changed

    def mistake(self) -> None:
        """Note that the run ended by a mistake in what was given; forget a state in which nothing is."""
        if self._agreed:
            self._mistake.touch()
        elif self.folder.exists() and not self._plan.exists():
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """Delete the state: the folder is prepared."""
        shutil.rmtree(self.folder)

    def _clear(self) -> None:
        """Delete what preparation makes in the output, and nothing else."""
        (self.output / INDEX).unlink(missing_ok=True)
        for pattern in _MADE:
            for path in self.output.glob(pattern):
                path.unlink()
        if self.folder.exists():
            shutil.rmtree(self.folder)


@contextmanager
def claimed(output: Path, *, restart: bool) -> Iterator[State]:
    """The state of ``output``, for this process alone.

    A mistake (DataError) is noted in it. Whatever else ends the run leaves the state to go on from.

    Raises:
        DataError: The output cannot be written, or another process is at it.
    """
    with _made(output), _locked(output):
        state = State(output)
        try:
            state.begin(restart=restart)
            yield state
        except OutOfReach:
            raise
        except DataError:
            with suppress(OSError):
                state.mistake()
            raise
        except OSError as error:
            raise DataError(
                f"{printable(str(output))} cannot be written: {error.strerror or error}; change that, then run the "
                "same command again to go on"
            ) from error


@contextmanager
def _made(output: Path) -> Iterator[None]:
    """``output``, which is gone again if it was not there before and nothing was begun in it."""
    there = output.is_dir()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the output folder {printable(str(output))} cannot be made: {error.strerror}") from error
    try:
        yield
    except DataError:
        if not there:
            with suppress(OSError):
                output.rmdir()
        raise


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    try:
        handle = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataError(f"the output folder {printable(str(output))} cannot be opened: {error.strerror}") from error
    try:
        try:
            ours = lock(handle)
        except OSError as error:
            raise DataError(f"{printable(str(output))} cannot be locked: {error.strerror}") from error
        if not ours:
            raise DataError(f"another preparation of {printable(str(output))} is running")
        yield
    finally:
        os.close(handle)


def write(path: Path, text: str) -> None:
    """Write a small file at once."""
    write_atomic(path, text)
