"""Round 0: a Hugging Face directory whose bytes follow from the job alone, written once however often one tries."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob
from photon.api.placement import StorageSpec
from photon.api.presets import PRESETS, parameters_of
from photon.api.training import ExchangeSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.owner import NAMESPACE_VARIABLE, Owner
from photon.protocol.records import Commit
from photon.store import keys
from photon.store.errors import PrefixTaken
from photon.store.objects import ObjectStore
from photon.store.owner import claim
from photon_worker.commands.check import check_model
from photon_worker.commands.initialize import initialise, make_model, require_parts
from photon_worker.data.tokenizer import BOS, EOS, PAD
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.training import model as models
from tests.opened import OpenStore


@pytest.fixture
def made(tiny: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    make_model(tiny.learning(), folder, folder=tmp_path, storage=StorageSpec())
    return folder


@pytest.mark.s3
def test_a_prefix_of_another_job_is_left_as_it_is(
    tiny: Any, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job()
    claim(store, Owner(job=job.metadata.name, namespace="lab"))
    monkeypatch.setenv(NAMESPACE_VARIABLE, "other")
    with pytest.raises(PrefixTaken, match="belongs to the job lab/"):
        initialise(job, store, folder=tmp_path)
    assert [info.key for info in store.list()] == [keys.OWNER]
    monkeypatch.setenv(NAMESPACE_VARIABLE, "lab")
    assert initialise(job, store, folder=tmp_path).created


@pytest.mark.parametrize(
    "config",
    [*PRESETS.values(), {**PRESETS["llama-1b"], "num_key_value_heads": 4, "tie_word_embeddings": False}],
    ids=[*PRESETS, "grouped-untied"],
)
def test_the_size_of_a_model_is_known_from_its_config(config: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert parameters_of(config) == sum(parameter.numel() for parameter in model.parameters())


def test_the_directory_loads_with_transformers(tiny: Any, made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert model.dtype == torch.float32
    for (name, ours), theirs in zip(
        models.parameters(tiny.model()).items(), models.parameters(model).values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer("hé").input_ids == list("hé".encode())
    assert tokenizer.decode(tokenizer("hé <eos>").input_ids) == "hé <eos>"
    assert (model.config.bos_token_id, model.config.eos_token_id) == (BOS, EOS)
    assert model.generation_config.pad_token_id == PAD
    text = tokenizer("ab", return_tensors="pt")
    assert model.generate(**text, max_new_tokens=3, do_sample=False).shape[1] <= 5


def test_the_weights_are_one_flat_fp32_file(made: Path) -> None:
    tensors = load_file(made / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert all(t.dtype == torch.float32 for t in tensors.values())
    raw = (made / "model.safetensors").read_bytes()
    expected = torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)]).numpy().tobytes()
    assert raw.endswith(expected)


def test_records_of_the_model_say_nothing_of_versions(made: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        assert "version" not in (made / name).read_text()
    assert json.loads((made / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_weights_survive_the_round_trip_through_a_folder(tiny: Any, made: Path) -> None:
    model = models.build(models.read_config(made))
    models.read_weights(model, made)
    assert (tiny.flat(model) == tiny.flat(tiny.model())).all()


def test_another_seed_gives_another_model(tiny: Any) -> None:
    config = models.config_from(tiny.config)
    assert not (tiny.flat(models.build(config, seed=1)) == tiny.flat(models.build(config, seed=2))).all()


def test_building_a_model_leaves_the_callers_random_numbers_alone(tiny: Any) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    tiny.model()
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("shards", [False, True])
def test_a_bf16_checkpoint_becomes_the_same_values_in_fp32(
    tiny: Any, tmp_path: Path, shards: bool, s3: EmbeddedStore, open_store: OpenStore
) -> None:
    checkpoint = tmp_path / "checkpoint"
    given = tiny.model().to(torch.bfloat16)
    given.save_pretrained(checkpoint, max_shard_size="20KB" if shards else "1GB")
    assert (checkpoint / "model.safetensors.index.json").exists() == shards
    uris = ["checkpoint"]
    if shards:  # and from a bucket
        spec = StorageSpec(endpoint=s3.endpoint, bucket="given")
        bucket = open_store(spec)
        bucket.check(create_bucket=True)
        for path in checkpoint.iterdir():
            bucket.put(f"some/model/{path.name}", path.read_bytes())
        uris.append("s3://given/some/model")
    for number, uri in enumerate(uris):
        learning = tiny.learning()
        spec = learning.model.model_copy(update={"config": None})
        spec = type(spec).model_validate({"initFrom": {"uri": uri}, "tokenizer": {"kind": "byte"}, "seed": 7})
        learning = learning.model_copy(update={"model": spec, "hf_config": None})
        made = tmp_path / f"made-{number}"
        make_model(
            learning,
            made,
            folder=tmp_path,
            storage=StorageSpec(endpoint=s3.endpoint),
            open_store=open_store,
        )
        tensors = load_file(made / "model.safetensors")
        for name, parameter in models.parameters(given).items():
            assert torch.equal(tensors[name], parameter.float())


@pytest.mark.s3
def test_init_twice_gives_the_same_commit(tiny: Any, store: ObjectStore, storage: StorageSpec, tmp_path: Path) -> None:
    job = tiny.job(storage.model_dump(mode="json", by_alias=True, exclude_none=True))
    first = initialise(job, store, folder=tmp_path)
    second = initialise(job, store, folder=tmp_path)
    assert (first.created, second.created) == (True, False)
    assert first.commit == second.commit
    stored = LearningJob.model_validate_json(store.get(keys.JOB))
    assert first.job == digest(stored) == first.commit.job
    assert store.get(keys.commit(0)) == canonical_json(first.commit)
    for file in first.commit.files:
        assert store.head(f"{first.commit.folder}/{file.name}").size_bytes == file.size_bytes


@pytest.mark.s3
def test_two_inits_at_once_agree(tiny: Any, store: ObjectStore, storage: StorageSpec, tmp_path: Path) -> None:
    job = tiny.job(storage.model_dump(mode="json", by_alias=True, exclude_none=True))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: initialise(job, store, folder=tmp_path), range(2)))
    assert sum(result.created for result in results) == 1
    assert results[0].commit == results[1].commit == Commit.model_validate_json(store.get(keys.commit(0)))


@pytest.mark.s3
def test_the_same_job_under_another_prefix_has_the_same_digest(
    tiny: Any, store: ObjectStore, storage: StorageSpec, open_store: OpenStore, tmp_path: Path
) -> None:
    other = storage.model_copy(update={"prefix": f"{storage.prefix}-other"})
    opened = open_store(other)
    one = initialise(tiny.job(), store, folder=tmp_path)
    two = initialise(tiny.job(), opened, folder=tmp_path)
    assert digest(one.commit) == digest(two.commit)


@pytest.mark.s3
def test_a_prefix_with_another_job_is_refused(tiny: Any, store: ObjectStore, tmp_path: Path) -> None:
    initialise(tiny.job(), store, folder=tmp_path)
    with pytest.raises(Misconfigured, match=r"another.*settings of local.*storage\.prefix|settings of local"):
        initialise(tiny.job(steps=5), store, folder=tmp_path)


def test_a_vocabulary_too_small_for_the_tokenizer_is_a_mistake(tiny: Any, tmp_path: Path) -> None:
    learning = tiny.learning().model_copy(update={"hf_config": tiny.config | {"vocab_size": 100}})
    with pytest.raises(Misconfigured, match=r"tokenizer has 259 tokens.*vocabulary of 100"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def test_a_sequence_longer_than_the_model_takes_is_a_mistake(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="sequenceLength: 128 is more than"):
        make_model(tiny.learning(sequenceLength=128), tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def test_an_unknown_model_type_is_a_mistake() -> None:
    with pytest.raises(Misconfigured, match="transformers refuses it"):
        models.config_from({"model_type": "llamma"})


def test_a_missing_checkpoint_is_a_mistake(tiny: Any, tmp_path: Path) -> None:
    learning = tiny.learning()
    spec = type(learning.model).model_validate({"initFrom": {"uri": "nowhere"}})
    learning = learning.model_copy(update={"model": spec, "hf_config": None})
    with pytest.raises(Misconfigured, match="is not a folder with a Hugging Face checkpoint"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def test_parts_that_no_manifest_could_name_are_a_mistake(tiny: Any) -> None:
    learning = tiny.learning()
    require_parts(10**9, learning)
    small = learning.model_copy(update={"exchange": ExchangeSpec(part_bytes=65536)})
    with pytest.raises(Misconfigured, match=r"spec\.exchange\.partBytes: 65536 .* 411,281 parts.* use at least 524288"):
        require_parts(6_738_415_616, small)


def test_a_config_beside_a_tokenizer_in_object_storage_is_checked(tiny: Any, tmp_path: Path) -> None:
    def job(**config: Any) -> FederatedTrainingJob:
        model = {"config": tiny.config | config, "tokenizer": {"kind": "file", "path": "s3://b/tok"}}
        spec = {"model": model, "rounds": 2, "participants": [{"name": "a", "remote": {}}]}
        spec["local"] = {"sequenceLength": 16}
        document = {"apiVersion": "photon.dev/v1alpha1", "kind": "FederatedTrainingJob", "metadata": {"name": "test"}}
        return FederatedTrainingJob.model_validate({**document, "spec": spec})

    unread, checked = check_model(job(), tmp_path)
    assert unread == "not checked   s3://b/tok: it is read when the job starts"
    assert checked.startswith("checked       LlamaForCausalLM, ")
    with pytest.raises(Misconfigured, match="hidden size"):
        check_model(job(hidden_size=66, num_attention_heads=4), tmp_path)
