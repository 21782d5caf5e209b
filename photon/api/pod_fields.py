"""Whether a patch of a pod template has the form of one: fields that exist, lists and maps where they belong.

pod_fields.json is generated from the types of the Kubernetes client (tools/pod_fields.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

Path = tuple[str | int, ...]

POD_TEMPLATE: Final = "V1PodTemplateSpec"
TOLERATION: Final = "V1Toleration"


def misspelled(value: Any, kind: str) -> Iterator[tuple[Path, list[str]]]:
    """Fields of ``value`` that Kubernetes does not have, each with the names of those that it has there."""
    for path, problem in _problems(value, kind, ()):
        if isinstance(problem, list):
            yield path, problem


def misshapen(value: Any, kind: str) -> Iterator[tuple[Path, str]]:
    """Values that are no mapping, list or scalar where one is needed; unknown fields are let pass."""
    for path, problem in _problems(value, kind, ()):
        if isinstance(problem, str):
            yield path, problem


@functools.cache
def _types() -> dict[str, dict[str, str]]:
    loaded: dict[str, dict[str, str]] = json.loads(files("photon.api").joinpath("pod_fields.json").read_bytes())
    return loaded


def _problems(value: Any, kind: str, path: Path) -> Iterator[tuple[Path, str | list[str]]]:
    if value is None or kind == "any":  # null deletes
        return
    if kind.startswith("["):
        if not isinstance(value, list):
            yield path, "must be a list: begin each entry with '- '"
            return
        for number, entry in enumerate(value):
            yield from _problems(entry, kind[1:-1], (*path, number))
    elif kind == "scalar":
        if isinstance(value, Mapping | list):
            yield path, "must be a single value"
    elif not isinstance(value, Mapping):
        yield path, "must be a mapping of fields"
    elif kind.startswith("{"):
        for key, entry in value.items():
            yield from _problems(entry, kind[1:-1], (*path, key))
    else:
        known = _types()[kind]
        for key, entry in value.items():
            if key in known:
                yield from _problems(entry, known[key], (*path, key))
            elif not key.startswith("$"):  # $patch and its like say how to merge
                yield (*path, key), sorted(known)
