"""The CustomResourceDefinition, made from the pydantic models: ``python -m tools.crd --check|--write FILE``.

Own converter, because what pydantic emits and what an API server takes differ in a dozen places (no ``$ref``, no
``anyOf`` with null, no ``const``, boolean ``exclusiveMinimum``), and because it must *raise* on what it cannot express
instead of leaving it out. Every string, list and map is bounded, else the API server refuses the CEL rules for their
cost.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel

from photon.api.base import ApiModel, CelRule
from photon.api.job import GROUP, KIND, PLURAL, VERSION, FederatedTrainingJob, JobSpec
from photon.api.status import JobStatus

HEADER: Final = "# Generated from photon/api by `make generate`; do not edit.\n"
SHORT_NAME: Final = "ftj"

# Lists that several writers merge entry by entry, and the field that tells entries apart.
_LIST_KEYS: Final = {
    "Participant": "name",
    "ParticipantStatus": "name",
    "DataSource": "name",
    "SourceStatus": "name",
    "Condition": "type",
}

# Names of children are derived from the job's, and a label holds 63 characters.
_ROOT_RULES: Final = (
    CelRule("size(self.metadata.name) <= 40", "metadata.name must not be longer than 40 characters"),
    CelRule("!self.metadata.name.contains('.')", "metadata.name must not contain a dot"),
    *FederatedTrainingJob.__cel_rules__,
)

_COLUMNS: Final = (
    ("Round", "integer", ".status.round", "Current round"),
    ("Rounds", "integer", ".spec.rounds", "Number of rounds"),
    ("Participants", "integer", ".status.participantsPresent", "Participants currently connected"),
    (
        "Perplexity",
        "number",
        ".status.validationPerplexity",
        "Perplexity of the last evaluated global model on held-out text",
    ),
    ("State", "string", '.status.conditions[?(@.status=="True")].type', "Condition that is true"),
    ("Reason", "string", '.status.conditions[?(@.status=="True")].reason', "Reason of that condition"),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the job was created"),
)

_COPIED: Final[tuple[str, ...]] = (
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
_KNOWN: Final = frozenset(
    {
        *_COPIED,
        *("$ref", "additionalProperties", "anyOf", "default", "description", "enum", "format", "items", "maximum"),
        *("minimum", "exclusiveMaximum", "exclusiveMinimum", "properties", "required", "title", "type", "const"),
    }
)


class CannotExpress(ValueError):
    """A model says something that a structural schema cannot; the message names the field."""


class Converter:
    """Converts pydantic's JSON schema of one model into a structural OpenAPI v3 schema."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._schema = model.model_json_schema(by_alias=True, mode="validation")
        self._definitions = self._schema.get("$defs", {})
        self._root = model.__name__
        self._rules = {cls.__name__: cls.__cel_rules__ for cls in _models(model) if issubclass(cls, ApiModel)}

    def convert(self, path: str) -> dict[str, Any]:
        """The schema; ``path`` names it in errors.

        Raises:
            CannotExpress: Something has no structural form, or is unbounded.
        """
        root = {key: value for key, value in self._schema.items() if key != "$defs"}
        return self._any(root, path, self._root)

    def _any(self, schema: dict[str, Any], path: str, model: str | None = None) -> dict[str, Any]:
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            target = self._definitions[name]
            # What is said at the field is more to the point than what is said of the class.
            return self._any({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, path, name)
        if "anyOf" in schema:
            return self._optional(schema, path)
        unknown = set(schema) - _KNOWN
        if unknown:
            raise CannotExpress(f"{path}: {', '.join(sorted(unknown))} has no form in a CRD")
        converted = self._typed(schema, path, model)
        if schema.get("description"):
            converted = {"description": " ".join(schema["description"].split("\n\n")[0].split()), **converted}
        if schema.get("default") is not None:
            converted["default"] = _without_defaults(schema["default"], converted)
        return converted

    def _optional(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """``X | None``. null is a value of its own only where leaving the field out means something else."""
        others = [option for option in schema["anyOf"] if option != {"type": "null"}]
        if len(others) != 1 or len(schema["anyOf"]) != 2:
            raise CannotExpress(f"{path}: a choice between types")
        converted = self._any({**others[0], **{k: v for k, v in schema.items() if k != "anyOf"}}, path)
        if schema.get("default") is not None:
            converted["nullable"] = True
        return converted

    def _typed(self, schema: dict[str, Any], path: str, model: str | None) -> dict[str, Any]:
        match schema.get("type"):
            case "object":
                return self._object(schema, path, model)
            case "array":
                return self._array(schema, path)
            case "string":
                return _string(schema, path)
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return {"type": "boolean"}
            case kind:
                raise CannotExpress(f"{path}: type {kind}")

    def _object(self, schema: dict[str, Any], path: str, model: str | None) -> dict[str, Any]:
        bounds = {key: schema[key] for key in _COPIED if key in schema}
        if "properties" not in schema and model is None:
            values = schema.get("additionalProperties")
            if values is True:
                return {"type": "object", **bounds, "x-kubernetes-preserve-unknown-fields": True}
            if "maxProperties" not in bounds:
                raise CannotExpress(f"{path}: a map without maxProperties")
            if not isinstance(values, dict):
                raise CannotExpress(f"{path}: a map of nothing")
            return {"type": "object", **bounds, "additionalProperties": self._any(values, f"{path}.*")}
        converted: dict[str, Any] = {"type": "object"}
        if schema.get("required"):
            converted["required"] = sorted(schema["required"])
        converted["properties"] = {
            name: self._any(child, f"{path}.{name}") for name, child in schema.get("properties", {}).items()
        }
        if rules := self._rules.get(model or "", ()):
            converted["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
        return converted

    def _array(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        if "maxItems" not in schema:
            raise CannotExpress(f"{path}: a list without maxItems")
        item = schema["items"]
        name = item.get("$ref", "").removeprefix("#/$defs/")
        converted: dict[str, Any] = {"type": "array", **{key: schema[key] for key in _COPIED if key in schema}}
        converted["items"] = self._any(item, f"{path}[]")
        if name in _LIST_KEYS:
            converted["x-kubernetes-list-type"] = "map"
            converted["x-kubernetes-list-map-keys"] = [_LIST_KEYS[name]]
        elif name:
            raise CannotExpress(f"{path}: a list of {name} needs a key in tools.crd")
        else:
            converted["x-kubernetes-list-type"] = "atomic"
        return converted


def _validation(rule: CelRule) -> dict[str, str]:
    named = {} if rule.path is None else {"fieldPath": rule.path, "reason": "FieldValueForbidden"}
    return {"rule": rule.rule, "message": rule.message, **named}


def _string(schema: dict[str, Any], path: str) -> dict[str, Any]:
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed:
        return {"type": "string", "enum": allowed, "maxLength": max(map(len, allowed))}
    if "maxLength" not in schema:
        raise CannotExpress(f"{path}: a string without maxLength")
    return {"type": "string", **{key: schema[key] for key in _COPIED if key in schema}}


def _number(schema: dict[str, Any]) -> dict[str, Any]:
    converted: dict[str, Any] = {"type": schema["type"]}
    if schema["type"] == "integer":
        converted["format"] = "int64"
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if bound in schema:
            converted[bound] = schema[bound]
        elif exclusive in schema:  # a number in JSON Schema, a flag in OpenAPI 3.0
            converted[bound] = schema[exclusive]
            converted[exclusive] = True
    return converted


def _without_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """``value`` less what the defaults within ``schema`` would fill in anyway: mostly ``{}``."""
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    kept = {}
    for name, child in value.items():
        child_schema = properties.get(name, {})
        if child is None and not child_schema.get("nullable"):
            continue
        reduced = _without_defaults(child, child_schema)
        if "default" not in child_schema or reduced != child_schema["default"]:
            kept[name] = reduced
    return kept


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """``model`` and all models that its fields hold."""
    yield model
    for info in model.model_fields.values():
        yield from _models_in(info.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _models(annotation)
    for argument in get_args(annotation):
        yield from _models_in(argument)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition as plain data."""
    schema = {
        "description": "Several institutions pre-train one language model without pooling their data.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "maxLength": 64},
            "kind": {"type": "string", "maxLength": 64},
            "metadata": {"type": "object"},
            "spec": Converter(JobSpec).convert("spec"),
            "status": Converter(JobStatus).convert("status"),
        },
        "x-kubernetes-validations": [_validation(rule) for rule in _ROOT_RULES],
    }
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": text} for name, kind, path, text in _COLUMNS
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["photon"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """No anchors: people read this file."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def render() -> str:
    """The text of manifests/crd.yaml."""
    return HEADER + yaml.dump(definition(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def main() -> int:
    """Write the file, or say how it differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.crd", description="The CRD of FederatedTrainingJob.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE", help="exit 1 and show the difference if FILE is outdated")
    action.add_argument("--write", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    text = render()
    if arguments.write:
        arguments.write.write_text(text)
        return 0
    found = arguments.check.read_text() if arguments.check.exists() else ""
    if found == text:
        return 0
    difference = difflib.unified_diff(
        found.splitlines(True), text.splitlines(True), str(arguments.check), "what photon/api says"
    )
    sys.stderr.writelines(difference)
    sys.stderr.write("error: the CRD is outdated; run make generate\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
