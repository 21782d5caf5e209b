"""What ``photon validate`` checks of a model: by the worker's program, where that is installed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import yaml

from photon.api.job import FederatedTrainingJob
from photon.ending import read
from photon.errors import UserError
from photon.exit_codes import EXIT_USER_ERROR
from photon.local.programs import find_program
from photon.protocol.termination import TERMINATION_LOG

# torch and transformers take seconds to load, on a busy machine a minute.
CHECK_SECONDS: Final = 300.0


def check_model(job: FederatedTrainingJob, folder: Path) -> list[str]:
    """Lines on what was checked, and what could not be. Relative paths of the job start in ``folder``.

    Raises:
        UserError: The model's config, tokenizer or checkpoint cannot be used.
    """
    model = job.spec.model
    if model.preset is not None and model.its_tokenizer().path is None:
        return []  # nothing of it is the user's
    try:
        program = find_program("photon-worker")
    except UserError:
        return ["not checked   the model: photon-worker is not installed here, so it is checked when the job starts"]
    with tempfile.TemporaryDirectory(prefix="photon-check-") as temporary:
        path = Path(temporary) / "job.yaml"
        document = job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        document |= {"apiVersion": job.api_version, "kind": job.kind}
        path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        command = [program, "check", "--job", str(path), "--folder", str(folder)]
        record = Path(temporary) / "termination.json"
        env = {**os.environ, TERMINATION_LOG: str(record)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False, env=env)
        except subprocess.TimeoutExpired:
            return [f"not checked   the model: its check took longer than {CHECK_SECONDS:.0f} s"]
        end = read(record)
    if done.returncode == 0:
        return done.stdout.splitlines()
    if done.returncode == EXIT_USER_ERROR and end is not None:
        raise UserError(end.message)
    return ["not checked   the model: torch and transformers are not installed here, so it is checked at the start"]
