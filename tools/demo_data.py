"""Text for the demo and the benchmarks: four institutions with clearly different kinds of text, without downloads.

All text is part of the environment that `make` sets up:

- ``python``: source of the standard library (without its tests and character tables),
- ``cpp``: C++ headers of torch (without generated headers),
- ``docs``: documentation: topics of the language reference, descriptions and docstrings of installed packages,
- ``services``: JSON descriptions of web services, of which botocore contains hundreds.

License texts are not used because they repeat: of 1.9 MB in the environment, 0.35 MB remain after deduplication.

    python -m tools.demo_data runs/demo/data
"""

from __future__ import annotations

import ast
import gzip
import json
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from photon_worker.data.dataset import read_index
from photon_worker.data.index import INDEX, Index, PreparationSettings
from photon_worker.data.prepare import prepare
from photon_worker.lifecycle.data_errors import DataError

HELD_OUT_BYTES = 64 * 2**10  # the same for all, so that each institution has the same weight in the mixture
MAX_BYTES = 6 * 10**6
_SERVICE_BYTES = 16 * 2**10  # per service, to include many of them
_DOCUMENTED = ("numpy", "networkx")
# Photon's own text changes with every commit, and installers differ between environments.
_NOT_DESCRIBED = ("photon", "pip", "setuptools", "uv", "wheel")
_NOT_PYTHON = ("test", "tests", "idle_test", "idlelib", "lib2to3", "encodings", "turtledemo", "ensurepip", "pydoc_data")
# Generated headers; a single one would be a third of all text.
_GENERATED = (
    "/ATen/ops/*",
    "/google/*",
    "*/generated/*",
    "*Generated*",
    "*Functions*.h",
    "RegistrationDeclarations.h",
    "TensorBody.h",
    "enum_tag.h",
    "aten_interned_strings.h",
    "*.pb.h",
    "sleef.h",
)
_INSTALLED = ("site-packages", "dist-packages", "config-*")


def prepare_demo_data(folder: Path, say: Callable[[str], None] = print) -> dict[str, Path]:
    """Prepare the four institutions' data below ``folder``; data that already exists with the same settings is reused.

    Args:
        say: Called with one line per institution.

    Returns:
        name -> prepared folder.

    Raises:
        DataError: The environment lacks one of the texts.
    """
    return {
        "python": _prepare(
            folder / "python",
            lambda: Path(sysconfig.get_paths()["stdlib"]),
            _settings(include=["*.py"], exclude=[f"*/{name}/*" for name in (*_NOT_PYTHON, *_INSTALLED)]),
            say,
        ),
        "cpp": _prepare(
            folder / "cpp",
            lambda: _package("torch") / "include",
            _settings(include=["*.h", "*.hpp", "*.cuh"], exclude=list(_GENERATED)),
            say,
        ),
        "docs": _prepare(folder / "docs", lambda: _gather(folder, "docs", _documentation()), _settings(), say),
        "services": _prepare(folder / "services", lambda: _gather(folder, "services", _services()), _settings(), say),
    }


def _settings(*, include: list[str] | None = None, exclude: list[str] | None = None) -> PreparationSettings:
    return PreparationSettings(
        include=include or [],
        exclude=exclude or [],
        held_out_fraction=None,
        held_out_bytes=HELD_OUT_BYTES,
        max_bytes=MAX_BYTES,
        near_duplicates="remove",
    )


def _prepare(
    output: Path, source: Callable[[], Path], settings: PreparationSettings, say: Callable[[str], None]
) -> Path:
    started = time.monotonic()
    index = _kept(output, settings)
    if index is None:
        # One process: a pool takes longer to start than this much text takes.
        index = prepare([str(source())], output, settings, workers=1, restart=True)
    say(
        f"{output.name:<9} {index.tokens / 1e6:5.2f} M tokens of {index.documents:>5,} documents, held out "
        f"{index.held_out.bytes:,} bytes of {index.held_out.documents} documents ({time.monotonic() - started:.1f} s)"
    )
    return output


def _kept(output: Path, settings: PreparationSettings) -> Index | None:
    """The index of what was prepared before, if it is whole and of the same settings."""
    if not (output / INDEX).is_file():
        return None
    index, _ = read_index(output, str(output))
    return index if index.settings == settings else None


def _gather(folder: Path, name: str, texts: Iterator[str]) -> Path:
    """Write ``texts`` as JSON lines for preparation."""
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
    return path


def _documentation() -> Iterator[str]:
    """Topics of the language reference, descriptions of packages, and docstrings, a document for each module."""
    topics = find_spec("pydoc_data.topics")
    if topics is not None and topics.origin is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its strings hold escapes that are none
            for node in ast.walk(ast.parse(Path(topics.origin).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Dict):
                    yield from (str(ast.literal_eval(value)) for value in node.values)
    for distribution in sorted(metadata.distributions(), key=lambda one: str(one.metadata["Name"]).lower()):
        if str(distribution.metadata["Name"]).lower() in _NOT_DESCRIBED:
            continue
        yield (distribution.read_text("METADATA") or "").partition("\n\n")[2]
    for package in _DOCUMENTED:
        for path in sorted(_package(package).rglob("*.py")):
            if "tests" not in path.parts:
                yield _docstrings(path)


def _docstrings(path: Path) -> str:
    """The docstrings of a module, each under the name of what it documents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > 200:
                name = path.stem if isinstance(node, ast.Module) else node.name
                parts.append(f"{name}\n{'=' * len(name)}\n\n{text}")
    return "\n\n".join(parts)


def _services() -> Iterator[str]:
    """The middle of each service's description, in its newest version."""
    for service in sorted((_package("botocore") / "data").iterdir()):
        versions = sorted(service.glob("*/service-2.json*")) if service.is_dir() else []
        if versions:
            content = versions[-1].read_bytes()
            text = (gzip.decompress(content) if versions[-1].suffix == ".gz" else content).decode()
            start = text.rfind("\n", 0, max(0, len(text) - _SERVICE_BYTES) // 2 + 1) + 1
            yield text[start : start + _SERVICE_BYTES]


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise DataError(f"the demo needs text from the package {name}, which is not installed: run `make setup`")
    return Path(spec.origin).parent


if __name__ == "__main__":
    prepare_demo_data(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/data"))
