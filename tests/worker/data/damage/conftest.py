"""What the damage suite shares: the command line in this process, and the documents that came out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from photon_worker.commands.data import app
from photon_worker.data import TokenDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How ``photon data prepare`` ended, and what it made."""

    status: int
    out: str
    err: str
    output: Path

    @property
    def error(self) -> str:
        """The one line that a user reads."""
        said = [line for line in self.err.splitlines() if not line.startswith(("reading: ", "encoding: ", "writing: "))]
        assert len(said) == 1, said
        assert self.status == 2
        assert "Traceback" not in self.err
        assert not (self.output / "index.json").exists(), "nothing is written as complete"
        return said[0]

    @property
    def index(self) -> dict[str, Any]:
        assert self.status == 0, self.err
        content: dict[str, Any] = json.loads((self.output / "index.json").read_text())
        return content

    @property
    def texts(self) -> list[str]:
        """The training documents, in order."""
        assert self.status == 0, self.err
        dataset = TokenDataset.open(self.output, verify=True)
        tokens = np.empty(dataset.tokens, dtype=np.int64)
        dataset.read(0, tokens)
        ends = np.flatnonzero(tokens == dataset.index.end_of_text)
        starts = [0, *(ends[:-1] + 1)]
        return [bytes(tokens[a:b].tolist()).decode() for a, b in zip(starts, ends, strict=True)]


Prepare = Callable[..., Outcome]


@pytest.fixture
def photon_data(tmp_path: Path) -> Prepare:
    """``photon_data(INPUT, ..., OPTION, ..., stdin=b"", output=PATH)``: everything is trained on."""

    def run(*arguments: object, stdin: bytes | None = None, output: Path = tmp_path / "prepared") -> Outcome:
        given = ["prepare", *map(str, arguments), "--output", str(output), "--workers", "1"]
        if not any(argument.startswith("--held-out") for argument in given):
            given += ["--held-out-fraction", "0"]
        result = CliRunner().invoke(app, given, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(status=result.exit_code, out=result.stdout, err=result.stderr, output=output)

    return run
