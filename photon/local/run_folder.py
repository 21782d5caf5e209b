"""A run's folder: what is where, one `photon run` at a time, and the participants' bearer tokens."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from photon.api.job import FederatedTrainingJob
from photon.api.join import JoinedJob
from photon.errors import UserError
from photon.files import lock, write_atomic


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """``runs/<name>``; all paths absolute."""

    root: Path

    @property
    def job(self) -> Path:
        """The job as it runs: paths and the endpoint filled in."""
        return self.root / "job.yaml"

    @property
    def store(self) -> Path:
        """Data of the embedded object store."""
        return self.root / "store"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Local checkpoints of the workers, a folder each."""
        return self.root / "work"

    @property
    def tokens(self) -> Path:
        """A file per participant with its bearer token; ``digests.json`` is what the aggregator gets."""
        return self.root / "tokens"

    @property
    def access(self) -> Path:
        """Who may join from elsewhere: written by photon invite, admit and revoke, read by the aggregator."""
        return self.root / "access.json"

    @property
    def door(self) -> Path:
        """Where other institutions reach this run."""
        return self.root / "door.json"

    @property
    def gate(self) -> Path:
        """Of a run that joined a job of another institution: the gate's own files, the ledger among them."""
        return self.root / "gate"

    @property
    def status(self) -> Path:
        """Of a run that joined a job of another institution: the last status that its gate told."""
        return self.root / "status.json"

    @property
    def key_path(self) -> Path:
        """Of a run that joined a job of another institution: which file holds the key that it enrolled with."""
        return self.root / "identity.path"

    @property
    def checkpoint(self) -> Path:
        """The last global model, a Hugging Face folder."""
        return self.root / "checkpoint"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def events(self) -> Path:
        """What happened to the processes, a line of JSON each."""
        return self.root / "events.jsonl"

    @property
    def address(self) -> Path:
        """While a run is under way: the URL of its aggregator, and the process that runs it, a line each."""
        return self.root / "aggregator.url"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    @property
    def shown(self) -> str:
        """The folder as a person would type it."""
        return shown(self.root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; it is made if need be. The lock ends with the process, however that ends.

        Raises:
            UserError: Another run holds it.
        """
        for folder in (self.root, self.logs, self.work, self.tokens):
            folder.mkdir(parents=True, exist_ok=True)
        self.tokens.chmod(0o700)
        with (self.root / "lock").open("a+") as file:
            if not lock(file.fileno()):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(
                    f"{self.shown} is in use by another photon run (process {holder}): wait for it, stop it, "
                    "or choose another name with --name"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def write_job(self, job: FederatedTrainingJob | JoinedJob) -> None:
        text = yaml.safe_dump(job.model_dump(mode="json", by_alias=True, exclude={"status"}), sort_keys=False)
        write_atomic(self.job, f"# Written by photon run: the job as it runs, with every default.\n{text}")

    def make_tokens(self, participants: Sequence[str]) -> tuple[Path, dict[str, str]]:
        """A token per participant, kept from run to run so that remote workers need not be told again.

        Returns the path of the digests (for the aggregator) and the tokens themselves by participant.
        """
        tokens = {name: self._token(name) for name in participants}
        digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in tokens.items()}
        path = self.tokens / "digests.json"
        write_atomic(path, json.dumps(digests, indent=1))
        return path, tokens

    def _token(self, participant: str) -> str:
        path = self.tokens / f"{participant}.token"
        if path.exists() and (token := path.read_text(encoding="utf-8").strip()):
            return token
        token = secrets.token_urlsafe(32)
        write_atomic(path, token, mode=0o600)
        return token


def find_run(text: str) -> RunDirectory:
    """The folder of a run, by itself or by its name below runs/. Raises UserError: there is none."""
    for folder in (Path(text), Path("runs") / text):
        if (folder / "job.yaml").is_file():
            return RunDirectory(folder.resolve())
    raise UserError(f"{text}: there is no such run; give its folder (runs/NAME), or its name below runs/")


def shown(path: Path) -> str:
    """``path`` relative to the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
