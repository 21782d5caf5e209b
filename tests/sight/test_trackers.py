"""Trackers: TensorBoard and W&B per participant and for the job; lines of JSON always; nothing costs a round."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from photon.report.history import load
from photon.telemetry import trackers as trackers_module
from photon.telemetry.trackers import Kind, Subject, TrackerError, Trackers, kinds
from tests.end_to_end.whole_runs import PROGRAMS
from tests.sight.running import LiveRun, TrackedRun

Points = dict[str, list[tuple[int, float]]]


def events(folder: Path) -> Iterator[bytes]:
    """The records of the event files in ``folder``: length, checksum, data, checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield data[12 : 12 + length]
            data = data[16 + length :]


def scalars(folder: Path) -> Points:
    """Step and value of every scalar, by its tag, in the order of writing."""
    from tensorboardX.proto.event_pb2 import Event

    found: Points = defaultdict(list)
    for record in events(folder):
        event = Event.FromString(record)
        for value in event.summary.value:
            found[value.tag].append((event.step, value.simple_value))
    return dict(found)


@pytest.mark.sight
def test_the_job_is_in_tensorboard_a_step_a_round(tracked: TrackedRun) -> None:
    found = scalars(tracked.run.folder / "trackers" / "job")
    history = load(tracked.run.folder)
    for number in (1, 2):
        commit = history.commits[number]
        assert commit.metrics is not None
        assert dict(found["loss/train"])[number] == pytest.approx(commit.metrics.train_loss)
        assert dict(found["tokens"])[number] == commit.tokens
        assert dict(found["seconds/train"])[number] > 0
    assert [step for step, _ in found["perplexity/validation"]] == [1, 2]
    for name in ("north", "south"):
        assert [step for step, _ in found[f"participants/{name}/loss"]] == [1, 2]
        assert [step for step, _ in found[f"participants/{name}/perplexity"]] == [1, 2]
    assert {"norm/pseudo_gradient", "norm/momentum", "agreement/consensus", "exchange/bytes_up"} <= found.keys()


@pytest.mark.sight
@pytest.mark.parametrize("name", ["north", "south"])
def test_each_participant_is_in_tensorboard_on_the_global_step_clock(tracked: TrackedRun, name: str) -> None:
    found = scalars(tracked.run.folder / "trackers" / "participants" / name)
    steps = [step for step, _ in found["train/loss"]]
    assert steps == sorted(set(steps))
    assert {40, 80} <= set(steps), "the last step of each round is always there"
    assert [step for step, _ in found["validation/perplexity"]] == [40, 80]
    assert [value for _, value in found["round/accepted"]] == [1.0, 1.0]


@pytest.mark.sight
@pytest.mark.parametrize(
    ("folder", "tag"),
    [("job", b"loss/validation"), ("participants/north", b"train/loss"), ("participants/south", b"train/loss")],
)
def test_wandb_has_a_run_for_each_without_network(tracked: TrackedRun, folder: str, tag: bytes) -> None:
    (file,) = (tracked.run.folder / "trackers" / folder).glob("wandb/offline-run-*/run-*.wandb")
    assert tag in file.read_bytes()


@pytest.mark.sight
def test_lines_of_json_are_there_always(tracked: TrackedRun, live: LiveRun) -> None:
    for run, name in ((tracked.run, "north"), (live.run, "south")):
        lines = [json.loads(line) for line in (run.folder / "work" / name / "metrics.jsonl").read_text().splitlines()]
        kinds_ = {line["kind"] for line in lines}
        assert kinds_ == {"step", "round", "evaluation"}
        step = next(line for line in lines if line["kind"] == "step" and line["step"] == 40)
        assert step["round"] == 1
        assert 0 < step["loss"] < 10
        assert 0 < step["learningRate"] <= 3e-3
        judged = next(line for line in lines if line["kind"] == "round")
        assert (judged["outcome"], judged["round"]) == ("accepted", 1)
        assert judged["seconds"]["train"] > 0
    kept = {json.loads(line)["kind"] for line in (tracked.run.folder / "history.jsonl").read_text().splitlines()}
    assert kept == {"settings", "job", "commit", "log", "evaluation", "event"}


@pytest.mark.sight
def test_trackers_are_off_by_default(live: LiveRun) -> None:
    assert not (live.run.folder / "trackers").exists()


