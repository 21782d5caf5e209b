"""The data-flow sheet, made from the routes of the door and their models: ``python -m tools.data_flow --write FILE``.

Every field that can cross the border between an institution and the hub is in it, with the values that it can have. A
new field or route changes the sheet, so `make check` fails until someone has looked at it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from fastapi.routing import APIRoute
from pydantic import BaseModel

from photon.policy.document import Reveal
from photon.protocol.messages import Progress
from photon.protocol.records import Evaluation
from photon.trust import statements
from photon_aggregator.http.border import routes
from photon_gate.guard import reveal

ABOUT: Final = """\
# Data-flow sheet

Made from the code by `make generate`; `make check` fails when the two differ. For those who approve that an institution
takes part in a job of another one, and for those who configure its firewall. What stops which attack is in the
[threat model](threat-model.md).

## Connections

| from | to | what |
|---|---|---|
| the institution | the hub's door, HTTPS | the messages below: JSON; what matters in them is signed |
| the institution | the hub's object store, HTTPS | by URLs of one object each: reads the model, writes its update |
| the hub | the institution | nothing: no connection is ever opened towards an institution |

**The parts of an update are the only bulk data that leaves:** the difference between the trained and the global model,
as numbers. Text, tokens and paths are in no message. What an update can reveal of the text that it was trained on is
[not protected](threat-model.md#what-is-not-protected).
"""
LEAVES: Final = """
## What leaves the institution

Headers: the session, `Photon-Protocol`, `Photon-Version`. No field holds free text: each is a number in a range, a
digest, a key, a name, or a word of a list. The last column says what the gate keeps back, always or unless the
institution's policy allows it.
"""
ENTERS: Final = """
## What enters the institution

In the order of the requests that it answers. Text for people is at most printed; none of it is run or opened.
"""

PURPOSE: Final[Mapping[str, str]] = {
    "hello": "who the hub is, and a challenge",
    "enrolment": "once: the institution's key, with the token of its invitation",
    "session": "every 15 minutes: a session, for a signature over the challenge",
    "job": "what is trained, and how",
    "task": "what to do next",
    "participant": "where the job stands",
    "progress": "every second or two while there is a task",
    "parts": "once a round or more: URLs to write the parts of an update to",
    "update": "once a round: the update is complete",
    "evaluation": "when the hub asks for it: the global model on held-out text",
    "commits": "what the hub signed of each round",
    "log": "after the hub has shown a longer log: that it continues the one before",
    "cosign": "every 15 minutes: the head of the hub's log, as it was seen",
    "leave": "once: the institution leaves the job",
    "keys": "when it is wanted: another key",
    "state": "when it changes: here, away, or not taking part",
}
# Characters of a public key, whose spelling is checked by more than a pattern.
PUBLIC_KEY: Final = 51
# What is larger is no bound that anyone set for its meaning.
UNBOUNDED: Final = 2**53
WORDS: Final[Mapping[str, str]] = {
    r"^[0-9a-f]{64}$": "sha256",
    r"^[0-9a-f]{32}$": "32 hexadecimal digits",
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "name: a-z, 0-9, -",
    r"^[a-z0-9-]{1,63}/[a-z0-9-]{1,63}$": "namespace and name of the job",
    r"^[A-Z][A-Za-z0-9]{0,63}$": "word of letters and digits",
    r"^ed25519:[A-Za-z0-9_-]{43}$": "public key",
    r"^phi_[a-z2-7]{8}\.[A-Za-z0-9_-]{43}$": "the invitation's token",
    r"^[a-z2-7]{8}$": "the invitation's id",
    r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$": "version",
    r"^[A-Za-z0-9_-]{43}$": "random token",
}
# Of fields that leave, for people who do not know the code; by the end of their path.
MEANING: Final[Mapping[str, str]] = {
    "publicKey": "The institution's key.",
    "newKey": "The key from now on.",
    "audience": "Key id of the hub: it counts nowhere else.",
    "jobName": "Of the invitation.",
    "envelope: invitation": "Which invitation is used.",
    "participant": "The institution's name in the job, as it was invited.",
    "version": "Of Photon at the institution.",
    "protocol": "Of these messages.",
    "challenge": "The hub's, from hello.",
    "token": "From the invitation; the hub keeps only its sha256.",
    "job": "Digest of the job's document.",
    "round": "Which round.",
    "plan": "Digest of the hub's plan of the round.",
    "commit": "Digest of the hub's record of the round.",
    "phase": "What it does at present.",
    "step": "How far it is in its task.",
    "learningRate": "Of the inner optimizer.",
    "memoryBytes": "Memory in use.",
    "mfu": "Share of the devices' peak speed, in use.",
    "tokensPerSecond": "Speed of training.",
    "bytesDown": "Of this task so far.",
    "seconds.<phase>": "Of this task so far.",
    "retries.<phase>": "Requests to the object store that were repeated.",
    "elements": "Values in the update.",
    "tokens": "How many tokens: trained on in the round, or measured in an evaluation.",
    "localSteps": "Steps of the round.",
    "parts[].index": "Which part of the update.",
    "parts[].start": "First value of the part.",
    "parts[].stop": "After its last value.",
    "parts[].sizeBytes": "Size of the part.",
    "parts[].sha256": "Digest of the part's bytes.",
    "clippedFraction": "Share of steps whose gradient was clipped.",
    "envelope: manifest": "Digest of the manifest.",
    "envelope: result": "Digest of the result.",
    "envelope: size": "How many entries of the hub's log were seen.",
    "envelope: head": "Digest of all of them.",
    "envelope: reason": "Why, as a code.",
    "reason": "Why, as a code.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One that crosses. ``free``: its text has no pattern."""

    path: str
    values: str
    meaning: str
    free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request of an institution and its answer."""

    method: str
    path: str
    name: str
    sent: tuple[Field, ...]
    answered: tuple[Field, ...]


def messages() -> list[Message]:
    """All that the door serves, in the order of its routes.

    Raises:
        KeyError: A route without a purpose.
    """
    found = []
    for route in routes.router.routes:
        assert isinstance(route, APIRoute)
        hints = get_type_hints(route.endpoint)
        reply = hints.pop("return")
        sent = [field for model in _models(hints.values()) for field in fields(model)]
        answered = [field for model in _models([reply]) for field in fields(model)]
        found.append(
            Message(
                method=min(route.methods or ()),
                path=route.path.removeprefix("/"),
                name=route.path.rpartition("/")[2],
                sent=tuple(sent),
                answered=tuple(answered),
            )
        )
    return found


def _models(hints: Any) -> list[type[BaseModel]]:
    alternatives = [one for hint in hints for one in (get_args(hint) or (hint,))]
    return [
        one
        for one in alternatives
        if isinstance(one, type) and issubclass(one, BaseModel) and one.__module__.startswith("photon.protocol.")
    ]


def fields(model: type[BaseModel]) -> list[Field]:
    """Every field of a message, nested ones too; an envelope's are those of the statement in it."""
    schema = model.model_json_schema(by_alias=True)
    kept: dict[str, Field] = {}
    for field in _fields(schema, schema.get("$defs", {}), ""):
        if re.fullmatch(r"envelopes?(\[\])?", field.path):
            for inner in _signed(model):
                path = f"{field.path}: {inner.path}"
                kept[path] = Field(path=path, values=inner.values, meaning=inner.meaning, free=inner.free)
        elif (known := kept.get(field.path)) is None:
            kept[field.path] = field
        elif field.values not in known.values:
            values = f"{known.values}, or {field.values}"
            kept[field.path] = Field(
                path=field.path, values=values, meaning=known.meaning, free=known.free or field.free
            )
    return list(kept.values())


def _signed(model: type[BaseModel]) -> list[Field]:
    """Of the statement that the docstring of ``model`` names."""
    named = re.search(r"``envelopes?``: (\w+)", model.__doc__ or "")
    assert named is not None, f"{model.__name__} does not say what its envelope holds"
    return fields(getattr(statements, named[1]))


def _fields(schema: dict[str, Any], defs: dict[str, Any], path: str) -> Iterator[Field]:
    if "$ref" in schema:
        if path and schema["$ref"].endswith("/Progress"):
            yield Field(path=f"{path}.*", values="as in `POST v1/progress`", meaning="The report that ends the task.")
            return
        schema = {**defs[schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        about = {"description": schema["description"]} if "description" in schema else {}
        for choice in choices:
            if choice.get("type") != "null":
                yield from _fields({**choice, **about}, defs, path)
    elif "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from _fields(inner, defs, f"{path}.{name}" if path else name)
    elif schema.get("type") == "array":
        yield from _fields(schema["items"], defs, f"{path}[]")
    elif (inner := _entries(schema)) is not None:
        key = "phase" if "wait" in schema.get("propertyNames", {}).get("enum", ()) else "name"
        yield from _fields(inner, defs, f"{path}.<{key}>")
    else:
        values, free = _values(schema)
        yield Field(path=path, values=values, meaning=schema.get("description", ""), free=free)


def _entries(schema: dict[str, Any]) -> dict[str, Any] | None:
    """What a mapping holds by name; None: ``schema`` is none."""
    for inner in (*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            return dict(inner)
    return None


def _values(schema: dict[str, Any]) -> tuple[str, bool]:
    """The values that a field can have; whether that is any text."""
    if "const" in schema:
        return f"`{schema['const']}`", False
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"]), False
    kind = schema.get("type")
    if kind == "string":
        pattern = schema.get("pattern")
        if pattern is not None:
            return WORDS.get(pattern, f"`{pattern}`"), False
        if schema.get("minLength") == schema.get("maxLength") == PUBLIC_KEY:
            return "public key", False
        limit = f" of at most {schema['maxLength']} characters" if "maxLength" in schema else ""
        return f"text{limit}", True
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        whole = "whole number" if kind == "integer" else "number"
        if least is None:
            return whole, False
        return (
            f"{whole}, {least:g} to {most:g}" if most is not None and most < UNBOUNDED else f"{whole}, from {least:g}",
            False,
        )
    return ("yes or no" if kind == "boolean" else str(kind or "any")), kind is None


def sheet() -> str:
    """The whole document."""
    found = messages()
    text = ABOUT + LEAVES
    for message in found:
        if message.sent:
            text += _section(message, message.sent)
    text += "\nWithout a body: " + ", ".join(
        f"`{one.method} {one.path}` ({PURPOSE[one.name]})" for one in found if not one.sent
    )
    text += (
        ".\nTheir queries hold a random nonce, how long to wait, and the last task, round or entry of the log known.\n"
        + ENTERS
    )
    for message in found:
        if message.answered:
            text += _section(message, message.answered)
    return text


def _section(message: Message, found: tuple[Field, ...]) -> str:
    rows = [f"\n### `{message.method} {message.path}`: {PURPOSE[message.name]}\n"]
    leaves = found is message.sent
    back = kept_back() if leaves else {}
    rows += ["| field | values | meaning | leaves |", "|---|---|---|---|"] if leaves else []
    rows += [] if leaves else ["| field | values | meaning |", "|---|---|---|"]
    for field in found:
        cells = [f"`{field.path}`", field.values, meaning(field) if leaves else field.meaning]
        cells += [back.get(f"{message.name}: {field.path.partition('.<')[0]}", "always")] if leaves else []
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def kept_back() -> dict[str, str]:
    """What the gate's own code keeps back of reports and results: ``message: field`` -> when it leaves."""
    report = Progress(
        task_id="train-00001",
        phase="train",
        seconds={"train": 1.0},
        retries={"pull": 1},
        **dict.fromkeys(_NUMBERS, 1),
    )
    whole = report.model_dump(by_alias=True)

    def left(policy: Reveal) -> set[str]:
        cut = reveal.of_progress(policy, report).model_dump(by_alias=True)
        return {name for name, value in whole.items() if cut.get(name) == value}

    always = left(Reveal())
    found = {f"progress: {name}": "never" for name in whole if name not in always}
    for flag, field in Reveal.model_fields.items():
        for name in left(Reveal.model_validate({flag: True})) - always:
            found[f"progress: {name}"] = f"with `reveal.{field.alias}`"
    found["update: submission.progress.*"] = "as there"
    result = {"lossSum": 1.0, "tokens": 1, "bytes": 1, "heldOut": 1}
    said = {"job": "f" * 64, "round": 1, "commit": "f" * 64, "participant": "north"}
    evaluation = Evaluation.model_validate({**said, "result": {**result, "sources": {"ward": result}}})
    cut = reveal.of_evaluation(evaluation).model_dump(by_alias=True)["result"]
    for name in evaluation.model_dump(by_alias=True)["result"]:
        if not cut.get(name):
            found[f"evaluation: evaluation.result.{name}"] = "never"
    return found


_NUMBERS: Final = tuple(
    name for name in Progress.model_fields if name not in ("task_id", "phase", "seconds", "retries")
)


def meaning(field: Field) -> str:
    """Of a field that leaves: as MEANING says it, else as its model describes it."""
    ends = (end for end in MEANING if field.path == end or field.path.endswith((f".{end}", f": {end}")))
    return MEANING.get(max(ends, key=len, default=""), field.meaning)


def main() -> int:
    """Write the sheet, or say that it is outdated."""
    parser = argparse.ArgumentParser(prog="python -m tools.data_flow", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE")
    action.add_argument("--write", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.write:
        arguments.write.write_text(sheet())
    elif arguments.check.read_text() != sheet():
        sys.stderr.write(f"error: {arguments.check} is outdated: what crosses the border has changed; make generate\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
