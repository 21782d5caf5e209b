"""What every model of the job document shares: camelCase outside, snake_case inside, nothing unknown accepted.

A class may state rules that span fields with ``__cel_rules__``; they are written into the CRD for the API server and
checked here by an ordinary pydantic validator with the same message, so a laptop and a cluster refuse the same job.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class CelRule:
    """A rule in the Common Expression Language, as Kubernetes evaluates it on this object (``self``).

    ``transition`` marks rules that mention ``oldSelf``: only an update can break them. ``path``: of the field that the
    API server names in its refusal, where it is not the object itself, as ``.spec.local``.
    """

    rule: str
    message: str
    transition: bool = False
    path: str | None = None


class ApiModel(BaseModel):
    """A part of the job document. Immutable; unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_enum_values=False,
        ser_json_inf_nan="strings",
    )
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = ()


# Kubernetes names: the API server needs a bound on every string, and children derive their names from these.
Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
ShortText = Annotated[str, Field(min_length=1, max_length=253)]
LongText = Annotated[str, Field(min_length=1, max_length=1024)]


def _location(uri: str) -> str:
    """A path, or s3://bucket/prefix: any other scheme would be taken for a folder of that name."""
    scheme, separator, rest = uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return uri
    if scheme != "s3":
        hint = "write s3:// in lower case" if scheme.lower() == "s3" else "copy it to a folder or to an S3 bucket"
        raise ValueError(f"{scheme}:// is not supported here, only a path or s3://bucket/prefix: {hint}")
    if not rest.partition("/")[0]:
        raise ValueError("names no bucket: write s3://bucket/prefix")
    return uri


# Where data, a checkpoint or a tokenizer is. A path is relative to the job file; ~ is the home folder.
Location = Annotated[LongText, AfterValidator(_location)]
