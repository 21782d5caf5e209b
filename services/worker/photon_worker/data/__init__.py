"""Token data: how it is prepared, how it lies on disk, and which tokens a training step reads.

Reading (``dataset``, ``sampler``, ``mixture``) needs numpy only; preparing (``prepare`` and what it uses) imports
tokenizers, pyarrow and datasketch where they are needed, so a worker that trains never loads them.
"""

from __future__ import annotations

from photon_worker.data.dataset import HeldOut, TokenDataset
from photon_worker.data.mixture import Mixture
from photon_worker.data.sampler import offsets, slots
from photon_worker.lifecycle.data_errors import DataError, MissingError

__all__ = ["DataError", "HeldOut", "MissingError", "Mixture", "TokenDataset", "offsets", "slots"]
