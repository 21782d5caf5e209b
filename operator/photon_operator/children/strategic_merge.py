"""Strategic merge of a pod template with a patch, as ``kubectl patch`` does it: lists of named things merge by name.

Only what a pod template needs: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
and the ``patchMergeKey`` of PodSpec and Container in k8s.io/api/core/v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from photon_operator.errors import PatchError

_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_DIRECTIVE: Final = "$patch"
_ENV_VALUES: Final = ("value", "valueFrom")


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """``base`` with ``patch`` applied; both are left as they are.

    Raises:
        PatchError: Something else where a list must be, an entry without its key, an unknown directive.
    """
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive not in (None, "merge"):
        raise PatchError(f"{path}{'.' if path else ''}$patch: {directive!r} is not possible here")
    merged = dict(base)
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        below = f"{path}.{key}" if path else key
        if value is None:
            merged.pop(key, None)
        elif key in _KEYS:
            merged[key] = _merge_list(merged.get(key) or [], value, key, below)
        elif isinstance(value, Mapping):
            known = merged.get(key)
            merged[key] = merge(known if isinstance(known, Mapping) else {}, value, below)
        else:
            merged[key] = value
    return merged


def _merge_list(base: list[Any], patch: Any, name: str, path: str) -> list[Any]:
    if not isinstance(patch, list):
        raise PatchError(f"{path}: must be a list")
    key = _KEYS[name]
    if any(isinstance(entry, Mapping) and entry.get(_DIRECTIVE) == "replace" and key not in entry for entry in patch):
        return [entry for entry in patch if _DIRECTIVE not in entry]
    merged = list(base)
    for number, entry in enumerate(patch):
        if not isinstance(entry, Mapping) or key not in entry:
            raise PatchError(f"{path}[{number}]: needs {key}")
        place = next((i for i, known in enumerate(merged) if known.get(key) == entry[key]), None)
        if entry.get(_DIRECTIVE) == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append({k: v for k, v in entry.items() if k != _DIRECTIVE})
        else:
            merged[place] = merge(_kept(merged[place], entry, name), entry, f"{path}[{entry[key]}]")
    return merged


def _kept(base: Mapping[str, Any], entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What of ``base`` an entry of a patch does not take the place of as a whole: these hold one source each."""
    if name == "volumes" and any(k not in base for k in entry if not k.startswith("$")):
        return {"name": base["name"]}
    if name == "env" and any(field in entry for field in _ENV_VALUES):
        return {k: v for k, v in base.items() if k not in _ENV_VALUES}
    return base
