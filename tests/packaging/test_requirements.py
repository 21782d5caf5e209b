"""Each image's pinned requirements: exactly what its part needs, at the versions that everything is tested with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PARTS = {"operator": "operator", **{part: f"services/{part}" for part in ("aggregator", "gate", "worker")}}
EXTRAS = {
    "services/extras/sight.txt": ("tensorboard", "traces"),
    "services/extras/wandb.txt": ("tensorboard", "traces", "wandb"),
}
# Operator and gate touch no tensor (Makefile, pins).
LEFT_OUT = {"operator": {"numpy", "safetensors"}, "gate": {"numpy", "safetensors"}}


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def needed(*extras: str) -> set[str]:
    """All distributions below the project and its ``extras``, as they are installed here."""
    stated = [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    wanted = [Requirement(text) for text in PROJECT["dependencies"] + stated]
    found: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for text in distribution(requirement.name).requires or []:
            below = Requirement(text)
            chosen = ["", *requirement.extras]
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in chosen):
                wanted.append(below)
    return {name for name, _ in found}


@pytest.mark.parametrize("extra", PARTS)
def test_an_image_installs_what_its_part_needs_and_nothing_else(extra: str) -> None:
    pinned = pins(ROOT / PARTS[extra] / "requirements.txt")
    assert set(pinned) == needed(extra) - LEFT_OUT.get(extra, set()), "run make pins"


@pytest.mark.parametrize("path", EXTRAS)
def test_images_may_have_trackers_and_traces(path: str) -> None:
    assert set(pins(ROOT / path)) == needed(*EXTRAS[path]), "run make pins"


@pytest.mark.parametrize("part", ["aggregator", "worker"])
def test_images_have_what_the_charts_settings_ask_for(part: str) -> None:
    assert "ARG EXTRAS=sight\n" in (ROOT / "services" / part / "Dockerfile").read_text()
    assert {"tensorboardx", "opentelemetry-exporter-otlp-proto-http"} <= set(pins(ROOT / "services/extras/sight.txt"))


@pytest.mark.parametrize(
    "path", [*(f"{part}/requirements.txt" for part in PARTS.values()), "services/store/requirements.txt", *EXTRAS]
)
def test_versions_are_those_that_are_tested(path: str) -> None:
    tested = pins(ROOT / "requirements.txt")
    assert {name: tested.get(name) for name in pins(ROOT / path)} == pins(ROOT / path), "run make pins"


@pytest.mark.parametrize("extra", ["operator", "aggregator", "gate"])
def test_only_the_worker_has_torch(extra: str) -> None:
    assert not {"torch", "transformers", "tokenizers"} & set(pins(ROOT / PARTS[extra] / "requirements.txt"))


@pytest.mark.parametrize("path", [*(f"{part}/Dockerfile" for part in PARTS.values()), "services/store/Dockerfile"])
def test_a_dockerfile_takes_a_base_and_ends_as_a_numeric_user(path: str) -> None:
    text = (ROOT / path).read_text()
    assert "ARG BASE=python:3.11-slim-bookworm\n" in text
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${BASE}", "dependencies"}
    last = text[text.rindex("\nFROM ") :]
    assert "\nUSER 10001:10001\n" in last
    assert ":latest" not in text
