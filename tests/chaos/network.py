"""A host of its own for some of the processes: a network namespace whose packets can be dropped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from itertools import count

from tests.chaos.proxy import Proxy

PROGRAMS = ("ip", "iptables")
# Private addresses of the namespaces' own links, a network of two hosts each.
NETWORK = "10.213"
_numbers = count()


class Namespace:
    """A network namespace that reaches this machine over a link of its own, and of it only what the proxies serve."""

    def __init__(self) -> None:
        place = (os.getpid() * 7 + next(_numbers)) % 16_000
        self.name = f"muster-{os.getpid()}-{place}"
        link, far_link = f"mu{place}a", f"mu{place}b"
        network = f"{NETWORK}.{place // 64}"
        self.host, far_host = f"{network}.{place % 64 * 4 + 1}", f"{network}.{place % 64 * 4 + 2}"
        try:
            run("ip", "netns", "add", self.name)
            run("ip", "link", "add", link, "type", "veth", "peer", "name", far_link, "netns", self.name)
            run("ip", "addr", "add", f"{self.host}/30", "dev", link)
            run("ip", "link", "set", link, "up")
            self.inside("ip", "addr", "add", f"{far_host}/30", "dev", far_link)
            self.inside("ip", "link", "set", far_link, "up")
            self.inside("ip", "link", "set", "lo", "up")
            self.inside("iptables", "--version")
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> list[str]:
        """What a command begins with that runs in there."""
        return ["ip", "netns", "exec", self.name]

    def drop_packets(self) -> None:
        """From now on no packet leaves or arrives, and nobody is told."""
        for chain in ("INPUT", "OUTPUT"):
            self.inside("iptables", "-I", chain, "!", "-i" if chain == "INPUT" else "-o", "lo", "-j", "DROP")

    def pass_packets(self) -> None:
        self.inside("iptables", "-F")

    def close(self) -> None:
        """Deletes it with its link; processes in it have ended before."""
        with suppress(subprocess.CalledProcessError):
            run("ip", "netns", "delete", self.name)

    def inside(self, *command: str) -> None:
        run(*self.prefix, *command)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def new_namespace() -> Namespace | None:
    """A namespace; None where this machine does not allow any."""
    if os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)):
        return None
    try:
        return Namespace()
    except subprocess.CalledProcessError:
        return None


def proxy_to(port: int, namespace: Namespace | None, keepalive: Mapping[int, int] | None = None) -> Proxy:
    """A proxy to a port of this machine, for the namespace or for this machine."""
    return Proxy(port, namespace.host if namespace else "127.0.0.1", keepalive=keepalive)
