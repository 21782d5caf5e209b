"""The institution's policy: which hubs, jobs and models it takes part in, when, and what it reveals.

The file is YAML or JSON with the fields below, all of them optional; an empty file is the default policy. It is the
institution's own: nothing that comes from a hub changes it.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, ValidationError, model_validator

from photon.api.base import ApiModel
from photon.api.document import parse
from photon.api.reading import read_bounded
from photon.errors import UserError

MAX_FILE_BYTES: Final = 256 * 1024
MODEL_TYPES: Final = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt_neox", "olmo2")
_TIME: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"
_KEY_ID: Final = re.compile(r"[0-9a-f]{32}")
_HOST: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Day(StrEnum):
    """A day of the week."""

    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


class AtEnd(StrEnum):
    """What happens to a round that is under way when the hours end."""

    FINISH = "Finish"
    STOP = "Stop"


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{name!r} is no time zone of this machine, for example Europe/Berlin or UTC") from error
    return name


def _hub(text: str) -> str:
    """A key id without its spaces, or a host name; in lower case."""
    plain = text.replace(" ", "").lower()
    if _KEY_ID.fullmatch(plain) is None and _HOST.fullmatch(text.lower()) is None:
        raise ValueError(f"{text!r} is neither a host nor a key id, such as 9f86 d081 884c 7d65 9a2f eaa0 c55a d015")
    return plain


class Hours(ApiModel):
    """When jobs may run: from a time of these days to the next ``to``, which may be on the following day."""

    days: Annotated[list[Day], Field(min_length=1, max_length=7)] = list(Day)
    start: Annotated[str, Field(alias="from", pattern=_TIME, description="HH:MM")]
    to: Annotated[str, Field(pattern=_TIME, description="HH:MM; 24:00 is the end of the day.")]
    timezone: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_timezone)] = "UTC"

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.start in (self.to, "24:00"):
            raise ValueError("from and to must differ; a whole day is from 00:00 to 24:00")
        return self


class ModelBounds(ApiModel):
    """What may be trained here, and how much of it."""

    types: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]],
        Field(min_length=1, max_length=64, description="Values of model_type."),
    ] = list(MODEL_TYPES)
    max_parameters: Annotated[int, Field(ge=1, le=10**13)] = 10**10
    max_sequence_length: Annotated[int, Field(ge=8, le=10**6)] = 32_768
    max_batch_tokens: Annotated[int, Field(ge=8, le=10**10, description="batchSize x sequenceLength.")] = 2**23
    max_local_steps: Annotated[int, Field(ge=1, le=10**6)] = 10_000
    max_rounds: Annotated[int, Field(ge=1, le=10**6)] = 100_000
    max_download_bytes: Annotated[int, Field(ge=1, le=2**50, description="Bytes of the files of one task.")] = 2**38


class Reveal(ApiModel):
    """What the hub may see beside phase, step, the figures of each update and the sums of evaluations."""

    tokens_per_second: bool = False
    memory: bool = False
    mfu: bool = False
    retries: bool = False


class Policy(ApiModel):
    """The whole policy."""

    hubs: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_hub)]],
        Field(max_length=256, description="Hosts or key ids of hubs. Default: any that an applied invitation names."),
    ] = []
    jobs: Annotated[
        list[Annotated[str, Field(pattern=r"^[-a-z0-9*?]{1,63}$")]],
        Field(min_length=1, max_length=256, description="Names of jobs; * and ? stand for any characters."),
    ] = ["*"]
    namespaces: Annotated[
        list[Annotated[str, Field(pattern=r"^[-a-z0-9*?]{1,63}$")]],
        Field(min_length=1, max_length=256, description="Namespaces that jobs may be in; * and ? as above."),
    ] = ["*"]
    hours: Annotated[list[Hours], Field(max_length=64, description="When jobs may run. Default: always.")] = []
    at_end: AtEnd = AtEnd.FINISH
    models: ModelBounds = ModelBounds()
    min_cohort: Annotated[
        int,
        Field(
            ge=1,
            le=256,
            description="Fewest participants of a round. With 2, each can subtract its own update and has the other's.",
        ),
    ] = 3
    min_tokens_per_update: Annotated[
        int,
        Field(ge=0, le=10**15, description="Fewest tokens that an update may be made of: one of a few shows its text."),
    ] = 1_000_000
    reveal: Reveal = Reveal()


def load_policy(path: Path) -> Policy:
    """The policy in a file. Raises UserError with every mistake: line, field, and what is allowed."""
    text = read_bounded(path, "policy", MAX_FILE_BYTES)
    if not text.strip():
        return Policy()
    document = parse(text, str(path))
    if document.errors:
        raise UserError("\n".join(str(error) for error in document.errors))
    try:
        return Policy.model_validate(document.data)
    except ValidationError as error:
        mistakes = [
            document.error(tuple(mistake["loc"]), mistake["msg"].removeprefix("Value error, "))
            for mistake in error.errors(include_url=False, include_input=False)
        ]
        raise UserError("\n".join(str(mistake) for mistake in mistakes)) from error
