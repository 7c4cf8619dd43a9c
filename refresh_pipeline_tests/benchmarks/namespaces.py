"""Hosts as namespaces of one machine: a name, processes and a network card of their own (root, Linux, iproute2).

The cards meet on a bridge, where this machine is reached as ADDRESS. Nothing here knows what runs on a host.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# 198.18.0.0/15 is kept free for benchmarks (RFC 2544).
NETWORK, ADDRESS, BRIDGE = "198.18.77.0/24", "198.18.77.1", "refresh0"
PROGRAMS = ("unshare", "ip")


class Network:
    """The bridge, and the card of each host that was plugged in."""

    def __init__(self) -> None:
        self._hosts: list[str] = []

    def command(self, host: str, *command: str) -> list[str]:
        """A command line on a host, whose card is made with the first one."""
        if host not in self._hosts:
            self._plug(host)
        inside = f"hostname {host}; exec {' '.join(command)}"
        namespace = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", inside]
        return ["ip", "netns", "exec", _card(host), *namespace]

    def cut(self, host: str) -> None:
        """Let no packet through to or from a host, without a word to anybody."""
        _ip("link", "set", _card(host), "down")

    def address(self, host: str) -> str:
        """The address of a host that was started."""
        return f"{ADDRESS.rpartition('.')[0]}.{self._hosts.index(host) + 2}"

    def mend(self, host: str) -> None:
        """Let packets through again."""
        _ip("link", "set", _card(host), "up")

    def _plug(self, host: str) -> None:
        self._hosts.append(host)
        card = _card(host)
        _ip("netns", "add", card)
        _ip("link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", card)
        _ip("link", "set", card, "master", BRIDGE, "up")
        _ip("-n", card, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            _ip("-n", card, "link", "set", link, "up")

    def remove(self) -> None:
        """Remove what was made, and what an earlier one that was killed has left."""
        listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
        for name in (line.split()[0] for line in listed.splitlines() if line.startswith(f"{BRIDGE}-")):
            _ip("netns", "del", name)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def missing() -> Sequence[str]:
    """What is lacking to make hosts; nothing where they can be made."""
    programs = [program for program in PROGRAMS if not shutil.which(program)]
    return [*(["root"] if os.getuid() else []), *programs]


@contextmanager
def network() -> Iterator[Network]:
    """The bridge, for as long as the block runs."""
    made = Network()
    made.remove()
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        yield made
    finally:
        made.remove()


def _card(host: str) -> str:
    return f"{BRIDGE}-{host}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
