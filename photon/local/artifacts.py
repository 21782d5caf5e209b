"""What a run leaves beside its bucket: the last global model as a Hugging Face folder, the history, the summary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.files import write_atomic
from photon.local.run_folder import RunDirectory
from photon.protocol.records import Commit
from photon.report import history as histories
from photon.report.history import History
from photon.report.page import render
from photon.report.summary import summarise
from photon.store import transfer
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon.terminal import units

# In the checkpoint's folder: the commit it belongs to. An ordinary loader does not mind it.
_COMMIT_FILE: Final = "photon_commit.json"
_URL_SECONDS: Final = 3600


def export_history(store: ObjectStore, run: RunDirectory, job: FederatedTrainingJob) -> History:
    """Write history.jsonl from the bucket and the run's events, and give it back."""
    settings = job.model_dump(mode="json", by_alias=True, exclude={"status"})
    own = run.events.read_text(encoding="utf-8").splitlines() if run.events.exists() else []
    first = json.dumps({"kind": "settings", "record": settings})
    write_atomic(run.history, (f"{line}\n" for line in chain([first], histories.read_bucket(store), own)))
    with run.history.open(encoding="utf-8") as lines:
        return histories.parse(lines, name=run.root.name)


def write_figures(run: RunDirectory, history: History, *, with_checkpoint: bool) -> dict[str, Any]:
    """Write summary.json and report.html; gives the summary back."""
    summary = summarise(history, checkpoint=str(run.checkpoint) if with_checkpoint else None)
    write_atomic(run.summary, json.dumps(summary, indent=2) + "\n")
    write_atomic(run.report, render([history]))
    return summary


def leave_behind(store: ObjectStore, run: RunDirectory, job: FederatedTrainingJob) -> str | None:
    """Of a run that did not complete: write its history and figures, and say where what it reached is.

    None when it reached nothing, or when the store or the disk is what failed: that is said already.
    """
    try:
        history = export_history(store, run, job)
        if history.last_round < 0:
            return None
        write_figures(run, history, with_checkpoint=False)
    except (StoreError, OSError, ValueError):
        return None
    folder = history.commits[history.last_round].folder
    return (
        f"round {history.last_round} of {job.spec.rounds} is reached: its model is {store.uri(folder)}, "
        f"figures are in {run.shown}/report.html"
    )


def download_checkpoint(store: ObjectStore, run: RunDirectory, history: History) -> None:
    """Fetch the last global model into the run's folder, verified; the outer optimizer's state stays in the bucket.

    The folder appears whole or not at all; one that holds this commit already is kept.
    """
    digest = history.digests[history.last_round]
    if _holds(run.checkpoint, digest):
        return
    commit = history.commits[history.last_round]
    partial = run.root / ".checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _fetch(store, commit, partial)
        record = {"round": commit.round, "commit": digest, "uri": store.uri(commit.folder)}
        write_atomic(partial / _COMMIT_FILE, json.dumps(record, indent=2) + "\n")
        if run.checkpoint.exists():
            shutil.rmtree(run.checkpoint)
        partial.rename(run.checkpoint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _holds(checkpoint: Path, digest: str) -> bool:
    marker = checkpoint / _COMMIT_FILE
    return marker.is_file() and json.loads(marker.read_text(encoding="utf-8")).get("commit") == digest


def _fetch(store: ObjectStore, commit: Commit, folder: Path) -> None:
    for file in commit.files:
        url = store.presign_get(f"{commit.folder}/{file.name}", valid_seconds=_URL_SECONDS)
        transfer.download(url, folder / file.name, file=file)


def closing_words(run: RunDirectory, job: FederatedTrainingJob, summary: dict[str, Any]) -> Sequence[str]:
    """What a person does next with the model."""
    own = ", ".join(f"{n} {units.perplexity(p)}" for n, p in summary["perplexity_by_participant"].items())
    before, covered = summary["baseline_perplexity"], summary["coverage"]
    notes = [own] if own else []
    if covered is not None and covered < 1:
        notes.append(f"on {units.share(covered)} of the held-out text")
    if before is not None:
        notes.append(f"before training {units.perplexity(before)}")
    measured = units.perplexity(summary["validation_perplexity"])
    evaluated = f"perplexity {measured} ({'; '.join(notes)}), " if own else ""
    return [
        f"{job.metadata.name}: round {summary['rounds']}, {evaluated}{units.amount(summary['tokens'])} tokens in "
        f"{units.duration(summary['wall_seconds'])}",
        "",
        f"checkpoint  {run.shown}/checkpoint  (commit {summary['last_commit'][:12]})",
        f"report      {run.shown}/report.html",
        f"figures     {run.shown}/summary.json",
        "",
        "Load the model:",
        "    from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'    model = AutoModelForCausalLM.from_pretrained("{run.shown}/checkpoint")',
        f'    tokenizer = AutoTokenizer.from_pretrained("{run.shown}/checkpoint")',
    ]
