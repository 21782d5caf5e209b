"""Addresses and links of a cluster. Each cluster has namespaces of its own, so all use the same numbers.

Machines 10.250.0.0/24 (the control plane is .1 and the gateway, node i is .10+i), pods of node i 10.100.i.0/24,
services 10.96.0.0/16.
"""

from __future__ import annotations

import subprocess
from typing import Final

from tools.cluster.control_plane import SERVICE_NETWORK
from tools.cluster.machine import Machine

GATEWAY: Final = "10.250.0.1"
DNS: Final = "10.96.0.10"
POD_NETWORK: Final = "10.100.0.0/16"


def node_address(number: int) -> str:
    """Of node ``number``, from 1."""
    return f"10.250.0.{10 + number}"


def pod_network(number: int) -> str:
    """Of the pods of node ``number``."""
    return f"10.100.{number}.0/24"


def prepare_gateway(gateway: Machine) -> None:
    """The bridge that the nodes are plugged into."""
    gateway.run(
        f"""ip link set lo up
        ip link add br0 type bridge
        ip addr add {GATEWAY}/24 dev br0
        ip link set br0 up
        sysctl -qw net.ipv4.ip_forward=1"""
    )


def plug(gateway: Machine, node: Machine, number: int, nodes: int) -> None:
    """A link between the gateway and ``node``, and the routes of both; no end of it is ever on the host."""
    plug_, socket = f"n{number}", "eth0"
    subprocess.run(
        [
            *("ip", "link", "add", plug_, "netns", str(gateway.pid)),
            *("type", "veth", "peer", "name", socket, "netns", str(node.pid)),
        ],
        check=True,
        timeout=30,
    )
    gateway.run(
        f"ip link set {plug_} master br0 up; ip route add {pod_network(number)} via {node_address(number)} dev br0"
    )
    others = [other for other in range(1, nodes + 1) if other != number]
    routes = "\n".join(f"ip route add {pod_network(other)} via {node_address(other)}" for other in others)
    node.run(
        f"""ip link set lo up
        ip addr add {node_address(number)}/24 dev {socket}
        ip link set {socket} up
        ip route add {SERVICE_NETWORK} via {GATEWAY}
        {routes}
        # Else kubelet looks for a cloud's metadata service for four seconds.
        ip route add unreachable default metric 4278198272
        sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1"""
    )
