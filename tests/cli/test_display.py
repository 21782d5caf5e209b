"""What a run shows: figures, the live table, plain lines."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from photon.api.status import Condition, JobStatus, ParticipantState, ParticipantStatus, SourceStatus
from photon.terminal import display as displays
from photon.terminal import lines, units
from photon.terminal.display import Display
from photon.terminal.table import View, render


def participant(name: str, state: ParticipantState = ParticipantState.TRAINING, **more: Any) -> ParticipantStatus:
    figures: dict[str, Any] = {"step": 12, "tokens_per_second": 3120.5, "loss": 2.1034, "perplexity": 4.91}
    return ParticipantStatus(name=name, state=state, **{"in_cohort": True, **figures, **more})


def status(**more: Any) -> JobStatus:
    figures: dict[str, Any] = {
        "round": 37,
        "committed_rounds": 36,
        "rounds": 128,
        "participants": [participant("cpp"), participant("docs", ParticipantState.PUSHING)],
        "tokens": 2_100_000,
        "train_loss": 2.31,
        "validation_perplexity": 5.02,
        "evaluated_round": 32,
        "bytes_up": 121_000_000,
        "bytes_down": 143_000_000,
        "eta_seconds": 460.0,
    }
    return JobStatus(**{**figures, **more})


def shown(view: View, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(view, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def view(status: JobStatus | None, **more: Any) -> View:
    return View(
        **{"name": "demo", "phase": "waiting", "status": status, "local_steps": 16, "elapsed_seconds": 192.0, **more}
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (14_230_000, "14.2 MB"), (999_700_000, "1.00 GB"),
     (3.3e15, "3.30 PB"), (5e18, "5000 PB")],
)  # fmt: skip
def test_data_sizes(value: float | None, text: str) -> None:
    assert units.data_size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (12, "12"), (1234, "1.23k"), (2.1e6, "2.10M"), (99_960, "100k")]
)
def test_amounts(value: float | None, text: str) -> None:
    assert units.amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (7, "0:07"), (59.6, "1:00"), (761, "12:41"), (11229, "3:07:09"), (190_000, "2 d 04 h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (5.019, "5.02"), (1234.5, "1234"), (3e7, "3.00e+07")])
def test_perplexities(value: float | None, text: str) -> None:
    assert units.perplexity(value) == text


def test_the_table_shows_job_and_participants_in_80_columns() -> None:
    text = shown(view(status(), events=[("12:00:00", "worker-cpp died")], footer="watch it\nlogs in runs/demo/logs"))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("round 37/128", "28 %", "3:12", "7:40 left", "12/16", "5.02", "eval 32", "121 MB", "worker-cpp died"):
        assert part in text, part
    assert "…" not in text, "nothing has to be cut"


def test_columns_do_not_move_with_the_figures() -> None:
    def columns(status: JobStatus) -> int:
        return next(line for line in shown(view(status)).splitlines() if "participant" in line).index("up")

    few = status(participants=[ParticipantStatus(name="cpp")], bytes_up=0, bytes_down=0, validation_perplexity=None)
    assert columns(few) == columns(status())


def test_before_the_first_status_the_phase_is_shown() -> None:
    assert "waiting" in shown(view(None))


def test_a_long_list_is_cut_but_the_cohort_stays() -> None:
    people = [participant(f"p{i:03d}", in_cohort=i >= 90) for i in range(100)]
    text = shown(view(status(participants=people)))
    assert "p099" in text
    assert "and 76 more" in text


def test_a_commit_is_one_line_and_only_once() -> None:
    old, new = status(committed_rounds=35), status()
    line = lines.committed(old, new)
    assert line == "round  36/128  loss  2.310  tokens  2.10M  up   121 MB  down   143 MB  left    7:40"
    assert lines.committed(new, new) is None
    assert lines.committed(None, new) is None, "what was committed before this run began is no news"


def test_an_evaluation_is_one_line_with_every_participant() -> None:
    line = lines.evaluated(status(evaluated_round=24), status())
    assert line == "round  32/128  perplexity 5.02  (cpp 4.91  docs 4.91)"
    assert lines.evaluated(status(), status()) is None


def test_a_perplexity_says_what_it_is_of() -> None:
    part = status(evaluated_participants=1, coverage=0.094, baseline_perplexity=12.3)
    line = lines.evaluated(status(evaluated_round=24), part)
    assert line is not None
    assert "; of 1 of 2 participants; on 9 % of the held-out text; before training 12.30)" in line
    assert "perplexity of 1 of 2 participants; on 9 % of the held-out text" in shown(view(part))
    assert lines.measured_on(status(evaluated_participants=2, coverage=1.0)) == "", "all of it needs no words"
    assert lines.measured_on(status(evaluated_round=0, baseline_perplexity=5.02)) == "", "the baseline itself"


def test_folders_of_a_participant_have_their_own_perplexity() -> None:
    sources = [SourceStatus(name="code", perplexity=2.5), SourceStatus(name="law", perplexity=31.0)]
    text = shown(view(status(participants=[participant("cpp", sources=sources)])))
    assert re.search(r"^ *code +2\.50", text, re.MULTILINE)
    assert re.search(r"^ *law +31\.00", text, re.MULTILINE)


def test_a_refusal_is_told_once_with_its_reason() -> None:
    refused = participant("cpp", ParticipantState.REFUSED, message="NormTooLarge: 7 > 3")
    new = status(participants=[refused])
    assert lines.troubles(status(), new) == ["cpp refused in round 37: NormTooLarge: 7 > 3"]
    assert lines.troubles(new, new) == []


def test_a_participant_that_goes_is_told_but_one_that_has_not_come_yet_is_not() -> None:
    gone = status(participants=[participant("cpp", ParticipantState.ABSENT)])
    assert lines.troubles(status(), gone) == ["cpp absent in round 37"]
    assert lines.troubles(None, gone) == []


def test_in_a_pipe_there_are_plain_lines_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "events.jsonl"
    with Display(name="demo", local_steps=16, footer="", events_path=events, quiet=False) as display:
        display.phase("starting")
        display.page("http://127.0.0.1:4711/")
        display.status(status(committed_rounds=35))
        display.status(status())
        display.event("worker-cpp died")
    text = capsys.readouterr().out
    assert [line[9:] for line in text.splitlines()] == [
        "starting",
        "watch it at http://127.0.0.1:4711/",
        "round  36/128  loss  2.310  tokens  2.10M  up   121 MB  down   143 MB  left    7:40",
        "worker-cpp died",
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    (event,) = map(json.loads, events.read_text().splitlines())
    assert (event["kind"], event["message"]) == ("event", "worker-cpp died")


def test_plain_lines_do_not_fall_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = threading.Event()
    monkeypatch.setattr(displays, "SILENCE_SECONDS", 0.0)
    doing = Display._doing

    def noticed(display: Display) -> str:
        said.set()
        return doing(display)

    monkeypatch.setattr(Display, "_doing", noticed)
    with Display(name="demo", local_steps=16, footer="", events_path=None, quiet=False) as display:
        display.phase("making the initial model")
        assert said.wait(30)
        display.status(status())
        said.clear()
        assert said.wait(30)
        said.clear()
        display.phase("fetching the model")
        assert said.wait(30)
    text = capsys.readouterr().out
    for line in ("still making the initial model", "round 37/128  cpp 12/16  docs pushing", "still fetching the model"):
        assert line in text


def test_what_a_job_waits_for_is_said_in_its_words() -> None:
    message = "1 of 2 participants are here"
    waiting = Condition(
        type="Running", status="True", reason="WaitingForQuorum", message=message, last_transition_time="now"
    )
    assert lines.condition([waiting]) == f"Running (WaitingForQuorum): {message}"
    training = waiting.model_copy(update={"reason": "Training", "message": ""})
    assert lines.condition([training]) == ""


def test_what_a_job_waits_for_is_said_again_when_more_of_it_is_new_than_its_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display(name="j", local_steps=16, footer="", events_path=None, quiet=False) as display:
        for doing in ("Training, step 3 of 16", "Training, step 4 of 16", "Uploading"):
            display.condition(f"Running (WaitingForQuorum): round 3 lacks north ({doing})")
    said = [line.split("north")[1] for line in capsys.readouterr().out.splitlines()]
    assert said == [" (Training, step 3 of 16)", " (Uploading)"]


def test_a_participant_that_failed_for_good_is_marked_in_the_table() -> None:
    (row,) = [line for line in shown(view(status(), lost={"cpp"})).splitlines() if "cpp" in line]
    assert "failed" in row


def test_quiet_says_nothing_but_keeps_the_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = tmp_path / "events.jsonl"
    with Display(name="demo", local_steps=16, footer="", events_path=events, quiet=True) as display:
        display.status(status())
        display.event("worker-cpp died")
    assert capsys.readouterr().out == ""
    assert "worker-cpp died" in events.read_text()
