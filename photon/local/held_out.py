"""Whether participants chose their held-out text by one rule, as far as their data is on this machine.

A document's content decides whether it is held out. By the same seed and fraction it is on the same side everywhere;
by others, what one participant is measured on may be what another trains on, and perplexity looks better than it is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Final

from photon.api.job import FederatedTrainingJob

_MAX_INDEX_BYTES: Final = 64 * 2**20


def held_out_advice(job: FederatedTrainingJob) -> list[str]:
    """Warnings, a line each. Data that is elsewhere, or cannot be read, is not judged here."""
    by_rule: defaultdict[str, list[str]] = defaultdict(list)
    for participant in job.spec.participants:
        data = participant.worker.data if participant.worker is not None else None
        for uri in [] if data is None else [data.uri] if data.uri else [s.uri for s in data.sources or ()]:
            rule = _rule(uri)
            if rule is not None and participant.name not in by_rule[rule]:
                by_rule[rule].append(participant.name)
    people = {name for names in by_rule.values() for name in names}
    by_size = any("--held-out-bytes" in rule for rule in by_rule)
    if len(people) < 2 or (len(by_rule) < 2 and not by_size):
        return []
    rules = "; ".join(f"{', '.join(names)} with {rule}" for rule, names in sorted(by_rule.items()))
    why = "how far that reaches differs with the data" if len(by_rule) < 2 else "by different rules"
    return [
        f"warning       the held-out text was chosen {why} ({rules}): a document that several participants have may be "
        "trained on by one and held out by another, and perplexity then looks better than it is. Prepare all data with "
        "the same --held-out-fraction and --seed"
    ]


def _rule(uri: str) -> str | None:
    if "://" in uri:
        return None
    path = Path(uri).expanduser() / "index.json"
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            return None
        settings = json.loads(path.read_bytes())["settings"]
        seed = settings.get("seed", 0)
        if settings.get("held_out_bytes") is not None:
            return f"--held-out-bytes {int(settings['held_out_bytes'])} --seed {int(seed)}"
        return f"--held-out-fraction {float(settings['held_out_fraction']):g} --seed {int(seed)}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # the worker says what is wrong with it
