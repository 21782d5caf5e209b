"""The institution's policy as a file: safe defaults, bounds, and mistakes with line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from photon.errors import UserError
from photon.policy.document import Policy, load_policy

WHOLE = """
hubs: [hub.example.org, 9F86 d081 884c 7d65 9a2f eaa0 c55a d015]
jobs: ["radiology-*"]
hours:
  - {days: [Mon, Fri], from: "20:00", to: "06:00", timezone: Europe/Berlin}
atEnd: Stop
models: {types: [llama], maxParameters: 2000000000}
minCohort: 4
reveal: {mfu: true}
"""


def load(folder: Path, text: str | bytes) -> Policy:
    path = folder / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_policy(path)


def test_an_empty_file_is_the_default_policy(tmp_path: Path) -> None:
    policy = load(tmp_path, "\n")
    assert policy == Policy()
    assert (policy.min_cohort, policy.min_tokens_per_update) == (3, 10**6)
    assert not any(policy.reveal.model_dump().values())


def test_every_setting_is_read(tmp_path: Path) -> None:
    policy = load(tmp_path, WHOLE)
    assert policy.hubs == ["hub.example.org", "9f86d081884c7d659a2feaa0c55ad015"]
    assert (policy.hours[0].start, policy.hours[0].to, policy.at_end) == ("20:00", "06:00", "Stop")
    assert policy.models.max_parameters == 2 * 10**9
    assert policy.reveal.mfu
    assert not policy.reveal.memory


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("minCohorts: 3", r"policy\.yaml:1: minCohorts: Extra inputs"),
        ("minCohort: 0", r"policy\.yaml:1: minCohort: .* greater than or equal to 1"),
        ("models:\n  maxParameters: -1", r"policy\.yaml:2: models\.maxParameters"),
        ("hubs: ['https://hub']", "is neither a host nor a key id"),
        ('hours: [{from: "08:00", to: "08:00"}]', "from and to must differ"),
        ('hours: [{from: "8:00", to: "09:00"}]', r"hours\[0\]\.from"),
        ('hours: [{from: "08:00", to: "24:01"}]', r"hours\[0\]\.to"),
        ('hours: [{from: "08:00", to: "09:00", days: [Monday]}]', r"hours\[0\]\.days\[0\]"),
        ('hours: [{from: "08:00", to: "09:00", timezone: Mars}]', "'Mars' is no time zone of this machine"),
        ('hours: [{from: "08:00", to: "09:00", timezone: ../../etc/passwd}]', "is no time zone of this machine"),
        ("jobs: []", "jobs"),
        (b"\xff", "is not UTF-8 text"),
        ("#" * 300_000, "is larger than 256 KiB"),
    ],
)
def test_a_mistake_names_line_and_field(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(tmp_path, text)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, "minCohort: 0\nminTokensPerUpdate: -1\n")
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the policy: no such file"):
        load_policy(tmp_path / "absent")
