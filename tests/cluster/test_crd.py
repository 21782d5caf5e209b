"""The CRD on a real API server: taken, explained, and refusing what it should with the messages that we wrote."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes.client
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from photon.api.job import FederatedTrainingJob
from photon.api.learning import resolve, resolve_against
from tests.api.test_crd import JOB, LEAVES, accepted_by_pydantic, anything, job, put, schemas
from tests.cluster.fixtures import CRD
from tools.cluster.kube import Kube

pytestmark = pytest.mark.cluster

ROOT = CRD.parents[1]
SCHEMA: dict[str, Any] = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
ALL = list(schemas(SCHEMA))
Document = dict[str, Any]


class Refused(Exception):
    """What the API server answers to who sends a bad object."""


class Jobs:
    """Jobs of one namespace, sent as kubectl sends them: unknown fields are errors."""

    def __init__(self, kube: Kube) -> None:
        assert kube.namespace is not None
        self._api: Any = kubernetes.client.CustomObjectsApi(kube.api())
        self._where = ("photon.dev", "v1alpha1", kube.namespace, "federatedtrainingjobs")

    def create(self, document: Document, *, keep: bool = False) -> Document:
        def send() -> Document:
            dry_run = {} if keep else {"dry_run": "All"}
            made: Document = self._api.create_namespaced_custom_object(
                *self._where, document, field_validation="Strict", **dry_run
            )
            return made

        return self._send(send)

    def update(self, old: Document, new: Document, *, begun: bool = False) -> Document:
        """``old`` is created, replaced by ``new`` as a trial, and removed. ``begun``: an operator has accepted it."""
        made = self.create(old, keep=True)
        name = made["metadata"]["name"]
        if begun:
            status = {"status": {"documentDigest": "ab" * 32}}
            made = self._api.patch_namespaced_custom_object_status(*self._where, name, status)
        changed = {**new, "metadata": {**new["metadata"], "resourceVersion": made["metadata"]["resourceVersion"]}}

        def send() -> Document:
            replaced: Document = self._api.replace_namespaced_custom_object(
                *self._where, name, changed, dry_run="All", field_validation="Strict"
            )
            return replaced

        try:
            return self._send(send)
        finally:
            self._api.delete_namespaced_custom_object(*self._where, name)

    def _send(self, send: Callable[[], Document]) -> Document:
        try:
            return send()
        except kubernetes.client.ApiException as error:
            if error.status >= 500:
                raise
            raise Refused(json.loads(error.body or "{}")["message"]) from error


@pytest.fixture(scope="module")
def jobs(with_crd: Kube) -> Iterator[Jobs]:
    """One namespace for all: what is tried here is not kept."""
    with with_crd.fresh_namespace() as fresh:
        yield Jobs(fresh)


# --- it is taken, and explains itself ---------------------------------------------------------------------------------


def test_the_crd_is_served_with_its_short_name_and_columns(namespace: Kube) -> None:
    definition = namespace.get("crd/federatedtrainingjobs.photon.dev")
    conditions = {c["type"]: c["status"] for c in definition["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}, "no NonStructuralSchema among them"
    Jobs(namespace).create(JOB, keep=True)
    header, line = namespace.kubectl("get", "ftj").splitlines()
    assert header.split() == ["NAME", "ROUND", "ROUNDS", "PARTICIPANTS", "PERPLEXITY", "STATE", "REASON", "AGE"]
    assert line.startswith("test ")


def test_kubectl_explain_lists_every_field(namespace: Kube) -> None:
    told = namespace.kubectl("explain", "ftj.spec", "--recursive")
    fields = {path.split(".")[-1].removesuffix("[]") for path, _ in ALL if path.startswith(".spec.")}
    listed = {line.split("\t")[0].strip() for line in told.splitlines() if "\t<" in line}
    assert {field for field in fields if field} <= listed
    assert "rounds\t<integer> -required-" in told
    assert "enum: Cosine, WSD, Constant" in told


def test_kubectl_explain_says_what_a_field_is_for(namespace: Kube) -> None:
    told = namespace.kubectl("explain", "ftj.spec.local.steps")
    assert "Optimizer steps between two exchanges." in told


# --- rules ------------------------------------------------------------------------------------------------------------

# What a new object breaks, and the message.
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"metadata__name": "a" * 41}, "metadata.name must not be longer than 40 characters"),
    ({"metadata__name": "a.b"}, "metadata.name must not contain a dot"),
    (
        {"spec__participation": {"quorum": 4}},
        "participation.quorum must not be larger than the number of participants",
    ),
    (
        {"spec__participation": {"cohortSize": 4}},
        "participation.cohortSize must not be larger than the number of participants",
    ),
    ({"spec__participation": {"cohortSize": 2, "quorum": 3}}, "quorum must not be larger than cohortSize"),
    ({"spec__model": {}}, "exactly one of preset, config and initFrom says what the model is"),
    (
        {"spec__model": {"preset": "llama-1m", "config": {"model_type": "llama"}}},
        "exactly one of preset, config and initFrom says what the model is",
    ),
    ({"spec__model__tokenizer": {"kind": "file"}}, "path is needed with kind 'file', and only then"),
    ({"spec__model__tokenizer": {"path": "x"}}, "path is needed with kind 'file', and only then"),
    ({"spec__local": {"batchSize": 5, "microBatchSize": 2}}, "batchSize must be a multiple of microBatchSize"),
    ({"spec__exchange": {"partBytes": 65537}}, "partBytes must be a multiple of 4096"),
    ({"spec__participants": [{"name": "far"}]}, "a participant has either worker or remote"),
    ({"spec__participants__2__worker": {"data": {"uri": "x"}}}, "a participant has either worker or remote"),
    ({"spec__participants__0__worker__data": {}}, "data needs either uri or sources"),
    (
        {"spec__participants__0__worker__nodes": 2},
        "a participant with several nodes or processes needs local.strategy FSDP",
    ),
    (
        {"spec__participants__1__worker__processesPerNode": 2},
        "a participant with several nodes or processes needs local.strategy FSDP",
    ),
]

# What may not become what, and the message.
FORBIDDEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"spec__model": {"preset": "llama-10m"}}, "model is immutable"),
    ({}, {"spec__model__seed": 1}, "model is immutable"),
    ({}, {"spec__model": {"config": {"model_type": "llama"}}}, "model is immutable"),
    ({}, {"spec__storage__bucket": "other"}, "storage.bucket and storage.prefix are immutable"),
    (
        {"spec__storage__prefix": "a"},
        {"spec__storage__prefix": "b"},
        "storage.bucket and storage.prefix are immutable",
    ),
    ({"spec__storage__prefix": "a"}, {}, "storage.bucket and storage.prefix are immutable"),
    ({}, {"spec__rounds": 2}, "rounds may only grow"),
    ({}, {"spec__managedBy": "other"}, "managedBy is immutable"),
    ({"spec__managedBy": "other"}, {}, "managedBy is immutable"),
    ({"spec__managedBy": "other"}, {"spec__managedBy": "photon.dev/operator"}, "managedBy is immutable"),
]

# What may change only before a job has begun, and what the message begins with: what learning.resolve holds.
HELD: list[tuple[dict[str, Any], str]] = [
    ({"spec__local__steps": 65}, "local"),
    ({"spec__local__microBatchSize": 1}, "local"),
    ({"spec__local__learningRate": {"totalSteps": 12345}}, "local"),
    ({"spec__local__precision": "fp32"}, "local"),
    ({"spec__outer": {"type": "Nesterov"}}, "outer"),
    ({"spec__outer": {"learningRate": 0.5}}, "outer"),
    ({"spec__exchange__codec": "DenseBF16"}, "exchange.codec"),
    ({"spec__exchange__partBytes": 2**20}, "exchange.partBytes"),
    ({"spec__participation": {"cohortSize": 1}}, "participation.cohortSize"),
    ({"spec__participation": {"weighting": "Uniform"}}, "participation.weighting"),
]


def held_message(path: str) -> str:
    return f"{path} cannot change once the job has started: apply a new job with another storage.prefix"


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_a_rule_refuses_with_our_message(jobs: Jobs, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refusal:
        jobs.create(job(**changes))
    assert message in str(refusal.value)


@pytest.mark.parametrize(("old", "new", "message"), FORBIDDEN)
def test_what_may_not_change_is_refused_with_our_message(
    jobs: Jobs, old: dict[str, Any], new: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused) as refusal:
        jobs.update(job(**old), job(**new))
    assert message in str(refusal.value)


def test_every_rule_of_the_crd_is_in_these_tables() -> None:
    rules = {rule["message"] for _, schema in ALL for rule in schema.get("x-kubernetes-validations", ())}
    assert rules == {message for *_, message in [*BROKEN, *FORBIDDEN]} | {held_message(path) for _, path in HELD}


def parsed(document: Document) -> FederatedTrainingJob:
    return FederatedTrainingJob.model_validate(document)


@pytest.mark.parametrize(("new", "path"), HELD)
def test_what_the_aggregator_would_refuse_is_refused_at_once_and_only_once_the_job_has_begun(
    jobs: Jobs, new: dict[str, Any], path: str
) -> None:
    with pytest.raises(ValueError, match="cannot change once a job has started"):
        resolve_against(parsed(job(**new)), resolve(parsed(JOB)))
    with pytest.raises(Refused) as refusal:
        jobs.update(JOB, job(**new), begun=True)
    assert f"spec.{path}: Forbidden: {held_message(path)}" in str(refusal.value)
    jobs.update(JOB, job(**new))


@pytest.mark.parametrize(
    "new",
    [
        {},
        {"spec__rounds": 30},
        {"spec__suspend": True},
        {"spec__aggregator__resources__cpus": 4},
        {"spec__storage__retention": {"keepLastRounds": 3}},
        {"spec__participants": JOB["spec"]["participants"][:2]},
        {"spec__participants": [*JOB["spec"]["participants"], {"name": "late", "remote": {}}]},
        {"spec__exchange": {"maxUpdateNorm": 3.0, "clipToMedian": 4.0}},
        {"spec__participation": {"quorum": 1, "roundDeadlineSeconds": 60}},
    ],
)
def test_what_may_change(jobs: Jobs, new: dict[str, Any]) -> None:
    resolve_against(parsed(job(**new)), resolve(parsed(JOB)))
    jobs.update(JOB, job(**new), begun=True)


def test_participants_of_one_name_are_refused(jobs: Jobs) -> None:
    with pytest.raises(Refused, match=r'spec\.participants\[1\]: Duplicate value.*"name":"north"'):
        jobs.create(job(spec__participants=[JOB["spec"]["participants"][0]] * 2))


@pytest.mark.parametrize("where", ["spec", "spec__local", "spec__participants__0__worker", "spec__local__optimizer"])
def test_an_unknown_field_is_refused_by_name(jobs: Jobs, where: str) -> None:
    with pytest.raises(Refused, match=r'unknown field "spec.*learningrate"'):
        jobs.create(job(**{f"{where}__learningrate": 1}))


# --- bounds -----------------------------------------------------------------------------------------------------------


def bounds() -> Iterator[tuple[str, str, Any]]:
    """(path, bound, a value beyond it) of every bound in the schema of ``spec``."""
    for path, schema in ALL:
        if not path.startswith(".spec.") or path.endswith("[]"):
            continue
        kind = schema["type"]
        if "minimum" in schema:
            yield path, "minimum", schema["minimum"] - (0 if schema.get("exclusiveMinimum") else 1)
        if "maximum" in schema:
            yield path, "maximum", schema["maximum"] + (0 if schema.get("exclusiveMaximum") else 1)
        if "enum" in schema:
            yield path, "enum", "Nonsense"
        elif kind == "string":
            yield path, "maxLength", "a" * (schema["maxLength"] + 1)
            if schema.get("minLength"):
                yield path, "minLength", ""
            if "pattern" in schema:
                yield path, "pattern", "§"
        if schema.get("minItems"):
            yield path, "minItems", []
        if kind == "array":
            yield path, "maxItems", list(_items(schema))
        if "maxProperties" in schema:
            yield path, "maxProperties", {f"k{i}": "v" for i in range(schema["maxProperties"] + 1)}
        yield path, "type", 1 if kind not in ("integer", "number") else "1"


def _items(schema: Document) -> Iterator[Any]:
    """One more than allowed, told apart by their keys."""
    for index in range(schema["maxItems"] + 1):
        if schema["items"].get("x-kubernetes-preserve-unknown-fields"):
            yield {}
        else:
            yield {
                "name": f"n{index}",
                **({"remote": {}} if "remote" in schema["items"]["properties"] else {"uri": "x"}),
            }


def broken(path: str, value: Any) -> Document:
    """A job in which ``path`` has ``value`` and which is good otherwise; within lists, in the first entry."""
    document = copy.deepcopy(JOB)
    steps = [
        step
        for part in path.removeprefix(".").split(".")
        for step in ([part[:-2], "0"] if part[-2:] == "[]" else [part])
    ]
    here: Any = document
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if after is None:
            break
        if isinstance(here, list):
            while len(here) <= int(step):
                here.append({})
            here = here[int(step)]
        else:
            here = here.setdefault(step, [] if after == "0" else {})
    if isinstance(here, list):
        here[:] = [value]
    else:
        here[steps[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "bound", "value"), list(bounds()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_bound_refuses_and_names_the_field(jobs: Jobs, path: str, bound: str, value: Any) -> None:
    with pytest.raises(Refused) as refusal:
        jobs.create(broken(path, value))
    assert path.removeprefix(".").replace("[]", "[0]") in str(refusal.value)


# --- what pydantic accepts, the API server accepts --------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["examples", "manifests/examples"])
def test_examples_are_applied(namespace: Kube, folder: str) -> None:
    for path in sorted((ROOT / folder).glob("*.yaml")):
        told = namespace.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
        assert "federatedtrainingjob.photon.dev/" in told


@given(changes=st.lists(st.tuples(st.sampled_from(LEAVES), anything), max_size=3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pydantic_and_the_api_server_accept_the_same_jobs(jobs: Jobs, changes: list[tuple[list[str], Any]]) -> None:
    document = copy.deepcopy(JOB)
    for steps, value in changes:
        put(document, steps, value)
    try:
        stored: Document | None = jobs.create(document)
    except Refused:
        stored = None
    if accepted_by_pydantic(document):
        assert stored is not None
    if stored is not None:  # the operator reads what was stored: 1.0 has become 1
        assert accepted_by_pydantic({**document, "spec": stored["spec"]})


def test_the_defaults_are_those_of_the_models(jobs: Jobs) -> None:
    spec = jobs.create(JOB)["spec"]
    assert spec["aggregator"]["resources"] == {"cpus": 2, "gpus": 0, "gpuResource": "nvidia.com/gpu"}
    assert spec["local"]["learningRate"]["schedule"] == "Cosine"
    assert spec["participants"][0]["worker"]["nodes"] == 1
