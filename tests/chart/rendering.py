"""Calls Helm on charts/photon and looks into what it renders."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "photon"
CI_VALUES: Final = sorted(CHART.glob("ci/*-values.yaml"))
EXAMPLES: Final = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
NAMESPACE: Final = "photon"
HELM_SECONDS: Final = 60

Object = dict[str, Any]


class Refused(Exception):
    """Helm refused; the message is what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The chart under one Helm, with a home of its own so that nobody's settings reach the tests."""

    program: Path
    home: Path
    _rendered: dict[tuple[str, ...], list[Object]] = field(default_factory=dict)

    def helm(self, *arguments: str) -> str:
        """What Helm prints.

        Raises:
            Refused: It ended with an error.
        """
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [str(self.program), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=HELM_SECONDS,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def render(self, *arguments: str, values: Path | None = None) -> list[Object]:
        """The objects of a release ``photon`` in the namespace ``photon``; hooks included."""
        given = (*arguments, *(("--values", str(values)) if values else ()))
        if given not in self._rendered:
            text = self.helm("template", "photon", str(CHART), "--namespace", NAMESPACE, *given)
            self._rendered[given] = [document for document in yaml.safe_load_all(text) if document is not None]
        return self._rendered[given]

    def refusal(self, *arguments: str) -> str:
        """What Helm says against these values; fails when it takes them."""
        try:
            self.render(*arguments)
        except Refused as refused:
            return str(refused)
        raise AssertionError(f"Helm took {arguments}")


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def named(objects: Iterable[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def pod_specs(objects: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    """``Kind/name`` and pod spec of everything that runs pods."""
    for item in objects:
        if item["kind"] == "Pod":
            yield f"Pod/{item['metadata']['name']}", item["spec"]
        elif "template" in item.get("spec", {}):
            yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]["spec"]


def environment(container: Object) -> dict[str, Any]:
    """Name to value, or to valueFrom."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}
