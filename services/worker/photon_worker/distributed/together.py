"""``photon-worker run`` where torchrun started several of them: the main process works, the others follow it."""

from __future__ import annotations

from photon_worker import device as devices
from photon_worker.client import AggregatorClient
from photon_worker.distributed.peers import Peers, die_with_parent, ending_together
from photon_worker.endings import end_of
from photon_worker.interrupt import Interrupts
from photon_worker.worker import RunSettings, follow, run


def run_together(client: AggregatorClient, settings: RunSettings, interrupts: Interrupts) -> None:
    """Work for the job until it has ended; only the main process asks ``client``.

    Raises:
        PeerEnded: Another process has ended.
        Exception: As ``run``.
    """
    die_with_parent()
    device = devices.choose(settings.threads)
    peers = Peers.join(device)
    with ending_together(peers, end_of):
        if peers.is_main:
            run(client, settings, interrupts, device=device, peers=peers)
        else:
            follow(settings, interrupts, device=device, peers=peers)
