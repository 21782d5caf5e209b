"""The operator's parts by themselves: settings, cache, queue, and what it remembers for a minute."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import generate_latest

from photon.api.job import KIND
from photon.api.status import JobStatus
from photon.telemetry.metric_names import operator_metrics
from photon_operator.children import names
from photon_operator.children.kinds import JOB, POD
from photon_operator.cluster.apply import Applied
from photon_operator.cluster.cache import Cache, Key
from photon_operator.cluster.memory import READ_EVENTS_AGAIN_SECONDS, TRY_AGAIN_SECONDS, RetryMemory
from photon_operator.cluster.pace import AGAIN_SECONDS, EVENTS_BURST, Brake, EventPace, StatusPace
from photon_operator.cluster.work_queue import WorkQueue
from photon_operator.decide.plan import Apply, KubeEvent, Plan
from photon_operator.metrics import OperatorMetrics
from photon_operator.settings import Settings, SettingsError
from tests.operator.world import World

FIRST: Key = ("lab", "first")

# --- settings ---------------------------------------------------------------------------------------------------------


def test_every_setting_has_a_default() -> None:
    settings = Settings.of({})
    assert settings == Settings()
    assert settings.worker_image.startswith("photon-worker:")
    assert not settings.worker_image.endswith("latest")


def test_settings_as_the_chart_gives_them() -> None:
    settings = Settings.of(
        {
            "PHOTON_NAMESPACES": "team-a, team-b",
            "PHOTON_AGGREGATOR_IMAGE": "mirror/photon-aggregator:1",
            "PHOTON_WORKER_IMAGE": "mirror/photon-worker:1",
            "PHOTON_IMAGE_PULL_POLICY": "Always",
            "PHOTON_IMAGE_PULL_SECRETS": "one,two",
            "PHOTON_CHILD_ENV": json.dumps({"HTTPS_PROXY": "http://proxy:3128"}),
            "PHOTON_CA_CONFIGMAP": "photon-ca",
            "PHOTON_HTTP_PORT": "9090",
            "PHOTON_POLL_SECONDS": "2.5",
            "PHOTON_STATUS_SECONDS": "60",
            "PHOTON_LOG_LEVEL": "warning",
        }
    )
    assert settings.namespaces == ("team-a", "team-b")
    assert settings.image_pull_secrets == ("one", "two")
    assert settings.child_env == {"HTTPS_PROXY": "http://proxy:3128"}
    assert (settings.http_port, settings.poll_seconds, settings.log_level) == (9090, 2.5, logging.WARNING)
    assert settings.status_seconds == 60
    assert Settings.of({"PHOTON_NAMESPACES": ""}).namespaces == ()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CHILD_ENV", "{", "is not JSON"),
        ("CHILD_ENV", '{"A": 1}', "an object of strings|JSON object of strings"),
        ("HTTP_PORT", "http", "must be a number from 0 to 65535"),
        ("POLL_SECONDS", "0", "must be a number from 0.1 to 3600"),
        ("LOG_LEVEL", "loud", "use debug, info, warning or error"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as error:
        Settings.of({f"PHOTON_{name}": value})
    assert f"PHOTON_{name}" in str(error.value)


# --- cache ------------------------------------------------------------------------------------------------------------


def child(name: str, *, uid: str = "u1", version: int = 1, job: str = "first", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "lab", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": {names.JOB: job}}, **more}


def test_children_are_found_by_their_job() -> None:
    cache = Cache()
    assert cache.put(JOB, child("first-init")) == FIRST
    assert cache.put(POD, child("first-init-x", uid="u2")) == FIRST
    cache.put(JOB, child("second-init", uid="u3", job="second"))
    assert set(cache.children(FIRST)[JOB]) == {"first-init"}
    assert [pod["metadata"]["name"] for pod in cache.pods(FIRST)] == ["first-init-x"]


def test_an_older_version_does_not_take_the_place_of_a_newer_one() -> None:
    cache = Cache()
    cache.put(JOB, child("first-init", version=10, status={"new": True}))
    assert cache.put(JOB, child("first-init", version=9, status={"new": False})) is None
    assert cache.put(JOB, child("first-init", version=10)) is None, "a list that repeats it is no news"
    assert cache.children(FIRST)[JOB]["first-init"]["status"] == {"new": True}


def test_what_is_deleted_does_not_come_back_with_a_list_that_began_before() -> None:
    cache = Cache()
    cache.put(JOB, child("first-init"))
    assert cache.drop(JOB, child("first-init")) == FIRST
    assert cache.put(JOB, child("first-init")) is None
    assert not cache.children(FIRST)[JOB]
    assert cache.put(JOB, child("first-init", uid="another")) == FIRST


def test_a_list_finds_what_a_watch_lost() -> None:
    cache = Cache()
    cache.put(JOB, child("first-init"))
    before = cache.versions(JOB)
    cache.put(JOB, child("first-aggregator", uid="u2", version=3))  # made while the list is read
    assert cache.take_list(JOB, None, [], "2", before) == ({FIRST}, False)
    assert set(cache.children(FIRST)[JOB]) == {"first-aggregator"}


def test_what_only_lost_its_label_comes_back_with_it() -> None:
    cache = Cache()
    cache.put(JOB, child("first-init"))
    cache.drop(JOB, child("first-init", version=2))
    assert cache.put(JOB, child("first-init", version=2)) is None
    assert cache.put(JOB, child("first-init", version=3)) == FIRST
    assert set(cache.children(FIRST)[JOB]) == {"first-init"}


def test_after_a_restored_backup_a_list_replaces_all() -> None:
    cache = Cache()
    cache.put(JOB, child("first-init", version=900, status={"late": True}))
    cache.put(JOB, child("first-aggregator", uid="u2", version=901))
    cache.put(JOB, child("first-worker-north", uid="u3", version=902))
    cache.drop(JOB, child("first-worker-north", uid="u3", version=903))
    restored = [child("first-init", version=10), child("first-worker-north", uid="u3", version=11)]
    cache.take_list(JOB, None, restored, "50", cache.versions(JOB))
    assert set(cache.children(FIRST)[JOB]) == {"first-init", "first-worker-north"}
    assert not cache.children(FIRST)[JOB]["first-init"]["status"]


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    cache = Cache()
    cache.put(JOB, child("first-init"))
    cache.take_list(JOB, "elsewhere", [], "2", cache.versions(JOB, "elsewhere"))
    assert set(cache.children(FIRST)[JOB]) == {"first-init"}


def test_what_no_decision_needs_is_not_kept() -> None:
    cache = Cache()
    template = {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "b" * 10_000}]}]}}
    cache.put(JOB, child("first-init", spec={"suspend": True, "template": template}))
    cache.put(POD, child("first-init-x", uid="u2", spec=template["spec"], status={"phase": "Running", "hostIP": "x"}))
    assert len(json.dumps([cache.children(FIRST), cache.pods(FIRST)])) < 1000


def test_decisions_on_what_is_kept_are_those_on_the_whole() -> None:
    world = World().training()
    cache = Cache()
    for kind, found in world.children.items():
        for raw in found.values():
            cache.put(kind, {**raw, "metadata": {**raw["metadata"], "namespace": "lab"}})
    for pod in world.pods:
        cache.put(POD, pod)
    world.children = {kind: dict(found) for kind, found in cache.children(FIRST).items()}  # type: ignore[arg-type]
    world.pods = list(cache.pods(FIRST))  # type: ignore[arg-type]
    assert world.once().changes_nothing


# --- queue ------------------------------------------------------------------------------------------------------------


async def run_queue(queue: WorkQueue, until: asyncio.Event) -> None:
    running = asyncio.create_task(queue.run())
    try:
        async with asyncio.timeout(10):
            await until.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_a_job_woken_many_times_is_reconciled_once() -> None:
    async def scenario() -> list[Key]:
        seen: list[Key] = []
        done = asyncio.Event()

        async def work(key: Key) -> None:
            seen.append(key)
            if key == ("lab", "last"):
                done.set()

        queue = WorkQueue(work, width=4, clock=asyncio.get_running_loop().time)
        for _ in range(5):
            queue.wake(FIRST)
        queue.wake(FIRST, 3600)
        queue.wake(("lab", "last"), 0.01)
        await run_queue(queue, done)
        return seen

    assert asyncio.run(scenario()) == [FIRST, ("lab", "last")]


def test_a_job_is_never_reconciled_twice_at_a_time_and_what_comes_meanwhile_is_not_lost() -> None:
    async def scenario() -> tuple[int, int]:
        at_once, most, times = 0, 0, 0
        done = asyncio.Event()

        async def work(key: Key) -> None:
            nonlocal at_once, most, times
            at_once += 1
            most, times = max(most, at_once), times + 1
            if times == 1:
                queue.wake(key)
            await asyncio.sleep(0.01)
            at_once -= 1
            if times == 2:
                done.set()

        queue = WorkQueue(work, width=4, clock=asyncio.get_running_loop().time)
        queue.wake(FIRST)
        await run_queue(queue, done)
        return most, times

    assert asyncio.run(scenario()) == (1, 2)


def test_no_more_than_the_width_at_a_time() -> None:
    async def scenario() -> tuple[int, int]:
        at_once, most, times = 0, 0, 0
        done = asyncio.Event()

        async def work(_: Key) -> None:
            nonlocal at_once, most, times
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1
            times += 1
            if times == 50:
                done.set()

        queue = WorkQueue(work, width=3, clock=asyncio.get_running_loop().time)
        for number in range(50):
            queue.wake(("lab", str(number)))
        await run_queue(queue, done)
        return most, times

    assert asyncio.run(scenario()) == (3, 50)


# --- memory -----------------------------------------------------------------------------------------------------------


def wanted(name: str, version: str = "1") -> Apply:
    body = {"kind": JOB, "metadata": {"name": name, "annotations": {names.APPLIED_HASH: version}}}
    return Apply(body=body, known=False)


def test_what_was_refused_is_tried_again_after_a_while_or_when_it_is_edited() -> None:
    now = 0.0
    memory = RetryMemory(lambda: now)
    plan = Plan(apply=(wanted("a"), wanted("b")))
    assert memory.applied(FIRST, plan, Applied(refused={"Job a": "no"}))
    assert memory.of(FIRST).refused == {"Job a": "no"}
    assert [w.name for w in memory.due(FIRST, plan).apply] == ["b"]
    assert memory.due(FIRST, Plan(apply=(wanted("a", "2"),))).apply
    now = TRY_AGAIN_SECONDS
    assert memory.due(FIRST, plan) == plan
    assert memory.applied(FIRST, plan, Applied())
    assert memory.of(FIRST).refused == {}


def test_what_was_applied_in_vain_is_tried_again_after_a_while_or_when_it_is_edited() -> None:
    now = 0.0
    memory = RetryMemory(lambda: now)
    plan = Plan(apply=(wanted("a"), wanted("b")))
    assert not memory.applied(FIRST, plan, Applied(), vain={"Job a"})
    assert [w.name for w in memory.due(FIRST, plan).apply] == ["b"]
    assert memory.due(FIRST, Plan(apply=(wanted("a", "2"),))).apply
    now = TRY_AGAIN_SECONDS
    assert memory.due(FIRST, plan) == plan


def test_figures_wait_until_a_status_may_be_written_again() -> None:
    now = 0.0
    pace = StatusPace(lambda: now, 30.0)
    figures = Plan(status=JobStatus.model_validate({}), only_figures=True)
    assert pace.due(FIRST, figures) == figures
    pace.written(FIRST)
    now = 10.0
    waits = pace.due(FIRST, figures)
    assert waits.changes_nothing
    assert waits.again_in_seconds == 20.0
    transition = replace(figures, only_figures=False)
    assert pace.due(FIRST, transition) == transition
    now = 30.0
    assert pace.due(FIRST, figures) == figures


def test_a_job_that_changes_again_and_again_is_slowed_down_and_no_other() -> None:
    now = 0.0
    brake = Brake(lambda: now, burst=3, refill_seconds=6.0)
    assert [brake.take(FIRST) for _ in range(4)] == [0.0, 0.0, 0.0, 6.0]
    assert brake.take(("lab", "second")) == 0.0
    now = 6.0
    assert [brake.take(FIRST) for _ in range(2)] == [0.0, 6.0]


def test_an_event_is_counted_and_not_said_again_and_again() -> None:
    now = 0.0
    pace = EventPace(lambda: now)
    flap = Plan(events=(KubeEvent(type="Warning", reason="ParticipantAbsent", message="north is not heard"),))
    assert pace.due(FIRST, "u1", flap) == flap
    assert [pace.due(FIRST, "u1", flap).events for _ in range(4)] == [()] * 4
    assert pace.due(FIRST, "u2", flap) == flap, "it was deleted and made again"
    now = AGAIN_SECONDS - 1
    assert not pace.due(FIRST, "u2", flap).events
    now = AGAIN_SECONDS
    (event,) = pace.due(FIRST, "u2", flap).events
    assert event.count == 2


def test_of_one_job_few_events_are_said_altogether() -> None:
    pace = EventPace(lambda: 0.0)
    said = sum(
        len(pace.due(FIRST, "u1", Plan(events=(KubeEvent(type="Normal", reason="R", message=str(number)),))).events)
        for number in range(100)
    )
    assert said == EVENTS_BURST


def test_an_event_that_could_not_be_said_is_said_later() -> None:
    pace = EventPace(lambda: 0.0)
    plan = Plan(events=(KubeEvent(type="Normal", reason="R", message="m"),))
    pace.unsaid(FIRST, pace.due(FIRST, "u1", plan))
    assert pace.due(FIRST, "u1", plan) == plan


def test_events_are_not_read_again_and_again() -> None:
    now = 0.0
    memory = RetryMemory(lambda: now)
    assert memory.may_read_events("u1")
    assert not memory.may_read_events("u1")
    assert memory.take_warning("u1", "no room")
    assert not memory.take_warning("u1", "no room")
    assert memory.warnings == {"u1": "no room"}
    now = READ_EVENTS_AGAIN_SECONDS
    assert memory.may_read_events("u1")
    assert memory.take_warning("u1", None)
    assert memory.warnings == {}


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_have_the_names_that_dashboards_know() -> None:
    cache = Cache()
    world = World()
    world.settle()
    cache.put(KIND, world.raw)
    metrics = OperatorMetrics(cache)
    metrics.requested("get")
    metrics.refused("team-b", yes=True)
    metrics.leads("team-b", yes=True)
    metrics.reconciled(0.01, None)
    metrics.reconciled(0.01, "ApiError")
    text = generate_latest(metrics.registry).decode()
    for metric in operator_metrics():
        assert all(f"\n{name}" in text for name in metric.series()), metric
    assert 'photon_operator_jobs{condition="Pending"} 1.0' in text
    assert 'photon_operator_errors_total{error="ApiError"} 1.0' in text
