"""History, figures and the report: one file, nothing fetched, nothing executed that comes from a run."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.cli.sources.stored_run import from_history
from photon.errors import PhotonError, UserError
from photon.local.object_store import EmbeddedStore
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.figures import pooled_perplexity
from photon.protocol.records import (
    AcceptedUpdate,
    Commit,
    Evaluation,
    HeldOutResult,
    HeldOutSums,
    LearningMetrics,
    ParticipantLog,
    RollbackReason,
    RoundLog,
)
from photon.protocol.rollback import rollback_commit
from photon.report.columns import chain, events, run_data, settings
from photon.report.history import History, load, parse, read_bucket
from photon.report.page import json_block, render
from photon.report.summary import elapsed, summarise
from photon.store import keys
from photon.store.objects import ObjectStore
from tests.faults import FaultProxy
from tests.opened import OpenStore

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028&"
NAMES = ("cpp", "docs")
SHA = "a" * 64


def commits(rounds: int) -> list[Commit]:
    made: list[Commit] = []
    for number in range(rounds + 1):
        accepted = [
            AcceptedUpdate(
                participant=n, manifest=SHA, weight=0.5, tokens=100, norm=1.0, cosine_to_mean=0.9, loss_mean=2.0
            )
            for n in (NAMES if number else ())
        ]
        metrics = LearningMetrics(
            pseudo_gradient_norm=1.0,
            model_norm=60.0,
            momentum_norm=None,
            consensus=0.6,
            mean_pairwise_cosine=0.4,
            gradient_noise_scale=None,
            train_loss=5.0 - number,
        )
        made.append(
            Commit(
                job=SHA,
                round=number,
                previous=digest(made[-1]) if made else None,
                plan=SHA if number else None,
                folder="f",
                files=[],
                outer_steps=number,
                accepted=accepted,
                tokens=200 * number,
                sequential_steps=16 * number,
                metrics=metrics if number else None,
            )
        )
    return made


def log(number: int) -> RoundLog:
    shares = {
        n: ParticipantLog(outcome="accepted", seconds={"train": 3.0}, tokens=100, bytes_up=10, bytes_down=20)
        for n in NAMES
    }
    start = 10 * number
    return RoundLog(
        round=number,
        started_at=f"2026-01-01T00:00:{start:02d}Z",
        committed_at=f"2026-01-01T00:00:{start + 4:02d}Z",
        seconds={"train": 3.0, "merge": 0.5},
        participants=shares,
        bytes_up=20,
        bytes_down=40,
    )


def evaluation(number: int, name: str, loss: float, tokens: int) -> Evaluation:
    result = HeldOutResult(loss_sum=loss * tokens, tokens=tokens, bytes=tokens)
    return Evaluation(job=SHA, round=number, commit=SHA, participant=name, result=result)


def lines(rounds: int = 3) -> list[str]:
    def line(kind: str, record: Any, **more: str) -> str:
        return json.dumps({"kind": kind, "record": record.model_dump(mode="json", by_alias=True), **more})

    found = [json.dumps({"kind": "settings", "record": {"spec": {"rounds": rounds, "note": HOSTILE}}})]
    found += [line("commit", c, digest=digest(c)) for c in commits(rounds)]
    found += [line("log", log(n)) for n in range(1, rounds + 1)]
    found += [line("evaluation", evaluation(2, "cpp", 1.0, 100)), line("evaluation", evaluation(2, "docs", 2.0, 300))]
    found.append(json.dumps({"kind": "event", "time": "2026", "message": HOSTILE}))
    return found


@pytest.fixture
def history() -> History:
    return parse(lines(), name="demo")


def test_the_summary_has_the_runs_figures(history: History) -> None:
    summary = summarise(history, checkpoint="/x")
    assert summary["rounds"] == 3
    assert summary["tokens"] == 600
    assert summary["evaluated_round"] == 2
    assert summary["validation_loss"] == pytest.approx(1.75)
    assert summary["validation_perplexity"] == pytest.approx(math.exp(1.75)), "one perplexity over all tokens"
    assert summary["perplexity_by_participant"] == {"cpp": pytest.approx(math.e), "docs": pytest.approx(math.e**2)}
    assert (summary["bytes_up"], summary["bytes_down"]) == (60, 120)
    assert summary["wall_seconds"] == 12.0
    assert summary["training_seconds"] == 18.0
    assert summary["last_commit"] == digest(commits(3)[-1])
    assert summary["checkpoint"] == "/x"


def measured(number: int, name: str, loss: float, tokens: int, held_out: int) -> str:
    """An evaluation of two data folders, a and b."""
    one = evaluation(number, name, loss, tokens)
    half = HeldOutSums(loss_sum=one.result.loss_sum / 2, tokens=tokens // 2, bytes=tokens // 2, held_out=held_out // 2)
    result = one.result.model_copy(update={"held_out": held_out, "sources": {"a": half, "b": half}})
    record = one.model_copy(update={"result": result}).model_dump(mode="json", by_alias=True)
    return json.dumps({"kind": "evaluation", "record": record})


def test_figures_say_of_how_much_text_they_are_and_what_the_checkpoint_was_before() -> None:
    given = [line for line in lines() if '"evaluation"' not in line]
    given += [
        measured(0, "cpp", 3.0, 100, 1000),
        measured(2, "cpp", 1.0, 100, 1000),
        measured(2, "docs", 2.0, 300, 300),
    ]
    history = parse(given, name="demo")
    summary = summarise(history)
    assert summary["baseline_perplexity"] == pytest.approx(math.e**3)
    assert summary["evaluated_participants"] == 2
    assert summary["coverage"] == pytest.approx(400 / 1300)
    folder = summary["held_out"]["cpp"]["a"]
    assert (folder["tokens"], folder["held_out"]) == (50, 500)
    assert folder["perplexity"] == pytest.approx(math.e)
    assert folder["baseline_perplexity"] == pytest.approx(math.e**3)
    assert summary["held_out"]["docs"][""]["baseline_perplexity"] is None
    assert run_data(history)["series"]["validation_perplexity"][0] == pytest.approx(math.e**3), "the curve begins there"

    status = from_history(history, rounds=3)
    assert (status.evaluated_participants, status.coverage) == (2, pytest.approx(400 / 1300))
    assert status.baseline_perplexity == pytest.approx(math.e**3)
    cpp = next(person for person in status.participants if person.name == "cpp")
    assert cpp.coverage == pytest.approx(0.1)
    assert [(one.name, one.coverage) for one in cpp.sources] == [("a", pytest.approx(0.1)), ("b", pytest.approx(0.1))]


def test_of_evaluations_of_an_earlier_release_the_coverage_is_not_known(history: History) -> None:
    summary = summarise(history)
    assert (summary["coverage"], summary["baseline_perplexity"]) == (None, None)
    assert set(summary["held_out"]["cpp"]) == {""}


def test_a_run_without_any_round_has_a_summary_of_nulls() -> None:
    summary = summarise(parse([], name="x"))
    assert summary["validation_perplexity"] is None
    assert summary["rounds"] == summary["tokens"] == 0


def test_pauses_between_rounds_do_not_count(history: History) -> None:
    assert elapsed(history) == {0: 0.0, 1: 4.0, 2: 8.0, 3: 12.0}


def test_perplexity_of_a_broken_model_stays_a_number() -> None:
    result = HeldOutResult(loss_sum=1e6, tokens=10, bytes=10)
    value = pooled_perplexity([result])
    assert value is not None
    assert math.isfinite(value)


def test_columns_have_an_entry_per_round(history: History) -> None:
    data = run_data(history)
    columns = [*data["x"].values(), *data["series"].values(), *data["phases"].values()]
    columns += [c for p in data["participants"].values() for c in p.values()]
    assert {len(column) for column in columns} == {4}
    assert data["series"]["train_loss"] == [None, 4.0, 3.0, 2.0]
    assert data["series"]["validation_perplexity"] == [None, None, pytest.approx(math.exp(1.75)), None]
    assert data["series"]["bytes_up"] == [0, 20, 40, 60]
    assert data["series"]["tokens_per_second"] == [None, 50.0, 50.0, 50.0]
    assert set(data["phases"]) == {"train", "merge"}
    assert set(data["participants"]) == set(NAMES)


def test_a_rollback_is_told_and_checked(history: History) -> None:
    last, target = history.commits[2], history.commits[1]
    made = rollback_commit(
        last, digest(last), target, digest(target), reason=RollbackReason.OPERATOR, message="the loss rose"
    )
    history.commits[3], history.digests[3] = made, digest(made)
    row = chain(history)[0]
    assert row["linked"]
    assert row["rollback"] == "the model of round 1 again (Operator: the loss rose)"
    assert target.metrics is not None
    assert summarise(history)["train_loss"] == target.metrics.train_loss
    history.commits[3] = made.model_copy(update={"folder": "elsewhere"})
    assert not chain(history)[0]["linked"]


def test_the_chain_is_checked(history: History) -> None:
    assert all(row["linked"] for row in chain(history))
    history.digests[1] = "b" * 64
    assert [row["round"] for row in chain(history) if not row["linked"]] == [2]


def test_settings_are_flat_and_named() -> None:
    record = {"spec": {"local": {"steps": 4, "compile": True}, "participants": [{"name": "a", "worker": {"nodes": 1}}]}}
    flat = settings(parse([json.dumps({"kind": "settings", "record": record})], name="x"))
    assert ("local.steps", "4") in flat
    assert ("local.compile", "true") in flat
    assert ("participants[a].worker.nodes", "1") in flat


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_report_is_one_file_that_fetches_nothing(history: History) -> None:
    page = _Page()
    page.feed(render([history]))
    assert page.tags.count("script") == 3
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert "default-src 'none'" in policy


def test_nothing_from_a_run_becomes_markup(history: History) -> None:
    history.name = HOSTILE
    text = render([history])
    assert "onerror=alert" not in re.sub(
        r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL
    ).replace("&lt;img src=x onerror=alert", "")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert not set("<>&\u2028") & set(data[1])
    assert json.loads(data[1])[0]["events"][0]["message"] == HOSTILE


def test_json_block_round_trips() -> None:
    assert json.loads(json_block({"a": HOSTILE})) == {"a": HOSTILE}
    with pytest.raises(ValueError, match="JSON"):
        json_block(float("nan"))


def test_several_runs_are_one_page(history: History) -> None:
    text = render([history, parse(lines(2), name="other")])
    assert "<title>demo · other - Photon report</title>" in text


def run_report(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "from photon.cli.main import main; main()", "report", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **environment}, timeout=120, check=False)
    return done.returncode, done.stderr.decode()


def test_a_report_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    folder = tmp_path / "höhe"
    folder.mkdir()
    (folder / "history.jsonl").write_text("\n".join(lines()), encoding="utf-8")
    code, errors = run_report(folder, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (code, errors) == (0, "")
    assert "höhe" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("\n".join(lines()), encoding="utf-8")
    (tmp_path / "taken").mkdir()
    code, errors = run_report(tmp_path, "--output", str(tmp_path / "taken"))
    assert code == 2
    assert errors == f"error: {tmp_path}/taken cannot be written: is a directory; choose another file with --output\n"


@pytest.mark.parametrize("rounds", [-1, 0])
def test_there_is_no_report_before_the_first_round(tmp_path: Path, rounds: int) -> None:
    (tmp_path / "history.jsonl").write_text("\n".join(lines(0)[: 1 + (rounds == 0)]), encoding="utf-8")
    code, errors = run_report(tmp_path)
    assert code == 2
    assert "has no rounds yet" in errors


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no history\.jsonl"):
        load(tmp_path)


def test_a_broken_history_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("\n".join([*lines(), "{nonsense"]))
    with pytest.raises(PhotonError, match=rf"line {len(lines()) + 1} "):
        load(tmp_path)


@pytest.mark.s3
def test_the_history_of_a_bucket(store: ObjectStore) -> None:
    made = commits(2)
    for commit in made:
        store.put(keys.commit(commit.round), canonical_json(commit))
    store.put(keys.round_log(1), canonical_json(log(1)))
    store.put(keys.evaluation(2, "cpp"), canonical_json(evaluation(2, "cpp", 1.0, 10)))
    store.put(f"{keys.updates_folder(1)}/cpp/manifest.json", b"{}")
    entries = [
        {"sequence": 1, "at": "2026-01-01T00:00:00.000Z", "kind": "RoundPlanned", "round": 1},
        {"sequence": 2, "at": "2026-01-01T00:00:01.000Z", "kind": "UpdateRefused", "round": 1, "participant": "cpp",
         "reason": "NotFinite", "message": "NaN in part 0"},
        {"sequence": 3, "at": "2026-01-01T00:00:02.000Z", "kind": "OfALaterRelease", "round": 1, "site": "north"},
    ]  # fmt: skip
    written = [*(json.dumps(e) for e in entries), '{"kind": "RoundClosed"}', '{"cut off']
    store.put(keys.round_events(1), "".join(line + "\n" for line in written).encode())
    history = parse(read_bucket(store), name="x")
    assert history.commits == {c.round: c for c in made}
    assert history.digests == {c.round: digest(c) for c in made}
    assert list(history.logs) == [1]
    assert list(history.evaluations[2]) == ["cpp"]
    assert [e.record and e.record.sequence for e in history.events] == [1, 2, 3]
    assert events(history) == [
        {"time": "2026-01-01T00:00:01.000Z", "message": "round 1: UpdateRefused cpp NotFinite: NaN in part 0"},
        {"time": "2026-01-01T00:00:02.000Z", "message": "round 1: OfALaterRelease"},
    ]
    (kept,) = [json.loads(line)["event"] for line in read_bucket(store) if "OfALaterRelease" in line]
    assert kept == entries[2], "an event is kept whole"


def test_a_long_history_is_read_some_records_at_a_time(
    s3: EmbeddedStore, store: ObjectStore, storage: StorageSpec, open_store: OpenStore
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(keys.round_log(number), b"{}"), range(600)))
    with FaultProxy(s3.endpoint) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        reading = read_bucket(open_store(spec))
        assert json.loads(next(reading))["kind"] == "log"
        assert proxy.seen("GET") < 300
        assert sum(1 for _ in reading) == 599
