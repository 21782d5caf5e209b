"""From a job file to a job: every error at once, each with file and line, field and fix.

Checked as strictly as the API server checks it (no ``"16"`` for 16, no snake_case), so what a laptop accepts a cluster
accepts too.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from photon.api import pod_fields
from photon.api.document import Document, FieldError, JobFileError, Path, override, parse
from photon.api.job import FederatedTrainingJob

# An API server takes no object that is larger than 1.5 MiB.
_MAX_BYTES: Final = 3 * 2**19
_PASSES: Final = 5
_PATTERNS: Final = {
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "use lower-case letters, digits and '-', and begin and end with no '-'",
    r"^https?://": "must be a URL that begins with http:// or https://",
    r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$": "must be a quantity like 16Gi or 500M",
    "^(byte|file)$": "must be one of byte, file",
}


def load_job(path: FilePath, *, overrides: Sequence[str] = (), check_pods: bool = False) -> FederatedTrainingJob:
    """The job in the file ``path``, with ``overrides`` (``spec.local.steps=16``) applied.

    ``check_pods``: also refuse fields of pods that the pinned Kubernetes client does not know. Programs that are handed
    a job do not: a cluster may be newer.

    Raises:
        JobFileError: With all errors, in the order of the file.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder, not a job file")
        raw = path.read_bytes()
    except OSError as error:
        problem = f"cannot read the job file: {(error.strerror or str(error)).lower()}"
        raise JobFileError([FieldError(where=str(path), path="", problem=problem)]) from error
    if len(raw) > _MAX_BYTES:
        raise JobFileError(
            [FieldError(where=str(path), path="", problem="is larger than 1.5 MiB: this is no job file")]
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise JobFileError([FieldError(where=str(path), path="", problem="is not UTF-8 text")]) from error
    return parse_job(text, str(path), overrides=overrides, check_pods=check_pods)


def parse_job(
    text: str, source: str, *, overrides: Sequence[str] = (), check_pods: bool = False, ignore_unknown: bool = False
) -> FederatedTrainingJob:
    """The job in ``text``; ``source`` names it in messages, ``check_pods``: see :func:`load_job`.

    ``ignore_unknown``: leave out fields that this release does not know, as of an object that a later one made.

    Raises:
        JobFileError: With all errors.
    """
    document = parse(text, source)
    for assignment in overrides:
        override(document, assignment)
    job, errors = _validate(document, ignore_unknown=ignore_unknown)
    # One message for one field: why its text is refused says more than what it is not.
    refused = {error.path for error in document.errors if error.path}
    errors = document.errors + [error for error in errors if error.path not in refused]
    if check_pods:
        errors += _pod_errors(document)
    if errors or job is None:
        raise JobFileError(sorted(errors, key=_order))
    return job


def _pod_errors(document: Document) -> list[FieldError]:
    """What of the pods' settings Kubernetes does not know, or not in this form."""
    found: list[FieldError] = []
    spec = document.data.get("spec") if isinstance(document.data, dict) else None
    if not isinstance(spec, dict):
        return found
    placements: list[tuple[Path, Any]] = [(("spec", "aggregator"), spec.get("aggregator"))]
    participants = spec.get("participants")
    for number, participant in enumerate(participants if isinstance(participants, list) else []):
        worker = participant.get("worker") if isinstance(participant, dict) else None
        placements.append((("spec", "participants", number, "worker"), worker))
    for at, placement in placements:
        if not isinstance(placement, dict):
            continue
        tolerations = placement.get("tolerations")
        given: list[tuple[Path, Any, str]] = [
            ((*at, "podTemplatePatch"), placement.get("podTemplatePatch"), pod_fields.POD_TEMPLATE)
        ]
        given += [
            ((*at, "tolerations", number), toleration, pod_fields.TOLERATION)
            for number, toleration in enumerate(tolerations if isinstance(tolerations, list) else [])
        ]
        for base, value, kind in given:
            found += [
                document.error((*base, *path), _unknown(str(path[-1]), names))
                for path, names in pod_fields.misspelled(value, kind)
            ]
            found += [document.error((*base, *path), problem) for path, problem in pod_fields.misshapen(value, kind)]
    return found


def _order(error: FieldError) -> tuple[int, str]:
    line = re.search(r":(\d+)$", error.where)
    return (int(line[1]) if line else 0, error.path)


def _validate(document: Document, *, ignore_unknown: bool) -> tuple[FederatedTrainingJob | None, list[FieldError]]:
    """Validate, take out what is wrong, validate again: rules that span fields run only once the fields are right."""
    if not isinstance(document.data, dict):
        return None, [document.error((), "a job is a mapping that begins with apiVersion and kind")]
    data = json.loads(json.dumps(document.data))
    errors: dict[Path, FieldError] = {}
    wrong_values: list[Path] = []
    for _ in range(_PASSES):
        try:
            job = FederatedTrainingJob.model_validate_json(
                json.dumps(data),
                strict=True,
                by_alias=True,
                by_name=False,
                extra="ignore" if ignore_unknown else "forbid",
            )
        except ValidationError as error:
            # A rule over fields of which one was taken out says nothing about the file.
            fresh = [
                detail
                for detail in error.errors()
                if (path := detail["loc"]) not in errors
                and not (detail["type"] == "value_error" and any(w[: len(path)] == path for w in wrong_values))
            ]
            for detail in fresh:
                errors[detail["loc"]] = document.error(detail["loc"], _explain(detail, detail["loc"]))
            removed = [_remove(data, detail["loc"]) for detail in fresh]
            if not any(removed):
                return None, list(errors.values())
            wrong_values += [detail["loc"] for detail in fresh if detail["type"] != "extra_forbidden"]
        else:
            return (None if errors else job), list(errors.values())
    return None, list(errors.values())


def _remove(data: Any, path: Path) -> bool:
    """Delete ``path`` from ``data``; False when it is not there or would take an entry of a list with it."""
    for step in path[:-1]:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return False
    if not path or not isinstance(data, dict) or path[-1] not in data:
        return False
    del data[path[-1]]
    return True


def _explain(error: ErrorDetails, path: Path) -> str:
    """What is wrong and what to write instead, in one sentence."""
    got, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown_field(path)
        case "missing":
            return "is required"
        case "enum" | "literal_error":
            return _not_allowed(got, str(context["expected"]))
        case "greater_than_equal":
            return f"must be at least {context['ge']} (is {_show(got)})"
        case "greater_than":
            return f"must be greater than {context['gt']} (is {_show(got)})"
        case "less_than_equal":
            return f"must be at most {context['le']} (is {_show(got)})"
        case "less_than":
            return f"must be less than {context['lt']} (is {_show(got)})"
        case "string_pattern_mismatch":
            pattern = str(context["pattern"])
            return f"{_PATTERNS.get(pattern, f'must match {pattern}')} (is {_show(got)})"
        case "string_too_short" | "too_short":
            return "must not be empty" if context["min_length"] == 1 else f"is shorter than {context['min_length']}"
        case "string_too_long" | "too_long":
            return f"is longer than the {context['max_length']} allowed"
        case "int_type" | "int_from_float" | "int_parsing" | "float_type" | "float_parsing":
            kind = "whole number" if error["type"].startswith("int") else "number"
            return f"must be a {kind}{_quotes_hint(got)} (is {_show(got)})"
        case "bool_type" | "bool_parsing":
            return f"must be true or false (is {_show(got)})"
        case "string_type":
            return f"must be text: put it in quotes (is {_show(got)})"
        case "list_type":
            return "must be a list: begin each entry with '- '"
        case "dict_type" | "model_type":
            return f"must be a mapping of fields (is {_show(got)})"
        case "value_error":
            return str(context["error"])
        case _:
            return f"{error['msg']} (is {_show(got)})"


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _quotes_hint(value: Any) -> str:
    looks_like_number = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value.strip())
    return ": remove the quotes" if looks_like_number else ""


