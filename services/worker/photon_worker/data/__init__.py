"""Token data: how it is prepared, how it is laid out on disk, and which tokens a training step reads.

Reading (``dataset``, ``sampler``, ``mixture``) needs numpy only; preparing (``prepare`` and what it uses) imports
tokenizers, pyarrow and datasketch where they are needed, so a worker that trains never loads them.

::

    dataset     a prepared folder, opened
    sampler     which tokens sample n is; pure
    mixture     the batches of a step, from one source or several
    batches     those of a job
    sources     ``--data`` by name, and whether it fits the model
    index       index.json of a prepared folder
    tokenizer   the byte tokenizer, and any tokenizer.json
    prepare     text in, a prepared folder out
    stages      its two passes: scan, encode
    state       its state on disk: resume after a kill
    selection   which documents are trained on, held out, left out; pure
    similarity  near-duplicates by MinHash
    shards      tokens into shards of one size
    pool        a pool of processes
    progress    the bar
    inputs      inputs as units of one size
    listing     files in the order of their documents
    names       what names of files say
    recognize   what a file holds, by its first bytes
    remote      ``s3://``
    streams     content, decompressed
    piece       a file or a range of one
    reading     a piece while it is read
    findings    what was not taken as it was, with its first position
    documents   documents by kind of file
    text        text files
    rows        JSON and JSON lines
    records     the text field of a record
    parquet     Parquet
"""

from __future__ import annotations

from photon_worker.data.dataset import HeldOut, TokenDataset
from photon_worker.data.mixture import Mixture
from photon_worker.data.sampler import offsets, slots
from photon_worker.lifecycle.data_errors import DataError, MissingError

__all__ = ["DataError", "HeldOut", "MissingError", "Mixture", "TokenDataset", "offsets", "slots"]
