from __future__ import annotations

import gzip
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from photon.api.model import TokenizerSpec
from photon.local.object_store import EmbeddedStore
from photon_worker.data import DataError, Mixture, TokenDataset, inputs, remote
from photon_worker.data.index import PreparationSettings
from photon_worker.data.prepare import prepare
from photon_worker.data.progress import Quiet
from photon_worker.data.tokenizer import tokenizer_digest, write_tokenizer
from photon_worker.lifecycle.exits import End, end_of
from tests.faults import FaultProxy
from tests.forwarding import ForwardProxy
from tests.tls import make_authority, server_context

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.s3


@pytest.fixture
def bucket(s3: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in a real object store, which the AWS variables of the environment name."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    client = remote.client()
    if "institution" not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="institution")
    return f"institution/{uuid.uuid4().hex[:8]}"


def put(client: S3Client, folder: Path, place: str) -> str:
    """Copy a folder to the store; its URI."""
    name, _, prefix = place.partition("/")
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=name, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://{place}"


def test_prepared_data_is_copied_once_and_read_like_a_local_folder(bucket: str, prepared: Path, tmp_path: Path) -> None:
    uri = put(remote.client(), prepared, f"{bucket}/data")
    cache = tmp_path / "cache"
    there = Mixture.open({"a": uri}, cache)
    here = Mixture.open({"a": str(prepared)})
    arguments = {"seed": 0, "step": 5, "batch_size": 4, "sequence_length": 64}
    np.testing.assert_array_equal(there.batch(**arguments), here.batch(**arguments))
    [copy] = (cache / "data").iterdir()
    before = (copy / "tokens-00000.bin").stat().st_mtime_ns
    TokenDataset.open(f"{uri}/", cache)
    assert (copy / "tokens-00000.bin").stat().st_mtime_ns == before
    assert not list(copy.glob(".*")), "no temporary file is left"


