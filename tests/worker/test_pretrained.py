"""Checkpoints from outside: each damage ends in one line that names the file, and no code of a checkpoint runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from photon.api.model import TokenizerSpec
from photon.api.placement import StorageSpec
from photon.local.object_store import EmbeddedStore
from photon_worker.commands.initialize import make_model
from photon_worker.data.tokenizer import byte_tokenizer_files
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.training import model as models
from tests.opened import OpenStore

WEIGHTS = "model.safetensors"


@pytest.fixture
def checkpoint(tiny: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    tiny.model().save_pretrained(folder)
    return folder


def edit(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def with_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def without_the_norm(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.norm.weight"]


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] = float("nan")


def names_another_file(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001.safetensors"}}))


def names_a_path(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "model.safetensors is damaged"),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "model.safetensors is empty"),
    "lfs": (
        lambda folder: (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
        "git lfs pull",
    ),
    "noise": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64), "model.safetensors is damaged"),
    "pickle": (only_a_pickle, "pytorch_model.bin is a pickle"),
    "nothing": (lambda folder: (folder / WEIGHTS).unlink(), "has no .safetensors file"),
    "shard": (names_another_file, "model-00001.safetensors is missing"),
    "path": (names_a_path, "weight_map must name a file of this folder"),
    "nan": (with_tensors(not_a_number), "weights are not finite; the first is in model.norm.weight"),
    "missing": (with_tensors(without_the_norm), "lacks weights of its model"),
    "quantized": (lambda folder: edit(folder, quantization_config={"quant_method": "gptq"}), "the model is quantized"),
    "code": (lambda folder: edit(folder, auto_map={"AutoConfig": "evil.Config"}), "auto_map asks for code"),
    "kernels": (lambda folder: edit(folder, attn_implementation="someone/kernels"), "names code on a hub"),
    "no-config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "config-list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
    "config-comma": (lambda folder: (folder / "config.json").write_text('{"a": 1,}'), "config.json"),
    "config-deep": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_ends_in_one_line_that_names_the_file(damage: str, checkpoint: Path) -> None:
    spoil, expected = DAMAGE[damage]
    spoil(checkpoint)
    with pytest.raises(Misconfigured) as caught:
        models.from_checkpoint(checkpoint)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_code_of_a_checkpoint_runs_whatever_answers_on_standard_input(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "it-ran"
    (checkpoint / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    edit(checkpoint, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, model_type="evil")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (models.read_config, models.from_checkpoint):
        with pytest.raises(Misconfigured, match="auto_map"):
            load(checkpoint)
    assert not proof.exists()


def test_tensors_that_the_model_does_not_have_are_named(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_tensors(lambda tensors: tensors.update({"value_head.weight": torch.zeros(3)}))(checkpoint)
    with caplog.at_level(logging.WARNING):
        models.from_checkpoint(checkpoint)
    assert "1 tensors that the model does not have are ignored: value_head.weight" in caplog.text


def test_what_sees_later_tokens_is_no_causal_language_model(tiny: Any, tmp_path: Path) -> None:
    config = {
        "model_type": "bert",
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    learning = tiny.learning().model_copy(update={"hf_config": config})
    with pytest.raises(Misconfigured, match=r"is not causal"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def started_from(tiny: Any, uri: str, **more: Any) -> Any:
    """The learning part of a job that starts from ``uri``."""
    learning = tiny.learning()
    spec = type(learning.model).model_validate({"initFrom": {"uri": uri}, **more})
    return learning.model_copy(update={"model": spec, "hf_config": None})


def other_tokenizer(folder: Path) -> bytes:
    """Write a tokenizer beside a checkpoint: bytes, but one special token has another name."""
    for name, content in byte_tokenizer_files().items():
        (folder / name).write_bytes(content.replace(b"<bos>", b"<start>"))
    return (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("remote", [False, True])
def test_a_checkpoint_keeps_its_own_tokenizer(
    remote: bool, tiny: Any, checkpoint: Path, tmp_path: Path, s3: EmbeddedStore, open_store: OpenStore
) -> None:
    own = other_tokenizer(checkpoint)
    (checkpoint / "special_tokens_map.json").write_text('{"eos_token": "<eos>"}')
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    uri = "checkpoint"
    if remote:
        uri = "s3://given/its/own"
        bucket = open_store(StorageSpec(endpoint=s3.endpoint, bucket="given"))
        bucket.check(create_bucket=True)
        for path in checkpoint.iterdir():
            bucket.put(f"its/own/{path.name}", path.read_bytes())
    made = tmp_path / "made"
    storage = StorageSpec(endpoint=s3.endpoint)
    make_model(started_from(tiny, uri), made, folder=tmp_path, storage=storage, open_store=open_store)
    assert (made / "tokenizer.json").read_bytes() == own
    assert (made / "tokenizer_config.json").read_bytes() == (checkpoint / "tokenizer_config.json").read_bytes()
    assert (made / "special_tokens_map.json").is_file()
    assert (made / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_checkpoint_is_not_trained_on_the_tokens_of_another_tokenizer(
    tiny: Any, checkpoint: Path, tmp_path: Path
) -> None:
    other_tokenizer(checkpoint)
    learning = started_from(tiny, "checkpoint", tokenizer={"kind": "byte"})
    with pytest.raises(Misconfigured, match=r"spec\.model\.tokenizer: the checkpoint .* has a tokenizer of its own"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def test_a_checkpoint_without_a_tokenizer_needs_one_by_name(tiny: Any, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"spec\.model\.tokenizer: .* has no tokenizer.json; name the tokenizer"):
        make_model(started_from(tiny, "checkpoint"), tmp_path / "made", folder=tmp_path, storage=StorageSpec())
    learning = started_from(tiny, "checkpoint", tokenizer={"kind": "byte"})
    make_model(learning, tmp_path / "made-again", folder=tmp_path, storage=StorageSpec())


@pytest.mark.parametrize(
    ("damage", "expected"),
    [("config-comma", "config.json"), ("shape", "attention heads"), ("cut", "is damaged"), ("nan", "not finite")],
)
def test_damage_of_a_checkpoint_in_a_bucket_is_one_line_too(
    damage: str, expected: str, tiny: Any, checkpoint: Path, tmp_path: Path, s3: EmbeddedStore, open_store: OpenStore
) -> None:
    other_tokenizer(checkpoint)
    if damage == "shape":
        edit(checkpoint, hidden_size=33, num_attention_heads=4)
    else:
        DAMAGE[damage][0](checkpoint)
    bucket = open_store(StorageSpec(endpoint=s3.endpoint, bucket="given"))
    bucket.check(create_bucket=True)
    for path in checkpoint.iterdir():
        bucket.put(f"{damage}/{path.name}", path.read_bytes())
    learning = started_from(tiny, f"s3://given/{damage}")
    storage = StorageSpec(endpoint=s3.endpoint)
    with pytest.raises(Misconfigured) as caught:
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=storage, open_store=open_store)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_is_looked_for_beside_the_job_file(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs" / "tok").mkdir(parents=True)
    own = other_tokenizer(tmp_path / "jobs" / "tok")
    learning = tiny.learning()
    named = learning.model.model_copy(update={"tokenizer": TokenizerSpec(kind="file", path="tok")})
    learning = learning.model_copy(update={"model": named})
    make_model(learning, tmp_path / "made", folder=tmp_path / "jobs", storage=StorageSpec())
    assert (tmp_path / "made" / "tokenizer.json").read_bytes() == own


@pytest.mark.parametrize("start", ["random", "checkpoint"])
def test_state_that_is_no_parameter_is_refused_before_anything_is_written(
    start: str, tiny: Any, tmp_path: Path
) -> None:
    small = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    config = tiny.config | small | ranks | {"model_type": "deepseek_v3", "moe_intermediate_size": 16}
    if start == "random":
        learning = tiny.learning().model_copy(update={"hf_config": config})
    else:
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).save_pretrained(tmp_path / "checkpoint")
        learning = started_from(tiny, "checkpoint", tokenizer={"kind": "byte"})
    with pytest.raises(Misconfigured, match=r"keeps state that is not a parameter \(.*e_score_correction_bias\)"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())
    assert list((tmp_path / "made").iterdir()) == []


def test_chat_template_and_generation_settings_of_a_checkpoint_are_kept(
    tiny: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    (checkpoint / "generation_config.json").write_text('{"temperature": 0.25}')
    made = tmp_path / "made"
    learning = started_from(tiny, "checkpoint", tokenizer={"kind": "byte"})
    make_model(learning, made, folder=tmp_path, storage=StorageSpec())
    assert (made / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((made / "generation_config.json").read_text())["temperature"] == 0.25


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": -32},
        {"hidden_size": "64"},
        {"hidden_size": 33, "num_attention_heads": 4},
        {"num_attention_heads": 0},
        {"vocab_size": "320"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -1},
        {"auto_map": {"AutoConfig": "a.B"}},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_one_line(wrong: dict[str, Any], tiny: Any, tmp_path: Path) -> None:
    learning = tiny.learning().model_copy(update={"hf_config": tiny.config | wrong})
    with pytest.raises(Misconfigured) as caught:
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())
    assert str(caught.value).startswith("spec.model")
    assert "\n" not in str(caught.value)
