"""A participant's data as ``--data`` names it, and whether it fits the job's model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from photon.protocol.messages import GlobalModel
from photon_worker.data.mixture import Mixture
from photon_worker.data.tokenizer import TOKENIZER
from photon_worker.lifecycle.errors import Misconfigured

_NAMED: Final = re.compile(r"([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)=(.+)")


def data_by_name(arguments: Sequence[str], participant: str) -> dict[str, str]:
    """``--data``: one URI, read in the participant's own order, or NAME=URI for each source of a mixture.

    Raises:
        Misconfigured: None given, both forms mixed, or a name twice.
    """
    if len(arguments) == 1 and _NAMED.fullmatch(arguments[0]) is None:
        return {participant: arguments[0]}
    named: dict[str, str] = {}
    for argument in arguments:
        match = _NAMED.fullmatch(argument)
        if match is None:
            raise Misconfigured(f"--data {argument!r}: with several folders each needs a name: --data NAME=URI")
        if match[1] in named:
            raise Misconfigured(f"--data: the name {match[1]!r} is given twice")
        named[match[1]] = match[2]
    if not named:
        raise Misconfigured("--data is missing: give the folder that `photon data prepare` wrote")
    return named


def check_tokenizer(model: GlobalModel, data: Mixture) -> None:
    """The data must have been prepared with the tokenizer in the model's folder.

    Raises:
        Misconfigured: It was prepared with another one.
    """
    digests = [get.file.sha256 for get in model.files if get.file.name == TOKENIZER]
    for name, source in data.sources.items():
        if digests and source.index.tokenizer_digest != digests[0]:
            raise Misconfigured(
                f"the data of {name!r} ({source.uri}) was prepared with another tokenizer than the job's "
                f"(sha256 {source.index.tokenizer_digest[:12]} instead of {digests[0][:12]}): prepare it again with "
                "the tokenizer of spec.model.tokenizer"
            )