def test_data_behind_a_private_authority_or_a_proxy_is_reached_like_the_jobs_store(
    bucket: str, prepared: Path, tmp_path: Path, s3: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(remote.client(), prepared, f"{bucket}/data")
    authority = make_authority(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority / "ca.crt"))
    with FaultProxy(s3.endpoint, tls=server_context(authority)) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", secure.endpoint)
        assert remote.read_bytes(f"{uri}/index.json") == (prepared / "index.json").read_bytes()
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with ForwardProxy({"store.invalid": int(s3.endpoint.rpartition(":")[2])}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
        assert remote.read_bytes(f"{uri}/index.json") == (prepared / "index.json").read_bytes()
        assert proxy.seen == ["GET store.invalid"]


def test_a_damaged_object_is_refused_and_not_kept(bucket: str, prepared: Path, tmp_path: Path) -> None:
    shard = prepared / "tokens-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    uri = put(remote.client(), prepared, f"{bucket}/data")
    with pytest.raises(DataError, match=r"tokens-00000.bin is damaged: its sha256 is not that of its index"):
        TokenDataset.open(uri, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.bin*"))


def test_inputs_of_every_format_are_read_from_the_store(
    bucket: str, tree: Path, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    lines = "".join(f'{{"text": "line {n}"}}\n' for n in range(50))
    (tree / "a.jsonl").write_text(lines)
    (tree / "b.jsonl.gz").write_bytes(gzip.compress(lines.replace("line", "other").encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": [text_of(n) for n in range(100, 120)]}), tree / "c.parquet")
    prepare([str(tree)], tmp_path / "local", PreparationSettings(), workers=1)
    uri = put(remote.client(), tree, f"{bucket}/tree")
    index = prepare([uri], tmp_path / "remote", PreparationSettings(), workers=1)
    for name in ("index.json", "tokens-00000.bin", "heldout-00000.bin"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "remote" / name).read_bytes()
    assert index.sources == ["tree"]


def test_a_prefix_is_a_folder_not_the_beginning_of_a_name(bucket: str, tmp_path: Path) -> None:
    for name in ("part/a.txt", "particular/b.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    uri = put(remote.client(), tmp_path, bucket)
    assert [found[0] for found in remote.list_objects(f"{uri}/part")] == [f"{uri}/part/a.txt"]
    assert [found[0] for found in remote.list_objects(f"{uri}/part/a.txt")] == [f"{uri}/part/a.txt"]


def test_a_tokenizer_may_lie_in_the_store(bucket: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "byte", TokenizerSpec())
    uri = put(remote.client(), tmp_path / "byte", f"{bucket}/tokenizer")
    digest = tokenizer_digest(TokenizerSpec())
    assert tokenizer_digest(TokenizerSpec(kind="file", path=uri)) == digest
    assert tokenizer_digest(TokenizerSpec(kind="file", path=f"{uri}/tokenizer.json")) == digest


def test_what_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/nothing"
    with pytest.raises(DataError, match=r"nothing is not prepared data \(it has no index.json\)"):
        TokenDataset.open(uri, tmp_path)
    with pytest.raises(DataError, match=r"the input s3://.*/nothing does not exist"):
        prepare([uri], tmp_path / "out", PreparationSettings(), workers=1)
    with pytest.raises(DataError, match=r"the bucket of s3://no-such-bucket/x.* does not exist|x/index.json does not"):
        TokenDataset.open("s3://no-such-bucket/x", tmp_path)
    with pytest.raises(DataError, match="names no bucket"):
        TokenDataset.open("s3://", tmp_path)


def test_wrong_or_missing_credentials_are_named(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"s3://{bucket}/data"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(
        DataError, match=r"refused s3://.* \((SignatureDoesNotMatch|AccessDenied|403)\): check"
    ) as refused:
        TokenDataset.open(uri, tmp_path)
    end = End(code=1, reason="AccessDenied", message=str(refused.value))
    assert end_of(refused.value) == end, "a worker is started again"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"no credentials for s3://.*: set AWS_ACCESS_KEY_ID"):
        TokenDataset.open(uri, tmp_path)


def test_a_store_that_does_not_answer_is_named(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match=r"cannot be reached: .*127.0.0.1:9") as unreachable:
        TokenDataset.open(f"s3://{bucket}/data", tmp_path)
    end = End(code=1, reason="StorageUnreachable", message=str(unreachable.value))
    assert end_of(unreachable.value) == end, "a worker is started again"


def test_a_store_that_goes_away_costs_nothing_that_was_read(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_LARGEST_UNIT", 1000)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.txt").write_text("".join(f"line {m} of text {n}\n" for m in range(100)))
    uri = put(remote.client(), folder, f"{bucket}/texts")
    address = os.environ["AWS_ENDPOINT_URL"]
    read: list[int] = []

    class Leaving(Quiet):
        """Of the phase of reading, the steps; after two units the store is gone."""

        def phase(self, name: str, total: int) -> Callable[[int], None]:
            del total

            def advance(count: int) -> None:
                if name == "reading":
                    read.append(count)
                    if sum(read) == 2:
                        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

            return advance

    with pytest.raises(DataError, match="cannot be reached"):
        prepare([uri], tmp_path / "out", PreparationSettings(), workers=1, report=Leaving())
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    done = sum(read)
    read.clear()
    read.append(-1000)
    prepare([uri], tmp_path / "out", PreparationSettings(), workers=1, report=Leaving())
    assert read[1] == done == 2, "what was read before is not read again"


def test_damage_in_the_store_is_named_like_damage_on_disk(bucket: str, tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "row {n} of the data"}}\n' for n in range(200)).encode()
    files = {
        "cut.jsonl.zst": zstandard.compress(rows)[:-9],
        "cut.jsonl.gz": gzip.compress(rows)[:-9],
        "bad.jsonl": rows + b"{\n",
        "lfs.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "cut.parquet": b"PAR1" + bytes(1000),
        "empty.jsonl.gz": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    uri = put(remote.client(), tmp_path, bucket)
    for name, said in (
        ("cut.jsonl.zst", r" cannot be read: it is damaged or was cut short \(it ends in the middle of a zstd frame\)"),
        ("cut.jsonl.gz", " cannot be read: it is damaged or was cut short"),
        ("bad.jsonl", r", line 201 \(byte \d+\): is no JSON"),
        ("lfs.parquet", ": is a Git LFS pointer"),
        ("cut.parquet", " is no Parquet file, or was cut short"),
        ("empty.jsonl.gz", ": is empty"),
    ):
        with pytest.raises(DataError, match=f"^{uri}/{name}{said}"):
            prepare([f"{uri}/{name}"], tmp_path / "out" / name, PreparationSettings(), workers=1)
    index = prepare([f"{uri}/bad.jsonl"], tmp_path / "done", PreparationSettings(bad_records="skip"), workers=1)
    assert (index.left_out.bad_records, index.first["bad_records"][:18]) == (1, "bad.jsonl, line 20")


def test_names_that_lie_and_prepared_data_in_the_store(bucket: str, prepared: Path, tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "row {n} of the data"}}\n' for n in range(200)).encode()
    folder = tmp_path / "in"
    shutil.copytree(prepared, folder / "old")
    (folder / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(rows))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["in a Parquet file"]}), folder / "a.txt")
    uri = put(remote.client(), folder, bucket)
    index = prepare([uri], tmp_path / "out", PreparationSettings(held_out_fraction=0), workers=1)
    assert index.documents == 201
    assert index.left_out.own_output == len(list(prepared.iterdir()))
