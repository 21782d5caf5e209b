"""The data-flow sheet says all that crosses the border, and lets no text out; the tests of the threat model exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from photon.protocol import border
from tools.data_flow import Field, Message, meaning, messages, sheet

ROOT = Path(__file__).parents[1]
LEAVING = [(message, field) for message in messages() for field in message.sent]


def test_the_door_serves_what_the_protocol_says() -> None:
    said = set(re.findall(r"^ {4}(GET|POST) +(v1/[^ ?]+)", border.__doc__ or "", re.MULTILINE))
    assert {(message.method, message.path) for message in messages()} == said


@pytest.mark.parametrize(("message", "field"), LEAVING, ids=lambda one: getattr(one, "path", ""))
def test_a_field_that_leaves_is_no_free_text_and_is_explained(message: Message, field: Field) -> None:
    assert not field.free, f"{message.path}: {field.path} can hold any text"
    assert meaning(field), f"{message.path}: {field.path} needs a line in tools.data_flow.MEANING"


def test_the_sheet_names_what_is_inside_signed_statements() -> None:
    text = sheet()
    for field in ("envelope: manifest", "envelope: result", "envelopes[]: key", "task.model.files[].url"):
        assert f"| `{field}` |" in text


def test_the_sheet_says_what_the_gate_keeps_back() -> None:
    rows = [line for line in sheet().splitlines() if line.startswith("| `")]

    def leaves(field: str) -> set[str]:
        return {row.split(" | ")[-1].rstrip(" |") for row in rows if row.startswith(f"| `{field}` |")}

    assert leaves("phase") == {"always"}
    assert leaves("memoryBytes") == {"with `reveal.memory`"}
    assert leaves("seconds.<phase>") == leaves("tokensPerSecond") == {"with `reveal.tokensPerSecond`"}
    assert leaves("loss") == leaves("evaluation.result.sources.<name>.lossSum") == {"never"}
    assert leaves("submission.manifest.metrics.lossMean") == {"always"}


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/guides/threat-model.md").read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 20
    assert named <= defined
