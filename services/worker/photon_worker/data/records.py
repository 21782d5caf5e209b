"""The text of one record: a JSON object, or a value of a nested field."""

from __future__ import annotations

import json
from typing import Any


class BadRecord(Exception):
    """A record without a text where it is looked for; the message says what is there instead."""


def parsed(line: str) -> Any:
    """The JSON value of ``line``.

    Raises:
        BadRecord: It is no JSON.
    """
    line = line.strip().removeprefix("\ufeff")  # one is left in the middle where files were put together
    try:
        return json.loads(line)
    except RecursionError as error:
        raise BadRecord("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise BadRecord(f"is no JSON: {error.msg} at character {error.pos + 1}") from error
    except ValueError as error:
        try:  # a number of thousands of digits, which is valid JSON and is not read here
            return json.loads(line, parse_int=str)
        except (ValueError, RecursionError):
            raise BadRecord(f"has a number that cannot be read: {error}") from error


def text_of(record: Any, field: str) -> str | None:
    """The text in ``field`` of ``record``; None where it is null.

    Args:
        field: A key; or, where the record has no such key, keys with dots between them (``meta.text``).

    Raises:
        BadRecord: It is no object, or has no text there.
    """
    if not isinstance(record, dict):
        raise BadRecord(f"is {_kind(record)}, not an object with the field {field!r}")
    value: Any = record
    if field in record:
        value = record[field]
    else:
        for key in field.split("."):
            if value is None:
                return None
            if not isinstance(value, dict) or key not in value:
                names = ", ".join(map(ascii, list(value)[:10])) if isinstance(value, dict) else _kind(value)
                raise BadRecord(f"has no field {field!r} (it has {names}): name the one with the text by --text-field")
            value = value[key]
    if value is not None and not isinstance(value, str):
        raise BadRecord(f"the field {field!r} holds no text but {_kind(value)}: see --text-field")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    return "null" if value is None else "a list" if isinstance(value, list) else "a string"
