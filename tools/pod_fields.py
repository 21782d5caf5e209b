"""The fields of pod templates, from the Kubernetes client's types: ``python -m tools.pod_fields --check|--write FILE``.

With them `photon validate` finds a misspelled field of a patch before a cluster does. A field that is newer than the
pinned client is for the API server to judge, which validates strictly.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Final

from kubernetes.client import models

ROOTS: Final = ("V1PodTemplateSpec", "V1Toleration", "V1NetworkPolicyEgressRule", "V1NetworkPolicyPeer")
_CONTAINER: Final = re.compile(r"(List|Dict)\[(?:str, )?(.+)\]")


def fields() -> dict[str, dict[str, str]]:
    """By type, the type of each field: another type, ``scalar``, ``any``, ``[TYPE]`` (list) or ``{TYPE}`` (map)."""
    found: dict[str, dict[str, str]] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        model = getattr(models, name)
        found[name] = {}
        for attribute, annotation in sorted(model.openapi_types.items()):
            kind, inner = _kind(annotation)
            found[name][model.attribute_map[attribute]] = kind
            if hasattr(models, inner):
                waiting.append(inner)
    return dict(sorted(found.items()))


def _kind(annotation: str) -> tuple[str, str]:
    """How the field is written down, and the type within."""
    match = _CONTAINER.fullmatch(annotation)
    if match:
        kind, inner = _kind(match[2])
        return (f"[{kind}]" if match[1] == "List" else f"{{{kind}}}"), inner
    if annotation == "object":
        return "any", annotation
    return (annotation if hasattr(models, annotation) else "scalar"), annotation


def text() -> str:
    return json.dumps(fields(), indent=0, separators=(",", ":")) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--check", type=Path, metavar="FILE", help="fail when the file differs")
    chosen.add_argument("--write", type=Path, metavar="FILE", help="write the file")
    arguments = parser.parse_args()
    if arguments.write:
        arguments.write.write_text(text())
        return 0
    if arguments.check.read_text() == text():
        return 0
    sys.stderr.write(f"{arguments.check} is not what tools/pod_fields.py makes: run `make generate`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
