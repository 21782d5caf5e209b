"""``photon-worker run`` where torchrun started several of them: the main process works, the others follow it."""

from __future__ import annotations

from photon_worker.commands.run import RunSettings, follow, run
from photon_worker.distributed.peers import Peers, die_with_parent, ending_together
from photon_worker.lifecycle.exits import end_of
from photon_worker.lifecycle.signals import Interrupts
from photon_worker.round.client import AggregatorClient
from photon_worker.training import device as devices


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