def subject(**more: object) -> Subject:
    return Subject(job="llm", participant="north", axis="step", **more)  # type: ignore[arg-type]


def test_a_process_that_is_started_again_hides_what_it_does_again(tmp_path: Path) -> None:
    with Trackers([Kind.TENSORBOARD], folder=tmp_path, subject=subject()) as first:
        assert first.last_step is None
        first.log(10, {"loss": 3.0})
        first.log(20, {"loss": float("nan"), "speed": 1.0, "mfu": None})
    with Trackers([Kind.TENSORBOARD], folder=tmp_path, subject=subject()) as second:
        assert second.last_step == 20
        second.log(30, {"loss": 2.0})
    found = scalars(tmp_path / "participants" / "north")
    assert found == {"loss": [(10, 3.0), (30, 2.0)], "speed": [(20, 1.0)]}


class Broken:
    """A tracker whose disk is full."""

    def log(self, *_: object) -> None:
        raise OSError("No space left on device")

    def close(self) -> None:
        raise AssertionError("it was left out")


def test_a_tracker_that_fails_is_said_once_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trackers = Trackers([Kind.TENSORBOARD], folder=tmp_path, subject=subject())
    trackers._open[Kind.WANDB] = Broken()
    for step in (1, 2, 3):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert [record.message for record in caplog.records] == ["the tracker wandb failed and is left out from now on"]
    assert [step for step, _ in scalars(tmp_path / "participants" / "north")["loss"]] == [1, 2, 3]


def test_names_with_commas_each_once() -> None:
    assert kinds(["tensorboard, wandb", "tensorboard", ""]) == [Kind.TENSORBOARD, Kind.WANDB]
    with pytest.raises(TrackerError, match="--tracker mlflow: there is no such tracker; there are tensorboard, wandb"):
        kinds(["mlflow"])


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("tensorboardX", "pip install 'photon[tensorboard]'"),
        ("wandb", "pip install 'photon[wandb]'"),
    ],
)
def test_a_run_goes_on_without_a_tracker_that_is_not_installed(library: str, message: str, tmp_path: Path) -> None:
    kind = "tensorboard" if library == "tensorboardX" else library
    code = f"""
import sys
sys.modules[{library!r}] = None
from pathlib import Path
from photon.telemetry.trackers import *
with Trackers(
    [Kind({kind!r})], folder=Path({str(tmp_path)!r}), subject=Subject(job="j", participant=None, axis="round")
) as trackers:
    trackers.log(1, {{"loss": 1.0}})
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert message in done.stderr
    assert "goes on without it" in done.stderr


def test_a_run_goes_on_without_a_tracker_that_cannot_begin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As W&B without a key."""

    def refuses(*_: object) -> NoReturn:
        raise RuntimeError("api_key not configured")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trackers_module._MAKERS, Kind.WANDB, refuses)
        trackers = Trackers([Kind.WANDB, Kind.TENSORBOARD], folder=tmp_path, subject=subject())
    with trackers:
        trackers.log(1, {"loss": 1.0})
    assert [record.message for record in caplog.records] == ["the tracker wandb cannot begin and is left out"]
    assert scalars(tmp_path / "participants" / "north")["loss"] == [(1, 1.0)]


@pytest.mark.parametrize("program", ["photon-aggregator", "photon-worker"])
def test_an_unknown_tracker_is_a_mistake_before_anything_starts(program: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "apiVersion: photon.dev/v1alpha1\nkind: FederatedTrainingJob\nmetadata: {name: llm}\n"
        "spec: {model: {preset: llama-1m}, rounds: 1, storage: {endpoint: http://127.0.0.1:1, bucket: photon},"
        " participants: [{name: north, remote: {}}]}\n"
    )
    command = {
        "photon-aggregator": ["--job", str(job), "--tokens", str(job)],
        "photon-worker": ["run", "--aggregator", "http://127.0.0.1:1", "--data", "d", "--work-dir", str(tmp_path)],
    }[program]
    environment = {"PATH": "/usr/bin:/bin", "PHOTON_TRACKERS": "mlflow", "PHOTON_TOKEN": "t"}
    done = subprocess.run(
        [str(PROGRAMS / program), *command], env=environment, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "there is no such tracker" in done.stderr