def _unknown_field(path: Path) -> str:
    model = model_at(path[:-1])
    names = [f.alias or name for name, f in model.model_fields.items()] if model else []
    return _unknown(str(path[-1]), names)


def _unknown(wrong: str, names: Sequence[str]) -> str:
    close = closest(wrong, names)
    if close:
        return f"unknown field; did you mean {close}?"
    return f"unknown field; known here: {', '.join(sorted(names))}" if names else "unknown field"


def _not_allowed(got: Any, expected: str) -> str:
    """``expected`` is pydantic's ``'A', 'B' or 'C'``."""
    allowed = re.findall(r"'([^']*)'", expected) or [expected]
    close = closest(str(got), allowed)
    if len(allowed) == 1:
        return f"must be {allowed[0]} (is {_show(got)})"
    hint = f"; did you mean {close}?" if close else ""
    return f"must be one of {', '.join(allowed)} (is {_show(got)}){hint}"


def closest(wrong: str, names: Sequence[str]) -> str | None:
    """The name that was probably meant: case, ``_`` and ``-`` do not count."""
    plain = {re.sub(r"[-_]", "", name).lower(): name for name in names}
    found = difflib.get_close_matches(re.sub(r"[-_]", "", wrong).lower(), list(plain), n=1, cutoff=0.7)
    return plain[found[0]] if found else None


def model_at(path: Path) -> type[BaseModel] | None:
    """The model class of the object at ``path`` of a job; None when there is none."""
    current: Any = FederatedTrainingJob
    for step in path:
        current = _unwrap(current)
        if isinstance(step, int):
            arguments = get_args(current)
            current = arguments[0] if get_origin(current) is list else None
        elif isinstance(current, type) and issubclass(current, BaseModel):
            fields = {f.alias or name: f.annotation for name, f in current.model_fields.items()}
            current = fields.get(step)
        else:
            return None
    current = _unwrap(current)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrap(annotation: Any) -> Any:
    """Strip Annotated and ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next(a for a in get_args(annotation) if a is not type(None))
        else:
            return annotation
