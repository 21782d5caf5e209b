"""The generated CRD: what is committed is current, structural and bounded, and accepts what pydantic accepts.

There is no API server here; ``ApiServer`` below does with the schema what one does: default, refuse unknown fields (as
kubectl's strict validation), check, evaluate CEL.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from photon.api.base import ApiModel
from photon.api.job import FederatedTrainingJob
from tools.crd import CannotExpress, Converter, definition, render

COMMITTED = Path(__file__).parents[2] / "manifests" / "crd.yaml"
JOB: dict[str, Any] = {
    "apiVersion": "photon.dev/v1alpha1",
    "kind": "FederatedTrainingJob",
    "metadata": {"name": "test"},
    "spec": {
        "model": {"preset": "llama-1m"},
        "rounds": 3,
        "participants": [
            {"name": "north", "worker": {"data": {"uri": "data/north"}}},
            {"name": "south", "worker": {"data": {"uri": "data/south"}}},
            {"name": "far", "remote": {}},
        ],
    },
}


STARTED: dict[str, Any] = {"documentDigest": "ab" * 32}


@cache
def program(rule: str) -> cel.Program:
    return cel.compile(rule)


class Refused(Exception):
    """The API server says no; the message is what kubectl shows."""


class ApiServer:
    """Defaulting, validation and CEL of a structural schema, as Kubernetes does them."""

    def __init__(self) -> None:
        (version,) = definition()["spec"]["versions"]
        self.schema = version["schema"]["openAPIV3Schema"]

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        return self._admit(document, None)

    def update(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return self._admit(new, self._admit(old, None))

    def _admit(self, document: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
        document = copy.deepcopy(document)
        self._default(document, self.schema)
        self._check(document, self.schema, "")
        self._evaluate(document, old, self.schema, "")
        return document

    def _default(self, value: Any, schema: dict[str, Any]) -> None:
        if isinstance(value, dict):
            for name, child in schema.get("properties", {}).items():
                if name not in value and "default" in child:
                    value[name] = copy.deepcopy(child["default"])
                if name in value:
                    self._default(value[name], child)
        elif isinstance(value, list):
            for item in value:
                self._default(item, schema.get("items", {}))

    def _check(self, value: Any, schema: dict[str, Any], path: str) -> None:
        if value is None:
            if not schema.get("nullable"):
                raise Refused(f"{path}: null")
            return
        kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
        kind = schema["type"]
        if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
            raise Refused(f"{path}: not of type {kind}")
        if kind == "object":
            self._check_object(value, schema, path)
        elif kind == "array":
            self._check_array(value, schema, path)
        elif kind == "string":
            self._check_string(value, schema, path)
        elif kind in ("integer", "number"):
            self._check_number(value, schema, path)

    def _check_object(self, value: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        for name in schema.get("required", ()):
            if name not in value:
                raise Refused(f"{path}.{name}: required")
        if len(value) > schema.get("maxProperties", len(value)):
            raise Refused(f"{path}: too many")
        for name, child in value.items():
            if name in schema.get("properties", {}):
                self._check(child, schema["properties"][name], f"{path}.{name}")
            elif "additionalProperties" in schema:
                self._check(child, schema["additionalProperties"], f"{path}.{name}")
            elif path != ".metadata" and not schema.get("x-kubernetes-preserve-unknown-fields"):
                raise Refused(f"{path}.{name}: unknown field")

    def _check_array(self, value: list[Any], schema: dict[str, Any], path: str) -> None:
        if not schema.get("minItems", 0) <= len(value) <= schema["maxItems"]:
            raise Refused(f"{path}: number of items")
        for i, item in enumerate(value):
            self._check(item, schema["items"], f"{path}[{i}]")
        if schema["x-kubernetes-list-type"] == "map":
            keys = [tuple(item[k] for k in schema["x-kubernetes-list-map-keys"]) for item in value]
            if len(set(keys)) != len(keys):
                raise Refused(f"{path}: duplicate key")

    def _check_string(self, value: str, schema: dict[str, Any], path: str) -> None:
        if not schema.get("minLength", 0) <= len(value) <= schema["maxLength"]:
            raise Refused(f"{path}: length")
        if "enum" in schema and value not in schema["enum"]:
            raise Refused(f"{path}: not in enum")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            raise Refused(f"{path}: pattern")

    def _check_number(self, value: float, schema: dict[str, Any], path: str) -> None:
        low, high = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
        if value < low or (schema.get("exclusiveMinimum") and value == low):
            raise Refused(f"{path}: too small")
        if value > high or (schema.get("exclusiveMaximum") and value == high):
            raise Refused(f"{path}: too large")

    def _evaluate(self, value: Any, old: Any, schema: dict[str, Any], path: str) -> None:
        for rule in schema.get("x-kubernetes-validations", ()):
            transition = "oldSelf" in rule["rule"]
            if transition and old is None:
                continue
            if program(rule["rule"]).execute({"self": value, **({"oldSelf": old} if transition else {})}) is not True:
                raise Refused(f"{path}: {rule['message']}")
        if isinstance(value, dict):
            for name, child in schema.get("properties", {}).items():
                if value.get(name) is not None:
                    self._evaluate(
                        value[name], old.get(name) if isinstance(old, dict) else None, child, f"{path}.{name}"
                    )
        elif isinstance(value, list):
            for item in value:  # entries are told apart by their keys; no rule of ours on an entry is a transition rule
                self._evaluate(item, None, schema["items"], f"{path}[]")


API = ApiServer()


def job(**changes: Any) -> dict[str, Any]:
    """JOB with ``spec__local__steps=3`` and the like set."""
    document = copy.deepcopy(JOB)
    for path, value in changes.items():
        put(document, path.split("__"), value)
    return document


def put(document: Any, steps: list[str], value: Any) -> None:
    for step in steps[:-1]:
        document = document[int(step)] if isinstance(document, list) else document.setdefault(step, {})
    document[steps[-1]] = value


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas within ``schema``, with their paths."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas(schema[key], f"{path}[]")


ALL = list(schemas(API.schema))


def test_the_committed_file_is_current() -> None:
    assert COMMITTED.read_text() == render()


def test_check_and_write_of_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.crd", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    path = tmp_path / "crd.yaml"
    assert run("--write", str(path)).returncode == 0
    assert run("--check", str(path)).returncode == 0
    path.write_text(path.read_text().replace("maxItems: 256", "maxItems: 255", 1))
    outdated = run("--check", str(path))
    assert outdated.returncode == 1
    assert "-                maxItems: 255" in outdated.stderr
    assert "make generate" in outdated.stderr


def test_nothing_that_an_api_server_refuses_is_in_the_schema() -> None:
    refused = {"$ref", "$defs", "anyOf", "oneOf", "const", "title", "uniqueItems", "discriminator", "prefixItems"}
    for path, schema in ALL:
        assert not refused & set(schema), path
        assert isinstance(schema["type"], str), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        for flag in ("exclusiveMinimum", "exclusiveMaximum"):
            assert schema.get(flag, True) is True, path


def test_everything_is_bounded() -> None:
    for path, schema in ALL:
        if schema["type"] == "string":
            assert "maxLength" in schema, path
        if schema["type"] == "array":
            assert "maxItems" in schema, path
            assert "x-kubernetes-list-type" in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


def test_lists_that_are_merged_have_keys() -> None:
    keys = {path: schema.get("x-kubernetes-list-map-keys") for path, schema in ALL if schema["type"] == "array"}
    assert keys[".spec.participants"] == ["name"]
    assert keys[".status.participants"] == ["name"]
    assert keys[".status.conditions"] == ["type"]


def test_only_free_form_fields_preserve_what_is_unknown() -> None:
    free = {path for path, schema in ALL if schema.get("x-kubernetes-preserve-unknown-fields")}
    assert {path.rsplit(".", 1)[1] for path in free} == {"config", "podTemplatePatch", "tolerations[]"}


def test_defaults_are_those_of_the_models() -> None:
    defaulted = API.create(JOB)
    del defaulted["metadata"]
    mine = FederatedTrainingJob.model_validate(JOB)
    theirs = FederatedTrainingJob.model_validate({**defaulted, "metadata": {"name": "test"}})
    assert theirs == mine
    assert defaulted["spec"]["aggregator"]["resources"] == {"cpus": 2, "gpus": 0, "gpuResource": "nvidia.com/gpu"}
    assert defaulted["spec"]["local"]["learningRate"]["schedule"] == "Cosine"


def test_nested_defaults_are_short() -> None:
    assert dict(ALL)[".spec.local"]["default"] == {}
    assert dict(ALL)[".spec.aggregator.resources"]["default"] == {"cpus": 2}


def test_null_means_something_only_where_a_default_would_take_its_place() -> None:
    assert {path for path, schema in ALL if schema.get("nullable")} == {
        ".spec.local.optimizer.clipNorm",
        ".spec.exchange.clipToMedian",
        ".spec.stop.divergence",
    }


def test_kubectl_explain_says_of_each_field_what_it_is() -> None:
    silent = {path for path, schema in ALL if path.startswith(".spec.") and not schema.get("description")}
    assert {path for path in silent if not path.endswith(("[]", "{}"))} == set()


def test_columns_status_and_names() -> None:
    spec = definition()["spec"]
    (version,) = spec["versions"]
    columns = {c["name"] for c in version["additionalPrinterColumns"]}
    assert columns == {"Round", "Rounds", "Participants", "Perplexity", "State", "Reason", "Age"}
    assert all(c["description"] for c in version["additionalPrinterColumns"])
    assert version["subresources"] == {"status": {}}
    assert spec["names"]["shortNames"] == ["ftj"]
    paths = {path for path, _ in ALL}
    for column in version["additionalPrinterColumns"]:
        field = column["jsonPath"].split("[")[0]
        assert field in paths or field.startswith(".metadata."), column


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec__participation": {"quorum": 4}}, "quorum must not be larger than the number of participants"),
        ({"spec__participation": {"cohortSize": 4}}, "cohortSize must not be larger than the number of participants"),
        ({"spec__participation": {"cohortSize": 2, "quorum": 3}}, "quorum must not be larger than cohortSize"),
        ({"spec__model": {"preset": "llama-1m", "initFrom": {"uri": "x"}}}, "exactly one of"),
        ({"spec__model": {}}, "exactly one of"),
        ({"spec__model__tokenizer": {"kind": "file"}}, "path is needed"),
        ({"spec__model__tokenizer": {"path": "x"}}, "path is needed"),
        ({"spec__local": {"batchSize": 5, "microBatchSize": 2}}, "multiple of microBatchSize"),
        ({"spec__exchange": {"partBytes": 65537}}, "multiple of 4096"),
        ({"spec__participants__2__worker": {"data": {"uri": "x"}}}, "either worker or remote"),
        ({"spec__participants__0__worker__data": {}}, "either uri or sources"),
        ({"spec__participants__0__worker__nodes": 2}, "needs local.strategy FSDP"),
    ],
)
def test_rules_that_span_fields_are_the_same_on_a_laptop_and_in_a_cluster(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        API.create(job(**changes))
    with pytest.raises(ValidationError, match=re.escape(message)):
        FederatedTrainingJob.model_validate(job(**changes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"spec__model": {"preset": "llama-10m"}}, "model is immutable"),
        ({}, {"spec__model__seed": 1}, "model is immutable"),
        ({}, {"spec__model__initFrom": None, "spec__model": {"initFrom": {"uri": "x"}}}, "model is immutable"),
        ({}, {"spec__storage__bucket": "other"}, "storage.bucket and storage.prefix are immutable"),
        ({"spec__storage__prefix": "a"}, {"spec__storage__prefix": "b"}, "are immutable"),
        ({}, {"spec__rounds": 2}, "rounds may only grow"),
        ({}, {"spec__managedBy": "other"}, "managedBy is immutable"),
        ({"status": STARTED}, {"status": STARTED, "spec__local__steps": 65}, "local cannot change once"),
        (
            {"status": STARTED},
            {"status": STARTED, "spec__participation": {"cohortSize": 1}},
            "cohortSize cannot change",
        ),
    ],
)
def test_what_may_not_change(old: dict[str, Any], new: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        API.update(job(**old), job(**new))


@pytest.mark.parametrize(
    "new",
    [
        {},
        {"spec__rounds": 30},
        {"spec__suspend": True},
        {"spec__aggregator__resources__cpus": 4},
        {"spec__local__steps": 65},
    ],
)
def test_what_may_change(new: dict[str, Any]) -> None:
    API.update(JOB, job(**new))


def test_a_name_from_which_no_names_can_be_derived_is_refused() -> None:
    with pytest.raises(Refused, match="longer than 40"):
        API.create(job(metadata__name="a" * 41))
    with pytest.raises(Refused, match="dot"):
        API.create(job(metadata__name="a.b"))


def test_participants_of_one_name_are_refused() -> None:
    twice = job(spec__participants=[JOB["spec"]["participants"][0]] * 2)
    with pytest.raises(Refused, match="duplicate"):
        API.create(twice)


# --- what pydantic accepts the CRD accepts, and the other way round ---------------------------------------------------

numbers = st.one_of(st.integers(-2, 12), st.sampled_from([0.0, 0.5, 0.9, 1.0, 1e-9, 1e9, 2**31, 2**40, 65536, 69632]))
words = st.sampled_from(["", "a", "A", "Cosine", "FedAvg", "Keep", "bf16", "FSDP", "Uniform", "DenseBF16", "x" * 41])
anything = st.one_of(numbers, words, st.booleans(), st.just([]), st.just({}))
LEAVES = [
    path.removeprefix(".").split(".")
    for path, schema in ALL
    if path.startswith(".spec.")
    and "[]" not in path
    and "properties" not in schema
    # Free-form: pydantic alone looks inside. Participants have a shape of their own.
    and path not in (".spec.model.config", ".spec.participants")
]


@given(changes=st.lists(st.tuples(st.sampled_from(LEAVES), anything), max_size=3))
@settings(max_examples=150, deadline=None)
def test_pydantic_and_the_crd_accept_the_same_jobs(changes: list[tuple[list[str], Any]]) -> None:
    document = copy.deepcopy(JOB)
    for steps, value in changes:
        put(document, steps, value)
    assert accepted_by_pydantic(document) == accepted_by_the_api_server(document)


def accepted_by_pydantic(document: dict[str, Any]) -> bool:
    import json

    try:
        FederatedTrainingJob.model_validate_json(json.dumps(document), strict=True, by_alias=True, by_name=False)
    except ValidationError:
        return False
    return True


def accepted_by_the_api_server(document: dict[str, Any]) -> bool:
    try:
        API.create(document)
    except Refused:
        return False
    return True


# --- the converter refuses what it cannot say -------------------------------------------------------------------------


class TextWithoutBound(ApiModel):
    text: str = ""


class ListWithoutBound(ApiModel):
    numbers: list[int]


class MapWithoutBound(ApiModel):
    labels: dict[str, Annotated[str, Field(max_length=3)]]


class Choice(ApiModel):
    value: int | Annotated[str, Field(max_length=3)] = 0


class Entry(ApiModel):
    name: Annotated[str, Field(max_length=3)]


class ListWithoutKey(ApiModel):
    entries: Annotated[list[Entry], Field(max_length=3)]


class Pair(ApiModel):
    pair: Annotated[tuple[int, int], Field(description="A pair.")] = (0, 0)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (TextWithoutBound, "here.text"),
        (ListWithoutBound, "here.numbers"),
        (MapWithoutBound, "here.labels"),
        (Choice, "here.value"),
        (ListWithoutKey, "here.entries"),
        (Pair, "here.pair"),
    ],
)
def test_the_converter_raises_on_what_it_cannot_express(model: type[ApiModel], path: str) -> None:
    with pytest.raises(CannotExpress, match=re.escape(path)):
        Converter(model).convert("here")
