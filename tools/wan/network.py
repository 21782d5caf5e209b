"""Network namespaces of a hub and its institutions: nothing reaches an institution, and each reaches only what it may.

All of them hang on one bridge, 198.18.0.0/24 (the range for benchmarks of RFC 2544), in a namespace of its own, which
is also where proxies run. Names are resolved by a hosts file for each namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

MIDDLE: Final = "wan"
_SECONDS: Final = 30


def address(number: int) -> str:
    """``198.18.0.NUMBER``; the middle, where proxies run, is 1."""
    return f"198.18.0.{number}"


def problem() -> str | None:
    """Why this machine cannot do it; None when it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [program for program in ("ip", "iptables") if shutil.which(program) is None]
    return f"needs {' and '.join(missing)} (apt-get install iproute2 iptables)" if missing else None


@dataclass(slots=True)
class Wan:
    """While in a ``with`` block; afterwards nothing of it is left, and what still ran in it is without a network.

    Args:
        hosts: name -> address, the same in all namespaces.
    """

    hosts: Mapping[str, str]
    _prefix: str = field(default_factory=lambda: f"ph{os.getpid() % 100_000}")
    _names: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._make(MIDDLE)
        self._in(
            MIDDLE,
            f"""ip link add br0 type bridge
            ip addr add {address(1)}/24 dev br0
            ip link set br0 up""",
        )
        return self

    def __exit__(self, *_error: object) -> None:
        for name in reversed(self._names):
            subprocess.run(["ip", "netns", "del", self._of(name)], check=False, capture_output=True, timeout=_SECONDS)
            shutil.rmtree(Path("/etc/netns") / self._of(name), ignore_errors=True)

    def add(self, name: str, number: int, *, ports: Sequence[int] = (), only_to: Sequence[int] = ()) -> None:
        """A place on the network.

        Args:
            name: For ``command``.
            number: Last part of its address.
            ports: TCP ports that can be reached from outside; all else is dropped.
            only_to: Numbers of the addresses that it may speak to; empty: all.
        """
        self._make(name)
        plug = f"p{number}"
        subprocess.run(
            [
                *("ip", "link", "add", plug, "netns", self._of(MIDDLE)),
                *("type", "veth", "peer", "name", "eth0", "netns", self._of(name)),
            ],
            check=True,
            timeout=_SECONDS,
        )
        self._in(MIDDLE, f"ip link set {plug} master br0 up")
        opened = "\n".join(f"iptables -A INPUT -p tcp --dport {port} -j ACCEPT" for port in ports)
        allowed = "\n".join(f"iptables -A OUTPUT -d {address(one)} -j ACCEPT" for one in only_to)
        self._in(
            name,
            f"""ip addr add {address(number)}/24 dev eth0
            ip link set eth0 up
            iptables -A INPUT -i lo -j ACCEPT
            iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            {opened}
            iptables -P INPUT DROP
            {
                f'''iptables -A OUTPUT -o lo -j ACCEPT
            iptables -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            {allowed}
            iptables -P OUTPUT DROP'''
                if only_to
                else ""
            }""",
        )

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """``command``, so that it runs in the namespace; its process ID is that of the program itself."""
        return ["ip", "netns", "exec", self._of(name), *command]

    def cut(self, name: str, *, off: bool) -> None:
        """Take the line of a place away, or give it back."""
        self._in(name, f"ip link set eth0 {'down' if off else 'up'}")

    def _of(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _make(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", self._of(name)], check=True, timeout=_SECONDS)
        self._names.append(name)
        # `ip netns exec` shows these files instead of the machine's.
        folder = Path("/etc/netns") / self._of(name)
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{at} {host}" for host, at in self.hosts.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").write_text("")
        self._in(name, "ip link set lo up")

    def _in(self, name: str, script: str) -> None:
        done = subprocess.run(
            self.command(name, ["sh", "-euc", script]), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            raise OSError(f"the network of {name} cannot be made: {done.stderr.strip()}")
