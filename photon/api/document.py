"""A job file as plain data, with the line of every field, so that an error can be shown where it was made.

A file means here what it means to kubectl. Scalars that YAML 1.1 (kubectl) and YAML 1.2 (JSON, most people) read
differently are refused with the reason: ``010``, ``1_000``, ``0x10``, ``yes``, ``on``, ``.inf``. ``12:30`` and dates
are text in both, ``1e-3`` is a number in both. Duplicate keys are errors. Anchors and merge keys are resolved.
Reading is bounded (size, depth, number of values after aliases are resolved), so a hostile file ends in one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from photon.errors import UserError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One thing to fix: where (file and line, or the option it came from), which field, what is wrong and the fix."""

    where: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.problem}" if self.path else f"{self.where}: {self.problem}"


class JobFileError(UserError, ValueError):
    """The job file is wrong; ``errors`` has at least one entry, in the order of the file."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        super().__init__("\n".join(map(str, errors)))


@dataclass(slots=True)
class Document:
    """Plain data of a file. ``places`` maps the path of a field to ``file:line`` of its key."""

    source: str
    data: Any
    places: dict[Path, str] = field(default_factory=dict)
    errors: list[FieldError] = field(default_factory=list)
    values: int = 0

    def where(self, path: Path) -> str:
        """The place of ``path``, or of its closest ancestor in the file (for a field that is missing)."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source

    def error(self, path: Path, problem: str) -> FieldError:
        return FieldError(where=self.where(path), path=spell(path), problem=problem)


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

# More than a job of 1,024 participants holds, and less than what takes a second to read.
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 60_000

# Plain (unquoted) scalars that kubectl's YAML 1.1 reads as something else than YAML 1.2 does.
_OTHER_NUMBER: Final = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*_[0-9_.eE+-]*)"
)
_OTHER_BOOLEAN: Final = frozenset(
    spelling for word in ("y", "n", "yes", "no", "on", "off") for spelling in (word, word.capitalize(), word.upper())
)
_OTHER_FLOAT: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def parse(text: str, source: str) -> Document:
    """The first and only document of ``text``.

    Raises:
        JobFileError: It is not YAML, is empty, holds several documents, or is larger than any job.
    """
    try:
        _require_bounded(text, source)
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        what = " ".join(filter(None, (error.problem, error.context)))
        raise JobFileError([FieldError(where=where, path="", problem=f"not valid YAML: {what}")]) from error
    except yaml.YAMLError as error:
        raise JobFileError([FieldError(where=source, path="", problem=f"not valid YAML: {error}")]) from error
    # A file may end with `---`: an empty document is none.
    nodes = [node for node in nodes if node is not None and not _is_empty(node)]
    if len(nodes) != 1:
        problem = (
            "the file is empty" if not nodes else f"one job is expected, but the file holds {len(nodes)} documents"
        )
        raise JobFileError([FieldError(where=source, path="", problem=problem)])
    document = Document(source=source, data=None)
    document.data = _convert(nodes[0], (), document, parents=())
    return document


