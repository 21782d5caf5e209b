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

from photon.api.placement import StorageSpec
from photon_worker.commands.initialize import make_model
from photon_worker.lifecycle.errors import Mistake
from photon_worker.training import model as models

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
    with pytest.raises(Mistake) as caught:
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
        with pytest.raises(Mistake, match="auto_map"):
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
    with pytest.raises(Mistake, match=r"is not causal"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def test_a_checkpoint_is_not_trained_on_the_tokens_of_another_tokenizer(
    tiny: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "tokenizer.json").write_text('{"model": {}}')
    learning = tiny.learning()
    spec = type(learning.model).model_validate({"initFrom": {"uri": "checkpoint"}})
    learning = learning.model_copy(update={"model": spec, "hf_config": None})
    with pytest.raises(Mistake, match=r"spec\.model\.tokenizer: the checkpoint has a tokenizer of its own"):
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())


def test_chat_template_and_generation_settings_of_a_checkpoint_are_kept(
    tiny: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    (checkpoint / "generation_config.json").write_text('{"temperature": 0.25}')
    learning = tiny.learning()
    spec = type(learning.model).model_validate({"initFrom": {"uri": "checkpoint"}})
    learning = learning.model_copy(update={"model": spec, "hf_config": None})
    made = tmp_path / "made"
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
    with pytest.raises(Mistake) as caught:
        make_model(learning, tmp_path / "made", folder=tmp_path, storage=StorageSpec())
    assert str(caught.value).startswith("spec.model")
    assert "\n" not in str(caught.value)
