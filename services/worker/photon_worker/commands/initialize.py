"""``photon-worker init``: the job's record and round 0, the initial model, into the bucket.

It may run any number of times, also two at once: job.json and the commit are created if absent, and the model's folder
is named by what is in it, so runs that differ (another CPU may round an initial weight otherwise) never mix.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from photon.api.job import FederatedTrainingJob
from photon.api.learning import LearningJob, resolve_against
from photon.api.model import ModelSpec, TokenizerSpec
from photon.api.placement import StorageSpec
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.owner import Owner
from photon.protocol.ranges import MAX_PARTS
from photon.protocol.records import Commit, FileRecord
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectStore
from photon.store.owner import claim, require_ours
from photon.store.source import UrlSource
from photon_worker.data.tokenizer import PAD, TOKENIZER, TextEncoder, tokenizer_beside, tokenizer_files
from photon_worker.lifecycle.errors import Misconfigured, WorkerError

logger = logging.getLogger(__name__)

# A multipart upload has at most 10,000 parts: room for 640 GB.
PART_BYTES: Final = 64 * 2**20
DOWNLOAD_SECONDS: Final = 24 * 3600


OpenStore = Callable[[StorageSpec], ObjectStore]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """What the bucket now holds. ``created``: this run wrote the commit."""

    job: str
    commit: Commit
    created: bool


def initialise(
    job: FederatedTrainingJob, store: ObjectStore, *, folder: Path, open_store: OpenStore | None = None
) -> InitResult:
    """Write job.json and round 0 of ``job`` unless they are there.

    Args:
        folder: Where relative paths of the job (tokenizer, initFrom) start.
        open_store: Opens the bucket of an s3:// checkpoint in initFrom, by its storage spec.

    Raises:
        Misconfigured: The prefix holds another job, or model and tokenizer do not fit.
        PrefixTaken: The prefix is another job's.
        StoreError, DataError: As those say.
    """
    learning = _record_job(job, store)
    job_digest = digest(learning)
    try:
        stored = Commit.model_validate_json(store.get(keys.commit(0)))
    except NotFound:
        stored = None
    if stored is not None:
        if stored.job != job_digest:
            raise WorkerError(f"{store.uri(keys.commit(0))} is of another job ({stored.job[:12]}): use another prefix")
        logger.info("round 0 is there already: %s", store.uri(stored.folder))
        return InitResult(job=job_digest, commit=stored, created=False)
    with tempfile.TemporaryDirectory(prefix="photon-init-") as temporary:
        made = Path(temporary) / "model"
        make_model(learning, made, folder=folder, storage=job.spec.storage, open_store=open_store)
        files = [_record(path) for path in sorted(made.iterdir())]
        inputs = digest({"job": job_digest, "files": [f.model_dump(mode="json", by_alias=True) for f in files]})
        commit = Commit(
            job=job_digest,
            round=0,
            previous=None,
            plan=None,
            folder=keys.global_folder(0, inputs),
            files=files,
            outer_steps=0,
            tokens=0,
            sequential_steps=0,
        )
        for file in files:
            _upload(store, made / file.name, f"{commit.folder}/{file.name}")
    created = store.create(keys.commit(0), canonical_json(commit))
    if not created:
        # Another init was faster; its model is the one that counts.
        commit = Commit.model_validate_json(store.get(keys.commit(0)))
    logger.info("round 0: %s", store.uri(commit.folder))
    return InitResult(job=job_digest, commit=commit, created=created)


def _record_job(job: FederatedTrainingJob, store: ObjectStore) -> LearningJob:
    """The job as the bucket has it; written if it has none."""
    owner = Owner.of(job, os.environ)
    require_ours(store, owner)
    learning = _against(job, _stored_job(store))
    claim(store, owner)
    if not store.create(keys.JOB, canonical_json(learning)):
        learning = _against(job, _stored_job(store))
    return learning


def _stored_job(store: ObjectStore) -> LearningJob | None:
    try:
        return LearningJob.model_validate_json(store.get(keys.JOB))
    except NotFound:
        return None
    except ValidationError as error:
        raise Misconfigured(
            f"{store.uri(keys.JOB)} is not a job of this version of Photon: use another storage.prefix"
        ) from error


def _against(job: FederatedTrainingJob, stored: LearningJob | None) -> LearningJob:
    try:
        return resolve_against(job, stored)
    except ValueError as error:
        raise Misconfigured(str(error)) from error


def make_model(
    learning: LearningJob,
    made: Path,
    *,
    folder: Path,
    storage: StorageSpec,
    open_store: OpenStore | None = None,
) -> None:
    """Write the initial model as a Hugging Face directory into the new folder ``made``."""
    # Loading torch and transformers takes seconds, and an init that finds round 0 needs neither.
    from transformers import GenerationConfig

    from photon_worker.training import model as models
    from photon_worker.training import pretrained

    made.mkdir(parents=True)
    own: dict[str, bytes] = {}
    if learning.model.init_from is None:
        tokenizer, files = files_of_tokenizer(learning.model, folder)
        encoder = TextEncoder.from_files(tokenizer.kind, files)
        assert learning.hf_config is not None, "the job's validator allows nothing else"
        config = models.config_from(
            learning.hf_config, eos_token_id=encoder.end_of_text, bos_token_id=_bos(files, tokenizer)
        )
        require_fit(config, learning, encoder.vocabulary_size)
        module = models.build(config, seed=learning.model.seed)
        pretrained.require_trainable(module, "spec.model")
    else:
        with tempfile.TemporaryDirectory(prefix="photon-checkpoint-") as temporary:
            checkpoint = _checkpoint(learning.model.init_from.uri, Path(temporary), folder, storage, open_store)
            tokenizer, files = files_of_tokenizer(learning.model, folder, checkpoint)
            config = models.read_config(checkpoint)
            require_fit(config, learning, TextEncoder.from_files(tokenizer.kind, files).vocabulary_size)
            _require_its_tokenizer(checkpoint, files, learning.model.init_from.uri)
            module = models.from_checkpoint(checkpoint)
            own = dict(pretrained.own_files(checkpoint))
    elements = models.layout(module).elements
    logger.info("initial model: %s, %d parameters", type(module).__name__, elements)
    require_parts(elements, learning)
    models.write_weights(module, made / keys.WEIGHTS)
    (made / "config.json").write_bytes(models.config_json(config))
    generation = GenerationConfig.from_model_config(config)
    if tokenizer.kind == "byte":
        generation.pad_token_id = PAD
    values = json.loads(generation.to_json_string(use_diff=True))
    values.pop("transformers_version", None)
    (made / "generation_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    for name, content in (files | own).items():
        (made / name).write_bytes(content)


def files_of_tokenizer(
    model: ModelSpec, folder: Path, checkpoint: Path | None = None
) -> tuple[TokenizerSpec, dict[str, bytes]]:
    """The tokenizer of a job and its files.

    Args:
        folder: Where a relative path starts.
        checkpoint: Where the checkpoint of initFrom is on this machine: its own tokenizer is read there.

    Raises:
        Misconfigured, DataError: There is none, or it cannot be used.
    """
    spec, start = model.its_tokenizer(), model.init_from
    if checkpoint is None or start is None or (spec.path or "").rstrip("/") != start.uri.rstrip("/"):
        spec = tokenizer_beside(spec, folder)
        return spec, tokenizer_files(spec)
    path = checkpoint / TOKENIZER
    if not path.is_file():
        raise Misconfigured(
            f"spec.model.tokenizer: the checkpoint {start.uri} has no {TOKENIZER}; name the tokenizer that it was "
            "trained with ({kind: file, path: ...}, or {kind: byte})"
        )
    spec = spec.model_copy(update={"path": str(path)})
    return spec, tokenizer_files(spec)


def _require_its_tokenizer(checkpoint: Path, files: dict[str, bytes], uri: str) -> None:
    """A model that was trained on the tokens of one tokenizer knows nothing of another's."""
    theirs = checkpoint / TOKENIZER
    if theirs.is_file() and theirs.read_bytes() != files[TOKENIZER]:
        raise Misconfigured(
            f"spec.model.tokenizer: the checkpoint {uri} has a tokenizer of its own, and this is another one: leave "
            f"spec.model.tokenizer out, and prepare the data with that of the checkpoint (--tokenizer {uri})"
        )


