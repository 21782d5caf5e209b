"""``photon-worker check``: whether a job's model can be built, before anything is started or written."""

from __future__ import annotations

from pathlib import Path

from photon.api.job import FederatedTrainingJob
from photon.api.learning import resolve
from photon.api.model import ModelSpec, unused_entries
from photon_worker.commands.initialize import files_of_tokenizer, require_fit, require_parts
from photon_worker.data.tokenizer import TextEncoder
from photon_worker.training import model as models
from photon_worker.training import pretrained


def check_model(job: FederatedTrainingJob, folder: Path) -> list[str]:
    """What was checked and what was not, a line each. Relative paths start in ``folder``.

    Raises:
        Misconfigured, DataError: The config, the tokenizer or the checkpoint cannot be used.
    """
    learning = resolve(job)
    remote = [uri for uri in _locations(learning.model) if uri.startswith("s3://")]
    unread = [f"not checked   {uri}: it is read when the job starts" for uri in remote]
    start = learning.model.init_from
    if start is not None and start.uri.startswith("s3://"):
        return unread
    checkpoint = None if start is None else folder / Path(start.uri).expanduser()
    if checkpoint is not None:
        pretrained.require_folder(checkpoint, "spec.model.initFrom.uri")
    vocabulary, kind = 0, "file"
    if not remote:
        tokenizer, files = files_of_tokenizer(learning.model, folder, checkpoint)
        vocabulary, kind = TextEncoder.from_files(tokenizer.kind, files).vocabulary_size, tokenizer.kind
    if checkpoint is None:
        assert learning.hf_config is not None, "the job's validator allows nothing else"
        config = models.config_from(learning.hf_config)
    else:
        config = models.read_config(checkpoint)
    require_fit(config, learning, vocabulary)
    model = models.build(config, without_weights=True)
    elements = models.layout(model).elements
    require_parts(elements, learning)
    # Of the byte tokenizer `photon validate` says it by itself, also where no worker is installed.
    named = vocabulary if kind == "file" else 0
    warnings = unused_entries(config.get_text_config().vocab_size, named) if named else []
    return [
        *unread,
        f"checked       {type(model).__name__}, {elements:,} parameters",
        *(f"warning       {line}" for line in warnings),
    ]


def _locations(model: ModelSpec) -> list[str]:
    found = [model.its_tokenizer().path, model.init_from.uri if model.init_from is not None else None]
    return list(dict.fromkeys(uri for uri in found if uri is not None))