def _require_bounded(text: str, source: str) -> None:
    """Refuse what nests deeper, or holds more, than any job: before anything recursive reads it."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            problem = f"nests deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else _TOO_MANY
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            raise JobFileError([FieldError(where=f"{source}:{line}", path="", problem=problem)])


_TOO_MANY: Final = f"holds more than {MAX_VALUES:,} values: this is no job file"


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null" and not node.value


def _convert(node: yaml.Node, path: Path, document: Document, *, parents: tuple[int, ...]) -> Any:
    document.values += 1
    if document.values > MAX_VALUES or len(path) > MAX_DEPTH:
        # Aliases of aliases grow beyond any bound, however short the text is.
        problem = _TOO_MANY if document.values > MAX_VALUES else f"nests deeper than {MAX_DEPTH} levels"
        raise JobFileError(
            [FieldError(where=document.source, path="", problem=f"with its aliases resolved, it {problem}")]
        )
    document.places.setdefault(path, f"{document.source}:{node.start_mark.line + 1}")
    if id(node) in parents:
        document.errors.append(document.error(path, "an anchor must not contain itself"))
        return None
    parents = (*parents, id(node))
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, path, document, parents))
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, (*path, i), document, parents=parents) for i, child in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode), "there are no other nodes"
    return _scalar(node, path, document)


def _pairs(
    node: yaml.MappingNode, path: Path, document: Document, parents: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    first: dict[str, int] = {}
    merged: list[yaml.MappingNode] = []
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.errors.append(document.error(path, "the name of a field must be text"))
            continue
        if _is_merge_key(key_node):
            merged += _merged(value_node, path, document)
            continue
        key = key_node.value
        child = (*path, key)
        problem = _problem(key_node)
        if problem is not None:
            where = f"{document.source}:{line}"
            document.errors.append(FieldError(where=where, path=spell(path), problem=f"the field {problem}"))
            continue
        if key in first:
            where = f"{document.source}:{line}"
            problem = f"given twice (first in line {first[key]}); remove one"
            document.errors.append(FieldError(where=where, path=spell(child), problem=problem))
            continue
        first[key] = line
        document.places[child] = f"{document.source}:{line}"
        yield key, _convert(value_node, child, document, parents=parents)
    for base in merged:
        # What is written beside the merge key wins, then the first of several bases.
        for key, value in _convert_merged(base, path, document, parents).items():
            if key not in first:
                first[key] = base.start_mark.line + 1
                yield key, value


def _is_merge_key(node: yaml.ScalarNode) -> bool:
    return bool(node.value == "<<" and node.style is None)


def _merged(node: yaml.Node, path: Path, document: Document) -> list[yaml.MappingNode]:
    """The mappings that a merge key names."""
    bases = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(base, yaml.MappingNode) for base in bases):
        document.errors.append(document.error(path, "<< needs a mapping, or a list of mappings, such as *base"))
        return []
    return list(bases)


def _convert_merged(base: yaml.MappingNode, path: Path, document: Document, parents: tuple[int, ...]) -> dict[str, Any]:
    converted = _convert(base, path, document, parents=parents)
    return converted if isinstance(converted, dict) else {}


def _problem(node: yaml.ScalarNode) -> str | None:
    """Why the text of a scalar is refused, whatever field it is for; None when it is not."""
    text: str = node.value
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    if "\0" in text:
        return "holds a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half of a surrogate pair: write the character itself"
    if node.style is not None or not node.tag.startswith("tag:yaml.org,2002:"):
        return None
    if _OTHER_NUMBER.fullmatch(text):
        return (
            f"{shown} is one number to kubectl and another, or text, elsewhere: write it in plain decimal, or in quotes"
        )
    if text in _OTHER_BOOLEAN:
        return f"{shown} is true or false to kubectl and text elsewhere: write true or false, or put it in quotes"
    if _OTHER_FLOAT.fullmatch(text):
        return f"{shown} is not a number that JSON can hold"
    return None


def _scalar(node: yaml.ScalarNode, path: Path, document: Document) -> Any:
    text: str = node.value
    problem = _problem(node)
    if problem is not None:
        document.errors.append(document.error(path, problem))
        # What it would be here: the rules over several fields then say nothing about a field that is missing.
        return text.encode(errors="replace").decode().replace("\0", "?")
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if re.fullmatch(r"[-+]?[0-9]{1,4000}", text):
            return int(text)
        case "float" if re.fullmatch(_RESOLVERS[3][1], text):
            value = float(text)
            if math.isinf(value):
                document.errors.append(document.error(path, f"{text[:40]} is larger than a number can be"))
                return None
            return value
        case "str":
            return text
        case tag:
            document.errors.append(document.error(path, f"the YAML tag {tag} is not known here"))
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
        raise JobFileError([FieldError(where=where, path="", problem="write path=value, like spec.local.steps=16")])
    given = parse(value_text, where) if value_text.strip() else None
    if given is not None and given.errors:
        problems = [FieldError(where=where, path=path_text, problem=error.problem) for error in given.errors]
        raise JobFileError(problems)
    value = given.data if given is not None else None
    target: Any = document.data
    path: Path = ()
    for last, step in ((i == len(steps) - 1, step) for i, step in enumerate(steps)):
        key: str | int = step
        if isinstance(target, list):
            key = _entry(target, step)
            if key == -1:
                raise JobFileError([FieldError(where=where, path=spell(path), problem=f"has no entry {step}")])
        elif not isinstance(target, dict):
            raise JobFileError(
                [FieldError(where=where, path=spell(path), problem=f"is not a mapping: no {step} in it")]
            )
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
