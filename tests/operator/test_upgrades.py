"""Another release of the operator beside jobs that an earlier or a later one has run: it disturbs none of them."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import pytest
from pydantic import BaseModel

from photon.api.document import parse
from photon.api.job import FederatedTrainingJob
from photon.api.status import JobReason, JobStatus
from photon.api.validate import model_at
from photon_operator.children import names, pinned
from photon_operator.children.build import ChildrenInputs, make_children
from photon_operator.children.kinds import CONFIG_MAP, JOB
from photon_operator.decide import reconcile
from photon_operator.decide.conditions import parse_answer
from photon_operator.settings import Settings
from tests.operator.later import LaterJob
from tests.operator.world import World, finish, job_object, said, words

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = Path(__file__).with_name("golden.json")
EXAMPLES: Final = sorted([*(ROOT / "examples").glob("*.yaml"), *(ROOT / "manifests" / "examples").glob("*.yaml")])


# --- jobs -------------------------------------------------------------------------------------------------------------


def upgrade(monkeypatch: pytest.MonkeyPatch, world: World, *, crd: bool = True) -> None:
    """The operator and, with ``crd``, what the API server fills in are of a release with more fields and defaults."""
    monkeypatch.setattr(reconcile, "FederatedTrainingJob", LaterJob)
    world.children_cache.forget(("lab", "first"))
    if crd:
        new_crd(world.raw["spec"])


def new_crd(spec: dict[str, Any], mode: str = "Off") -> None:
    spec["privacy"] = {"mode": mode}
    spec["storage"]["pathStyle"] = True
    spec.setdefault("aggregator", {})["replicas"] = 1
    for participant in spec["participants"]:
        participant["worker"]["runtime"] = {"mode": "Off"}


def running() -> World:
    return World().training(round=3, committed=2)


def complete() -> World:
    world = running()
    finish(world)
    world.after(120)
    return world


def failed() -> World:
    world = running()
    world.fail("first-worker-south", 2, "no index.json")
    world.settle()
    world.after(60)
    assert world.state[0] == "Failed"
    return world


def everything(world: World) -> Any:
    return copy.deepcopy((world.children, world.pods, world.raw.get("status")))


WORLDS: Final = {"running": running, "complete": complete, "failed": failed}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]()


@pytest.mark.parametrize("crd", [True, False], ids=["new CRD", "old CRD"])
def test_an_upgrade_with_new_fields_and_defaults_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, world: World, crd: bool
) -> None:
    before = everything(world)
    upgrade(monkeypatch, world, crd=crd)
    assert world.once().changes_nothing
    assert everything(world) == before


def test_after_an_upgrade_an_edit_counts_only_for_what_it_edits(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    state, jobs = world.state, copy.deepcopy(world.children[JOB])
    upgrade(monkeypatch, world)
    world.edit(ttlSecondsAfterFinished=10**6)
    world.settle()
    if state[0] == "Failed":  # any edit of a failed job tries it again, in new Jobs
        assert world.state[0] == "Pending"
        return
    assert world.state == state
    assert world.children[JOB] == jobs


def test_an_operator_that_is_rolled_back_leaves_jobs_with_newer_fields_as_they_are(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    upgrade(monkeypatch, world)
    world.settle()
    before = everything(world)
    monkeypatch.undo()
    world.children_cache.forget(("lab", "first"))
    assert world.once().changes_nothing
    assert everything(world) == before
    if world.state[0] == "Failed":  # any edit tries it again
        return
    world.edit(ttlSecondsAfterFinished=10**6)
    world.settle()
    assert world.children[JOB] == before[0][JOB]


def test_a_running_job_keeps_the_document_that_its_programs_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    world = running()
    upgrade(monkeypatch, world)
    world.settle()
    (text,) = {json.dumps(json.loads(text)) for text in world.children[CONFIG_MAP]["first-job"]["data"].values()}
    assert "privacy" not in text
    world.edit(rounds=20)
    world.settle()
    assert "privacy" in world.document


def test_a_new_job_with_fields_of_a_later_release_runs_and_says_what_is_ignored() -> None:
    raw = job_object()
    new_crd(raw["spec"], mode="Noise")
    world = World(raw).training()
    assert world.state == ("Running", "Training")
    (told,) = [event for event in world.events if event.reason == "FieldsIgnored"]
    assert told.type == "Warning"
    assert "spec.privacy" in told.message
    assert "spec.participants[0].worker.runtime" in told.message


def test_values_that_only_a_later_release_knows_end_no_job(world: World) -> None:
    kind = world.state[0]
    world.raw["spec"]["local"] = {"precision": "fp4"}
    world.settle()
    assert world.state[0] == kind
    assert world.raw["status"]["documentDigest"]
    del world.raw["spec"]["local"]
    world.settle()
    assert world.state[0] == kind
    assert "fp4" not in world.message


def test_a_status_of_a_later_release_is_understood_as_far_as_it_goes() -> None:
    world = complete()
    world.raw["status"]["carbon"] = {"grams": 4}
    world.raw["status"]["participants"][0]["state"] = "Verifying"
    jobs = copy.deepcopy(world.children[JOB])
    world.settle()
    held = [c for c in world.raw["status"]["conditions"] if c["status"] == "True"]
    assert [(c["type"], c["reason"]) for c in held] == [("Complete", "RoundsDone"), ("Ready", "RoundsDone")]
    assert world.children[JOB] == jobs


def of_a_later_release(status: JobStatus) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))
    raw["participants"][0]["state"] = "Verifying"
    return raw | {"carbon": {"grams": 4}}


def test_an_aggregator_of_a_later_release_is_understood_while_it_runs_and_when_it_ends() -> None:
    answer = parse_answer(json.dumps(of_a_later_release(said("Running", JobReason.MERGING, round=4, committed=3))))
    assert answer is not None
    world = running()
    world.says(answer)
    world.settle()
    assert world.state == ("Running", "Merging")
    assert world.status.committed_rounds == 3
    assert [person.name for person in world.status.participants] == ["north", "south"]

    ending = json.loads(words(said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)))
    ending["status"] = of_a_later_release(said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10))
    world.succeed("first-aggregator", json.dumps(ending))
    world.settle()
    assert world.state == ("Complete", "RoundsDone")
    assert world.status.committed_rounds == 10


def test_an_edit_that_cannot_be_leaves_a_job_as_it_ended_and_is_forgotten_when_it_is_taken_back() -> None:
    world = complete()
    message, people = world.message, copy.deepcopy(world.raw["spec"]["participants"])
    wrong = copy.deepcopy(people)
    wrong[0]["worker"]["podTemplatePatch"] = {"spec": {"hostNetwork": True}}
    world.edit(participants=wrong)
    world.settle()
    assert world.state == ("Complete", "RoundsDone")
    assert "the last edit is not applied: " in world.message
    assert "hostNetwork" in world.message
    assert [e.type for e in world.events if e.reason == "InvalidSpec"] == ["Warning"]
    world.edit(participants=people)
    world.settle()
    assert world.state == ("Complete", "RoundsDone")
    assert world.message == message


def test_a_job_that_was_invalid_is_tried_again_by_a_release_that_can_run_it() -> None:
    raw = job_object()
    raw["spec"]["local"] = {"precision": "fp4"}
    world = World(raw)
    world.settle()
    assert world.state == ("Failed", "InvalidSpec")
    raw["spec"]["local"] = {"precision": "fp32"}  # as if it were known now: the generation is the same
    world.settle()
    assert world.state == ("Pending", "WaitingForInit")


def test_digests_of_an_unknown_version_replace_nothing() -> None:
    world = running()
    world.raw["status"]["documentDigest"] = "2:" + "ab" * 32
    for raw in world.children[JOB].values():
        raw["metadata"]["annotations"][names.SPEC_HASH] = "2:" + "cd" * 32
    before = copy.deepcopy(world.children[JOB])
    world.settle()
    assert world.children[JOB] == before
    finished = complete()
    finished.raw["status"]["documentDigest"] = "2:" + "ab" * 32
    finished.edit(ttlSecondsAfterFinished=10**6)
    finished.settle()
    assert finished.state == ("Complete", "RoundsDone")


# --- digests ----------------------------------------------------------------------------------------------------------


def hashes(raw: dict[str, Any]) -> dict[str, str]:
    """The digests by which an operator knows a job's children again."""
    raw["metadata"] |= {"namespace": "lab", "uid": "job-1"}
    job = reconcile.parse(raw)
    made = make_children(
        ChildrenInputs(
            spec=raw["spec"],
            job=job,
            document=pinned.document_digest(job),
            name=job.metadata.name,
            namespace="lab",
            uid="job-1",
            labels={},
            tokens={p.name: f"token of {p.name}" for p in job.spec.participants},
            read_token="token",
            committed_rounds=0,
            settings=Settings(),
        )
    )
    bodies = {"init": made.init, "aggregator": made.aggregator, "cleanup": made.cleanup, **made.workers}
    found = {name: body["metadata"]["annotations"][names.SPEC_HASH] for name, body in bodies.items()}
    return {"document": made.document, **found}