def require_fit(config: Any, learning: LearningJob, vocabulary: int) -> None:
    """Raise Misconfigured unless the model takes every token of the tokenizer and sequences of the job's length."""
    text = config.get_text_config()
    if vocabulary > text.vocab_size:
        raise Misconfigured(
            f"spec.model: the tokenizer has {vocabulary} tokens and the model a vocabulary of {text.vocab_size}; "
            "raise vocab_size in spec.model.config or use another tokenizer"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and learning.local.sequence_length > positions:
        raise Misconfigured(
            f"spec.local.sequenceLength: {learning.local.sequence_length} is more than the model's "
            f"max_position_embeddings ({positions}); lower the one or raise the other"
        )


def require_parts(elements: int, learning: LearningJob) -> None:
    """Raise Misconfigured when an update of the model would have more parts than a manifest can name."""
    part_bytes = learning.exchange.part_bytes
    parts = -(-4 * elements // part_bytes)
    if parts > MAX_PARTS:
        least = 2 ** (-(-4 * elements // MAX_PARTS) - 1).bit_length()
        raise Misconfigured(
            f"spec.exchange.partBytes: {part_bytes} cuts an update of this model ({elements:,} parameters) into "
            f"{parts:,} parts, and {MAX_PARTS:,} are the most: use at least {least}"
        )


def _bos(files: dict[str, bytes], tokenizer: TokenizerSpec) -> int | None:
    """Id of the token that begins a text, where the tokenizer has one."""
    if tokenizer.kind == "byte":
        from photon_worker.data.tokenizer import BOS

        return BOS
    named = json.loads(files["tokenizer_config.json"]).get("bos_token")
    content = named.get("content") if isinstance(named, dict) else named
    document = json.loads(files["tokenizer.json"])
    for token in document.get("added_tokens", []):
        if token.get("content") == content:
            return int(token["id"])
    return None


def _checkpoint(uri: str, temporary: Path, folder: Path, storage: StorageSpec, open_store: OpenStore | None) -> Path:
    """The Hugging Face directory of initFrom on this machine."""
    if not uri.startswith("s3://"):
        path = folder / Path(uri).expanduser()
        if not path.is_dir():
            raise Misconfigured(f"spec.model.initFrom.uri: {path} is not a folder with a Hugging Face checkpoint")
        return path
    assert open_store is not None, "main hands it in"
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    try:
        spec = storage.model_copy(update={"bucket": bucket, "prefix": ""})
        source = open_store(StorageSpec.model_validate(spec.model_dump()))
    except ValidationError as error:
        raise Misconfigured(f"spec.model.initFrom.uri: {uri} names no bucket: write s3://bucket/prefix") from error
    prefix = prefix.rstrip("/") + "/"
    with source:
        found = [info for info in source.list(prefix) if "/" not in info.key.removeprefix(prefix)]
        wanted = [info for info in found if info.key.endswith((".json", ".jinja", ".safetensors"))]
        if not any(info.key.endswith(".safetensors") for info in wanted):
            raise Misconfigured(
                f"spec.model.initFrom.uri: {uri} holds no .safetensors files (found {len(found)} objects)"
            )
        for info in wanted:
            url = source.presign_get(info.key, valid_seconds=DOWNLOAD_SECONDS)
            _fetch(UrlSource(url, info.size_bytes, etag=info.etag), temporary / info.key.removeprefix(prefix))
    return temporary


def _fetch(source: UrlSource, path: Path) -> None:
    block = memoryview(bytearray(min(PART_BYTES, source.size_bytes)))
    try:
        with path.open("wb") as file:
            for start in range(0, source.size_bytes, PART_BYTES):
                part = block[: min(PART_BYTES, source.size_bytes - start)]
                source.read_into(start, part)
                file.write(part)
    finally:
        source.close()


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(
            name=path.name, size_bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def _upload(store: ObjectStore, path: Path, key: str) -> None:
    size = path.stat().st_size
    found = store.head(key)
    if found is not None and found.size_bytes == size:
        return  # the folder's name says what its files are
    if size <= PART_BYTES:
        store.put(key, path.read_bytes())
        return
    with store.multipart(key) as upload, path.open("rb") as file:
        number = 0
        while data := file.read(PART_BYTES):
            number += 1
            upload.upload_part(number, data)
        upload.complete()
