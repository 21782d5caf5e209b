"""``photon-worker check``: whether a job's model can be built, before anything is started or written."""

from __future__ import annotations

from pathlib import Path

from photon.api.job import FederatedTrainingJob
from photon.api.learning import resolve
from photon.api.model import ModelSpec
from photon_worker.commands.initialize import require_fit, require_parts
from photon_worker.data.tokenizer import TextEncoder, tokenizer_beside, tokenizer_files
from photon_worker.training import model as models
from photon_worker.training import pretrained


def check_model(job: FederatedTrainingJob, folder: Path) -> list[str]:
    """What was checked and what was not, a line each. Relative paths start in ``folder``.

    Raises:
        Mistake, DataError: The config, the tokenizer or the checkpoint cannot be used.
    """
    learning = resolve(job)
    remote = [uri for uri in _locations(learning.model) if uri.startswith("s3://")]
    if remote:
        return [f"not checked   {uri}: it is read when the job starts" for uri in remote]
    tokenizer = tokenizer_beside(learning.model.tokenizer, folder)
    vocabulary = TextEncoder.from_files(tokenizer.kind, tokenizer_files(tokenizer)).vocabulary_size
    if learning.model.init_from is None:
        assert learning.hf_config is not None, "the job's validator allows nothing else"
        config = models.config_from(learning.hf_config)
    else:
        checkpoint = folder / Path(learning.model.init_from.uri).expanduser()
        pretrained.require_folder(checkpoint, "spec.model.initFrom.uri")
        config = models.read_config(checkpoint)
    require_fit(config, learning, vocabulary)
    model = models.build(config, without_weights=True)
    elements = models.layout(model).elements
    require_parts(elements, learning)
    return [f"checked       {type(model).__name__}, {elements:,} parameters"]


def _locations(model: ModelSpec) -> list[str]:
    found = [model.tokenizer.path, model.init_from.uri if model.init_from is not None else None]
    return [uri for uri in found if uri is not None]
