"""``photon-worker evaluate``: the held-out perplexity of any Hugging Face directory, as a program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from photon.api.training import Precision
from photon.protocol.figures import bits_per_byte, perplexity
from photon.protocol.records import HeldOutSums
from photon_worker.data import Mixture
from photon_worker.data.sources import data_by_name
from photon_worker.data.tokenizer import TOKENIZER
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.training import device as devices
from photon_worker.training import model as models
from photon_worker.training.evaluate import EvaluationSettings, added, held_out_loss, require_held_out


def evaluate_checkpoint(
    checkpoint: Path,
    data: Sequence[str],
    *,
    sequence_length: int,
    batch_size: int,
    max_tokens: int | None,
    threads: int | None,
    bf16: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> str:
    """The report as text: JSON, or a table. Perplexities are per token; ``bits_per_byte`` compares tokenizers; of text
    without bytes it is null, in the table a dash.

    Raises:
        Misconfigured, DataError: Checkpoint or data are missing or do not fit each other.
    """
    if not checkpoint.is_dir():
        raise Misconfigured(f"--checkpoint: {checkpoint} is not a folder")
    tokenizer = checkpoint / TOKENIZER
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else None
    sources = Mixture.open(data_by_name(data, "data"), cache_dir, tokenizer_digest=digest).sources
    require_held_out(sources)
    device = devices.choose(threads)
    precision = Precision.BF16 if bf16 else Precision.FP32
    devices.use_precision(precision)
    model: Any = models.from_checkpoint(checkpoint, field="--checkpoint").to(device)
    model.eval()
    settings = EvaluationSettings(
        sequence_length=sequence_length,
        batch_size=batch_size,
        max_tokens=max_tokens,
        precision=precision,
    )

    def forward(tokens: Any) -> Any:
        return model(input_ids=tokens, use_cache=False).logits

    results = {
        name: held_out_loss(forward, source.held_out, settings, device=device) for name, source in sources.items()
    }
    total = added(results)
    if as_json:
        report = {"all": _figures(total), "sources": {name: _figures(result) for name, result in results.items()}}
        return json.dumps(report, indent=2) + "\n"
    rows: list[tuple[str, HeldOutSums]] = [*results.items(), *([("all", total)] if len(results) > 1 else [])]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  {'tokens':>12}  {'loss':>8}  {'perplexity':>10}  {'bits/byte':>9}"]
    for name, result in rows:
        f = _figures(result)
        loss, per_token = f["loss"], f["perplexity"]
        bits = "-" if f["bits_per_byte"] is None else f"{f['bits_per_byte']:.4f}"
        lines.append(f"{name:{width}}  {result.tokens:>12,}  {loss:>8.4f}  {per_token:>10.3f}  {bits:>9}")
    return "\n".join(lines) + "\n"


def _figures(result: HeldOutSums) -> dict[str, Any]:
    loss = result.loss_sum / result.tokens
    return {
        **result.model_dump(mode="json", by_alias=False, exclude={"sources"}),
        "loss": loss,
        "perplexity": perplexity(loss),
        "bits_per_byte": bits_per_byte([result]),
    }
