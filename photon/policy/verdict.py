"""A job or a task against the institution's policy: every refusal names the field, its value and the limit.

All of it comes from the hub, signed or not, and none of it is believed: sizes are compared with each other, and a
config that says too little to be judged is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from photon.api.learning import LearningJob
from photon.api.presets import most_parameters_of, parameters_of
from photon.api.text import printable
from photon.policy.document import ModelBounds, Policy
from photon.protocol.records import MODEL_FILES

FP32_BYTES: Final = 4
# The header of model.safetensors: names and shapes of tensors.
HEADER_BYTES: Final = 64 * 2**20
MAX_DEPTH: Final = 8
SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job or a task is not taken. ``limit`` says what the policy allows, and which of its settings says so."""

    field: str
    value: str
    limit: str

    def __str__(self) -> str:
        return f"{self.field} is {printable(self.value, SHOWN)}: {self.limit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Who asks: the id of the pinned key (32 hexadecimal digits, spaces allowed) and the host of the door."""

    key_id: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What a task asks for. ``round`` counts from 0; ``local_steps`` is None for an evaluation."""

    round: int
    cohort_size: int
    local_steps: int | None
    files: Sequence[tuple[str, int]]


def of_invitation(policy: Policy, hub: Hub, *, name: str, namespace: str = "") -> list[Refusal]:
    """Before anything is asked of the hub: who it is, and which job of the institution this would be."""
    found = []
    if policy.hubs and not {hub.key_id.replace(" ", "").lower(), hub.host.lower()} & set(policy.hubs):
        found.append(Refusal("join.url", f"{hub.host} with the key {hub.key_id}", _setting("hubs", policy.hubs)))
    if not any(fnmatchcase(name, pattern) for pattern in policy.jobs):
        found.append(Refusal("metadata.name", name, _setting("jobs", policy.jobs)))
    if namespace and not any(fnmatchcase(namespace, pattern) for pattern in policy.namespaces):
        found.append(Refusal("metadata.namespace", namespace, _setting("namespaces", policy.namespaces)))
    return found


def of_job(policy: Policy, learning: LearningJob, *, rounds: int | None = None) -> list[Refusal]:
    """Before any GPU is used. ``rounds``: of the job, where the hub says it."""
    bounds, local = policy.models, learning.local
    found = []
    if learning.hf_config is not None:
        found += of_model(bounds, learning.hf_config)
    found += _above(
        ("local.sequenceLength", local.sequence_length, "models.maxSequenceLength", bounds.max_sequence_length),
        (
            "local.batchSize x local.sequenceLength",
            local.batch_size * local.sequence_length,
            "models.maxBatchTokens",
            bounds.max_batch_tokens,
        ),
        ("local.steps", local.steps, "models.maxLocalSteps", bounds.max_local_steps),
        ("rounds", rounds or 0, "models.maxRounds", bounds.max_rounds),
    )
    found += _below(
        ("participation.cohortSize", learning.cohort_size, "minCohort", policy.min_cohort),
        (
            "local.steps x local.batchSize x local.sequenceLength",
            local.steps * local.batch_size * local.sequence_length,
            "minTokensPerUpdate",
            policy.min_tokens_per_update,
        ),
    )
    return found


def of_model(bounds: ModelBounds, config: Mapping[str, Any]) -> list[Refusal]:
    """A Hugging Face config: its type, its size, and nothing in it that chooses code."""
    found = [
        Refusal(f"model.config.{path}", value, "it chooses code, and no policy allows that")
        for path, value in _choosing_code(config, "", MAX_DEPTH)
    ]
    kind = config.get("model_type")
    if kind not in bounds.types:
        found.append(Refusal("model.config.model_type", str(kind), _setting("models.types", bounds.types)))
    parameters = _parameters(config)
    if parameters is None:
        limit = f"the policy's models.maxParameters is {bounds.max_parameters:,}, and the config does not say enough"
        found.append(Refusal("model parameters", "unknown", limit))
    else:
        found += _above(("model parameters", parameters, "models.maxParameters", bounds.max_parameters))
    return found


def of_task(policy: Policy, learning: LearningJob, task: TaskFacts) -> list[Refusal]:
    """Each task again: what the hub says of a round may differ from what it said of the job."""
    bounds, local = policy.models, learning.local
    found = [
        Refusal("task.files", name, f"only {', '.join(sorted(MODEL_FILES))} are files of a model")
        for name, _ in task.files
        if name not in MODEL_FILES
    ]
    names = [name for name, _ in task.files]
    found += [Refusal("task.files", name, "given twice") for name in sorted(set(names)) if names.count(name) > 1]
    found += [Refusal("task.files.sizeBytes", f"{size}", "must not be negative") for _, size in task.files if size < 0]
    weights = sum(size for name, size in task.files if name == "model.safetensors")
    largest = bounds.max_parameters * FP32_BYTES + HEADER_BYTES
    found += _above(
        ("task.round", task.round, "models.maxRounds", bounds.max_rounds - 1),
        ("task.localSteps", task.local_steps or 0, "models.maxLocalSteps", bounds.max_local_steps),
        ("bytes of model.safetensors", weights, "models.maxParameters x 4 bytes, and a header:", largest),
        (
            "bytes of all files",
            sum(size for _, size in task.files),
            "models.maxDownloadBytes",
            bounds.max_download_bytes,
        ),
    )
    found += _below(("task.cohortSize", task.cohort_size, "minCohort", policy.min_cohort))
    if task.local_steps is not None:
        tokens = task.local_steps * local.batch_size * local.sequence_length
        found += _below(("tokens of the task", tokens, "minTokensPerUpdate", policy.min_tokens_per_update))
    return found


def _parameters(config: Mapping[str, Any]) -> int | None:
    """Exact for a plain Llama, else rather too many; None where the config says too little."""
    most = most_parameters_of(config)
    # A negative number of heads would make a model look small.
    plain = all(type(value) is not int or value >= 0 for value in config.values())
    exact = parameters_of(config) if plain else None
    return most if most is None or exact is None else exact


def _choosing_code(config: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth == 0:
        yield prefix.rstrip("."), f"nested more than {MAX_DEPTH} deep"
        return
    for name, value in config.items():
        plain = str(name)
        chooses = plain in ("auto_map", "quantization_config", "trust_remote_code") or plain.endswith("_implementation")
        if chooses and value is not None and value is not False:
            yield f"{prefix}{printable(plain, SHOWN)}", str(value)[:SHOWN]
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, Mapping):
                yield from _choosing_code(inner, f"{prefix}{printable(plain, SHOWN)}.", depth - 1)


def _above(*bounds: tuple[str, int, str, int]) -> list[Refusal]:
    return [
        Refusal(field, f"{value:,}", f"the policy's {setting} is {limit:,}")
        for field, value, setting, limit in bounds
        if value > limit
    ]


def _below(*bounds: tuple[str, int | None, str, int]) -> list[Refusal]:
    return [
        Refusal(field, f"{value:,}", f"the policy's {setting} is {limit:,}")
        for field, value, setting, limit in bounds
        if value is not None and value < limit
    ]


def _setting(name: str, allowed: Sequence[str]) -> str:
    return f"the policy's {name} allows {', '.join(allowed)}"
