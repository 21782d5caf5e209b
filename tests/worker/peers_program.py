"""Run by ``photon-worker torchrun`` in each rank (test_peers.py): two processes of which one ends in some way.

peers_program.py CASE
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback

import torch
import torch.distributed as dist

from photon.ending import leave
from photon_worker.distributed import peers as module
from photon_worker.distributed.peers import Peers, ending_together
from photon_worker.lifecycle.errors import Misconfigured
from photon_worker.lifecycle.exits import End, PeerEnded, end_of
from photon_worker.lifecycle.signals import Interrupted, Interrupts

module.WATCH_SECONDS = 4.0  # type: ignore[misc]


def work(case: str, peers: Peers) -> None:
    if case == "commands":
        for number in range(200):
            if peers.is_main:
                peers.send(str(number).encode())
            else:
                assert peers.receive() == str(number).encode()
        heard = peers.consult(attention=peers.rank == 1, signal_number=15 if peers.rank == 1 else None)
        assert heard == (True, 15)
        assert peers.consult(attention=False, signal_number=None) == (False, None)
        return
    if peers.rank == 1:
        match case:
            case "mistake":
                raise Misconfigured("the data is not there")
            case "surprise":
                raise RuntimeError("nobody foresaw this")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else torchrun would have to wait before it kills
                ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock, so that no other thread runs
            case "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
    if case in ("kill", "surprise"):
        dist.all_reduce(torch.zeros(1))  # the failed collective must not hide the reason
    time.sleep(600)  # a long answer of the aggregator


def main() -> None:
    Interrupts().install()
    peers = Peers.join(torch.device("cpu"))
    code = 0
    try:
        with ending_together(peers, end_of):
            work(sys.argv[1], peers)
    except PeerEnded as ended:
        sys.stderr.write(f"rank {peers.rank} heard: {ended}\n")
        leave(ended.end.record, over=False)
        code = ended.end.code
    except BaseException as error:
        end = end_of(error)
        if end is None:
            traceback.print_exc()
            end = End(code=1, message=f"{type(error).__name__}: {error}")
        leave(end.record, over=not isinstance(error, Interrupted))
        code = end.code
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
