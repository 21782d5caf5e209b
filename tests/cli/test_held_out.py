"""``photon validate`` on how participants chose their held-out text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon_worker.data.index import Index, PreparationSettings, Split

PHOTON = Path(sys.executable).parent / "photon"


def prepared(folder: Path, **settings: Any) -> None:
    """The index that `photon data prepare` leaves."""
    folder.mkdir()
    split = Split(documents=1, tokens=1, bytes=1, shards=[])
    index = Index(
        dtype="uint16",
        vocabulary_size=259,
        end_of_text=258,
        tokenizer="byte",
        tokenizer_digest="0" * 64,
        **split.model_dump(),
        held_out=split,
        sources=["x"],
        settings=PreparationSettings(**settings),
    )
    (folder / "index.json").write_text(index.model_dump_json())


def warnings(tmp_path: Path, data: list[dict[str, Any]]) -> list[str]:
    """The warnings of photon validate of a job with these data."""
    document = {
        "apiVersion": "photon.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": "test"},
        "spec": {
            "model": {"preset": "llama-1m"},
            "rounds": 8,
            "local": {"precision": "fp32"},
            "participants": [{"name": f"p{i}", "worker": {"data": given}} for i, given in enumerate(data)],
        },
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run([PHOTON, "validate", tmp_path / "job.yaml"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("warning")]


RULES: dict[str, dict[str, Any]] = {
    "two": {},
    "ten": {"held_out_fraction": 0.1},
    "seed": {"seed": 5},
    "size": {"held_out_fraction": None, "held_out_bytes": 1000},
    "again": {"shard_tokens": 2048},
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name, settings in RULES.items():
        prepared(tmp_path / name, **settings)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text(json.dumps({"settings": []}))
    return tmp_path


def test_the_same_rule_everywhere_is_not_worth_a_word(folders: Path) -> None:
    data = [
        {"uri": "two"},
        {"sources": [{"name": "a", "uri": "two"}, {"name": "b", "uri": "again"}]},
        {"uri": "s3://b"},
    ]
    assert warnings(folders, [*data, {"uri": "broken"}, {"uri": "nowhere"}]) == []
    assert warnings(folders, [{"uri": "size"}]) == [], "one participant has nobody to mix its text with"


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (["ten", "two"], "(p0, p2 with --held-out-fraction 0.02 --seed 0; p1 with --held-out-fraction 0.1 --seed 0)"),
        (["seed"], "(p0 with --held-out-fraction 0.02 --seed 0; p1 with --held-out-fraction 0.02 --seed 5)"),
        (["size"], "p1 with --held-out-bytes 1000 --seed 0"),
    ],
)
def test_different_rules_are_warned_of(folders: Path, others: list[str], said: str) -> None:
    (line,) = warnings(folders, [{"uri": "two"}, *({"uri": other} for other in others)])
    assert said in line
    assert "the same --held-out-fraction and --seed" in line


def test_a_rule_by_size_is_another_for_all_data(folders: Path) -> None:
    (line,) = warnings(folders, [{"uri": "size"}, {"uri": "size"}])
    assert "differs with the data" in line
