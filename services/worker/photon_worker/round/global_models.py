"""Global models on this machine: fetched once by digest, found again after a restart, the two newest kept."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Final

from photon.protocol.messages import GlobalModel
from photon.protocol.records import MODEL_FILES
from photon.store.transfer import download
from photon_worker.lifecycle.errors import WorkerError
from photon_worker.round.progress import TaskProgress

logger = logging.getLogger(__name__)

KEPT: Final = 2


class GlobalModels:
    """A folder for each model, named by its round and commit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, model: GlobalModel, progress: TaskProgress) -> Path:
        """The Hugging Face directory of ``model``, with only what lacks fetched.

        Raises:
            StoreError: A file cannot be fetched or is not what its record says.
            WorkerError: The disk is full, or a file is none of a model's.
        """
        folder = self._folder / f"{model.round:05d}-{model.commit[:16]}"
        if folder not in self._checked:
            if foreign := sorted({get.file.name for get in model.files} - MODEL_FILES):
                raise WorkerError(
                    f"the global model has a file that is none of a model's: {foreign[0]!r}; only "
                    f"{', '.join(sorted(MODEL_FILES))} are taken"
                )
            self._prune(folder)
            try:
                folder.mkdir(exist_ok=True)
                for get in model.files:
                    path = folder / get.file.name
                    if not _is(path, get.file.size_bytes, get.file.sha256):
                        progress.check()
                        download(get.url, path, file=get.file, on_bytes=progress.received, on_retry=progress.retried)
            except OSError as error:
                raise WorkerError(
                    f"--work-dir: the global model cannot be written to {folder}: {error.strerror or error}"
                ) from error
            self._checked.add(folder)
        return folder

    def _prune(self, coming: Path) -> None:
        others = sorted(path for path in self._folder.iterdir() if path != coming)
        for path in others[: max(0, len(others) - (KEPT - 1))]:
            self._checked.discard(path)
            shutil.rmtree(path, ignore_errors=True)


def _is(path: Path, size_bytes: int, sha256: str) -> bool:
    if not path.is_file() or path.stat().st_size != size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
