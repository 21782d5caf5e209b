"""One measured run of Flower's aggregation, in Flower's own environment (run by ``benchmarks.merge``; imports only
flwr and numpy).

    python flower_child.py SPEC.json MEMORY_LIMIT_BYTES

Performs the same work as Photon with Flower's Message API: the K updates are read from their files tensor by tensor,
converted to Arrays (which Flower stores serialized) and replies, merged by
``flwr.serverapp.strategy.FedAvg.aggregate_train`` as a ServerApp calls it, and the mean is extracted as numpy arrays.
``aggregate_seconds`` covers only the call of ``aggregate_train``, on replies in memory. Flower computes no hashes,
takes no outer step, and writes no file. Prints one line of JSON.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path

import flwr
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity


def array_of(vector: FlatFile, start: int, shape: tuple[int, ...]) -> Array:
    """A tensor of an update as Flower's users make it: from a numpy array."""
    values = np.frombuffer(vector.read(start, 4 * int(np.prod(shape))), np.float32)
    return Array(values.reshape(shape))


class FlatFile:
    """An update's data section over its part files: [path, offset of the data, bytes of data] in order."""

    def __init__(self, parts: list[tuple[str, int, int]]) -> None:
        self._parts = parts

    def read(self, start: int, size: int) -> bytes:
        pieces, position = [], 0
        for path, offset, length in self._parts:
            low, high = max(start, position), min(start + size, position + length)
            if low < high:
                with Path(path).open("rb") as file:
                    file.seek(offset + low - position)
                    pieces.append(file.read(high - low))
            position += length
        return b"".join(pieces)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # What a SuperLink sets in the process of a ServerApp.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    started = time.perf_counter()
    try:
        replies = []
        for node, parts in enumerate(spec["updates"], 1):
            vector = FlatFile(parts)
            arrays, position = {}, 0
            for name, shape in spec["tensors"]:
                arrays[name] = array_of(vector, position, tuple(shape))
                position += 4 * int(np.prod(shape))
            content = RecordDict(
                {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1000 + node})}
            )
            replies.append(Message(content=content, dst_node_id=node, message_type="train"))
        del arrays
        before = time.perf_counter()
        merged, _ = FedAvg().aggregate_train(1, replies)
        aggregate_seconds = time.perf_counter() - before
        assert merged is not None
        result = {name: array.numpy() for name, array in merged.items()}
        seconds = time.perf_counter() - started
    except MemoryError:
        print(json.dumps({"out_of_memory": True, "limit_mib": limit / 2**20, "version": flwr.__version__}))
        return
    assert len(result) == len(spec["tensors"])
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(
        json.dumps(
            {
                "seconds": seconds,
                "aggregate_seconds": aggregate_seconds,
                "peak_rss_mib": peak,
                "version": flwr.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