def example(path: Path) -> dict[str, Any]:
    kind = f"kind: {FederatedTrainingJob.__name__}"
    (text,) = [part for part in path.read_text().split("\n---\n") if kind in part]
    found: dict[str, Any] = parse(text, path.name).data
    return found


def test_the_digests_of_the_examples_are_those_that_are_checked_in() -> None:
    """A digest that changes restarts jobs of that document when an operator is upgraded. Where the *example* was
    changed, write the file: ``PHOTON_WRITE_GOLDEN=1 python -m pytest tests/operator/test_upgrades.py``."""
    found = {str(path.relative_to(ROOT)): hashes(example(path)) for path in EXAMPLES}
    if os.environ.get("PHOTON_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(GOLDEN.read_text())


# What is in no digest: it decides nothing about rounds or pods, or has a place of its own.
ASIDE: Final = {
    *("aggregator", "participants", "suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "managedBy"),
    *("storage.credentialsSecretRef", "storage.deletionPolicy"),
    "persistentVolumeClaimRetentionPolicy",
}


def paths(model: type[BaseModel], prefix: str = "") -> set[str]:
    """All fields of a document's part."""
    found = set()
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        inner = [model, *(a for a in _parts(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel))][1:]
        found |= {path, *(each for part in inner for each in paths(part, f"{path}."))}
    return found


def _parts(annotation: Any) -> list[Any]:
    inner = get_args(annotation) if get_origin(annotation) is not None else ()
    return [annotation, *(part for each in inner for part in _parts(each))]


def pinned_paths(pins: pinned.Pins, prefix: str = "") -> set[str]:
    found = set()
    for name, pin in pins.items():
        found |= {f"{prefix}{name}", *pinned_paths(pin.fields or {}, f"{prefix}{name}.")}
    return found


@pytest.mark.parametrize(
    ("at", "pins", "aside"),
    [
        (("spec",), pinned._DOCUMENT, ASIDE),
        (("spec", "aggregator"), pinned._AGGREGATOR, set()),
        (("spec", "participants", 0, "worker"), pinned._WORKER, {"workDir.size"}),
        (("spec", "storage"), pinned._STORAGE, set()),
    ],
)
def test_every_field_is_pinned_or_left_aside(at: tuple[str | int, ...], pins: pinned.Pins, aside: set[str]) -> None:
    model = model_at(at)
    assert model is not None
    fields = {path for path in paths(model) if not any(f"{path}.".startswith(f"{each}.") for each in aside)}
    have = {path for path in pinned_paths(pins) if not any(f"{path}.".startswith(f"{each}.") for each in aside)}
    assert fields == have, "give a new field a pin with later=True, or name it in ASIDE"


def test_what_a_document_states_counts_as_much_as_what_it_leaves_out() -> None:
    short = example(ROOT / "examples" / "first.yaml")
    job = reconcile.parse({**short, "metadata": {"name": "first", "namespace": "lab"}})
    full = job.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
    full["spec"]["stop"]["divergence"] = {"window": 8}
    full["spec"]["exchange"]["clipToMedian"] = 8.0
    assert hashes(full) == hashes(short)
    for change in ({"exchange": {"clipToMedian": 9.0}}, {"stop": {"divergence": None}}, {"outer": {"momentum": 0.8}}):
        assert hashes({**short, "spec": {**short["spec"], **change}})["document"] != hashes(short)["document"]
