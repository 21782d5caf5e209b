"""A job file as plain data, with the line of every field, so that a mistake can be shown where it was made.

Scalars follow YAML 1.2 (as JSON and people do), not PyYAML's 1.1: ``on``, ``yes`` and ``12:30`` are text, ``1e-3`` is a
number, dates are text. Duplicate keys are mistakes. Line numbers come from the nodes' marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing to mend: where (file and line, or the option it came from), which field, what is wrong and the fix."""

    where: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.problem}" if self.path else f"{self.where}: {self.problem}"


class JobFileError(ValueError):
    """The job file is wrong; ``mistakes`` has at least one entry, in the order of the file."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(map(str, mistakes)))


@dataclass(slots=True)
class Document:
    """Plain data of a file. ``places`` maps the path of a field to ``file:line`` of its key."""

    source: str
    data: Any
    places: dict[Path, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def where(self, path: Path) -> str:
        """The place of ``path``, or of its closest ancestor in the file (for a field that is missing)."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source

    def mistake(self, path: Path, problem: str) -> Mistake:
        return Mistake(where=self.where(path), path=spell(path), problem=problem)


def spell(path: Path) -> str:
    """``spec.participants[0].worker``: a path as people write it."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2's core schema, less infinities."""


_RESOLVERS: Final = (
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN\0"),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
        "-+.0123456789",
    ),
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, ["" if c == "\0" else c for c in _first])


def parse(text: str, source: str) -> Document:
    """The first and only document of ``text``.

    Raises:
        JobFileError: It is not YAML, is empty, or holds several documents.
    """
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        what = " ".join(filter(None, (error.problem, error.context)))
        raise JobFileError([Mistake(where=where, path="", problem=f"not valid YAML: {what}")]) from error
    except yaml.YAMLError as error:
        raise JobFileError([Mistake(where=source, path="", problem=f"not valid YAML: {error}")]) from error
    nodes = [node for node in nodes if node is not None]
    if len(nodes) != 1:
        problem = (
            "the file is empty" if not nodes else f"one job is expected, but the file holds {len(nodes)} documents"
        )
        raise JobFileError([Mistake(where=source, path="", problem=problem)])
    document = Document(source=source, data=None)
    document.data = _convert(nodes[0], (), document, parents=())
    return document


def _convert(node: yaml.Node, path: Path, document: Document, *, parents: tuple[int, ...]) -> Any:
    document.places.setdefault(path, f"{document.source}:{node.start_mark.line + 1}")
    if id(node) in parents:
        document.mistakes.append(document.mistake(path, "an anchor must not contain itself"))
        return None
    parents = (*parents, id(node))
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, path, document, parents))
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, (*path, i), document, parents=parents) for i, child in enumerate(node.value)]
    return _scalar(node, path, document)


def _pairs(
    node: yaml.MappingNode, path: Path, document: Document, parents: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.mistakes.append(document.mistake(path, "the name of a field must be text"))
            continue
        key = key_node.value
        child = (*path, key)
        if key in first:
            where = f"{document.source}:{line}"
            problem = f"given twice (first in line {first[key]}); remove one"
            document.mistakes.append(Mistake(where=where, path=spell(child), problem=problem))
            continue
        first[key] = line
        document.places[child] = f"{document.source}:{line}"
        yield key, _convert(value_node, child, document, parents=parents)


def _scalar(node: yaml.Node, path: Path, document: Document) -> Any:
    text: str = node.value
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if re.fullmatch(r"[-+]?[0-9]{1,4000}", text):
            return int(text)
        case "float" if re.fullmatch(_RESOLVERS[3][1], text):
            return float(text)
        case "str":
            return text
        case tag:
            document.mistakes.append(document.mistake(path, f"the YAML tag {tag} is not known here"))
            return None


def override(document: Document, assignment: str) -> None:
    """Apply ``path=value`` to the document, as ``--set spec.local.steps=16`` does.

    A step into a list is an index or the name of its entry: ``spec.participants[cpp].worker.resources.cpus=2``.

    Raises:
        JobFileError: It has no ``=``, or the path leads through something that is not there.
    """
    where = f"--set {assignment}"
    path_text, separator, value_text = assignment.partition("=")
    steps = re.findall(r"[^.\[\]]+", path_text)
    if not separator or not steps:
        raise JobFileError([Mistake(where=where, path="", problem="write path=value, like spec.local.steps=16")])
    value = parse(value_text, where).data if value_text.strip() else None
    target: Any = document.data
    path: Path = ()
    for last, step in ((i == len(steps) - 1, step) for i, step in enumerate(steps)):
        key: str | int = step
        if isinstance(target, list):
            key = _entry(target, step)
            if key == -1:
                raise JobFileError([Mistake(where=where, path=spell(path), problem=f"has no entry {step}")])
        elif not isinstance(target, dict):
            raise JobFileError([Mistake(where=where, path=spell(path), problem=f"is not a mapping: no {step} in it")])
        path = (*path, key)
        if last:
            target[key] = value
            document.places = {p: w for p, w in document.places.items() if p[: len(path)] != path}
            document.places[path] = where
        else:
            if isinstance(target, dict) and target.get(key) is None:
                target[key] = {}
                document.places.setdefault(path, where)
            target = target[key]


def _entry(entries: list[Any], step: str) -> int:
    """Index of the entry that ``step`` names, or -1."""
    if step.isdigit():
        return int(step) if int(step) < len(entries) else -1
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return names.index(step) if step in names else -1
