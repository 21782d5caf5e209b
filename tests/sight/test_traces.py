"""Traces: a round is one trace across aggregator and workers, and nothing is traced unless somebody asks."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from photon.report.history import load
from photon.telemetry.traces import Context, Traces, TracesError, open_traces, round_context
from tests.sight.collector import Collector
from tests.sight.running import LiveRun, TrackedRun

OWN = {"plan", "admit", "merge", "commit"}


@pytest.mark.sight
def test_a_round_is_one_trace_across_aggregator_and_workers(tracked: TrackedRun) -> None:
    plans = {number: commit.plan for number, commit in load(tracked.run.folder).commits.items() if commit.plan}
    assert len(plans) == 2
    for number, plan in plans.items():
        root = round_context(plan)
        spans = [span for span in tracked.spans if span.trace == root.trace]
        names = Counter((span.service.removeprefix("photon-"), span.name) for span in spans)
        assert names["aggregator", "round"] == 1
        for name in ("plan", "merge", "commit"):
            assert names["aggregator", name] == 1, name
        for name in ("task train", "train", "admit"):
            assert names["worker", name] == 2, name
        for name in ("pull", "encode", "push", "task evaluate"):
            assert names["worker", name] >= 2, name
        assert names["aggregator", "admit"] == 2
        assert names["aggregator", "POST /v1/rounds/{round}/parts"] >= 2
        assert names["aggregator", "POST /v1/rounds/{round}/update"] >= 2
        (round_span,) = [span for span in spans if span.name == "round"]
        assert (round_span.id, round_span.parent) == (root.span, "")
        assert round_span.attributes["photon.round"] == number
        assert round_span.attributes["photon.updates"] == 2


@pytest.mark.sight
def test_every_span_hangs_below_what_it_is_part_of(tracked: TrackedRun) -> None:
    by_id = {span.id: span for span in tracked.spans}
    assert len(by_id) == len(tracked.spans)
    for span in tracked.spans:
        if span.name == "round":
            continue
        parent = by_id[span.parent]
        assert parent.trace == span.trace
        match span.service, span.name:
            case "photon-aggregator", name if name.startswith("POST"):
                assert parent.service == "photon-worker", "a request belongs to what the worker was at"
            case "photon-aggregator", name:
                assert (parent.name, name in OWN) == ("round", True)
            case "photon-worker", "task train" | "task evaluate":
                assert parent.name == "round"
            case _:
                assert parent.name.startswith("task ")
                assert parent.start <= span.start <= span.end <= parent.end


@pytest.mark.sight
def test_nothing_is_traced_by_default(live: LiveRun) -> None:
    workers = [child for child in live.run.children() if "photon-worker" in " ".join(child.cmdline())]
    for process in (*workers, live.run.child("photon-aggregator", "--listen")):
        assert process is not None
        mapped = {Path(region.path).name for region in process.memory_maps()}
        assert not any("opentelemetry" in name for name in mapped)
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in process.environ()


@pytest.mark.parametrize("environment", [{}, {"PHOTON_TRACES": "0"}, {"PHOTON_TRACES": "off"}])
def test_off_is_free_and_harmless(environment: dict[str, str]) -> None:
    traces = open_traces("test", environment)
    assert not traces
    with traces.span("anything"):
        assert traces.headers() == {}
    traces.record("anything", parent=None, start=0.0, end=1.0)
    traces.close()


def test_the_endpoint_alone_turns_them_off_again_by_the_other_setting() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PHOTON_TRACES": "0"}
    assert not open_traces("test", environment)


def test_a_file_instead_of_a_collector(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    traces = open_traces("test", {"PHOTON_TRACES": str(file)})
    plan = "ab" * 32
    with traces.span("outer", round_context(plan)), traces.span("inner"):
        inside = traces.headers()["traceparent"]
    with pytest.raises(RuntimeError), traces.span("broken"):
        raise RuntimeError("what went wrong")
    traces.close()
    spans = {span["name"]: span for span in map(json.loads, file.read_text().splitlines())}
    assert spans["outer"]["parent_id"] == f"0x{plan[32:48]}"
    assert spans["outer"]["context"]["trace_id"] == f"0x{plan[:32]}"
    assert spans["inner"]["parent_id"] == spans["outer"]["context"]["span_id"]
    context = Context.parse(inside)
    assert context is not None
    assert f"0x{context.span}" == spans["inner"]["context"]["span_id"]
    assert spans["broken"]["status"]["status_code"] == "ERROR"
    assert traces.headers() == {}


def test_a_collector_that_is_away_costs_seconds_at_most_and_no_error() -> None:
    with Collector() as collector:
        url = collector.url
    traces = Traces()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        traces = open_traces("test")
        with traces.span("lost"):
            pass
        traces.close()


def test_without_opentelemetry_there_are_no_traces_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "opentelemetry", None)
        traces = open_traces("test", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert not traces
    assert "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces" in caplog.text
    assert "pip install 'photon[traces]'" in caplog.text


def test_a_file_that_cannot_be_written_is_a_mistake() -> None:
    with pytest.raises(TracesError, match=r"PHOTON_TRACES=/nonexistent/spans.jsonl cannot be written: No such file"):
        open_traces("test", {"PHOTON_TRACES": "/nonexistent/spans.jsonl"})


@pytest.mark.parametrize("header", [None, "", "00-0-0-01", f"00-{'0' * 32}-{'1' * 16}-01", "x" * 55])
def test_headers_that_are_none_are_ignored(header: str | None) -> None:
    assert Context.parse(header) is None
