"""Hosts that are far apart: network namespaces whose packets a process of ours passes on.

Each packet arrives after a while; some never do; a host that is cut off sends and gets none. What the
kernel's netem does, where the kernel has none: packets come and go by TUN devices.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import subprocess
import threading
import time
from contextlib import suppress

TUNSETIFF, TUN, BARE = 0x400454CA, 0x0001, 0x1000
"""linux/if_tun.h: attach to a device that carries IP packets, without a header of its own."""
MTU = 65_535
_NUMBERS = itertools.count()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Wires:
    """Hosts by name, each with an address of its own; every one can reach every other."""

    def __init__(self, hosts: tuple[str, ...], delay: float, loss: float, seed: int = 0) -> None:
        """delay: seconds that a packet takes; loss: share of packets that never arrive."""
        self.delay, self.loss = delay, loss
        self.cut: frozenset[str] = frozenset()
        """Hosts whose wire is cut."""
        self.passed = self.lost = self.refused = 0
        """Packets that arrived, were lost, and met a cut wire."""
        self._dice = random.Random(seed)
        self._ends = {
            name: f"seg{os.getpid() % 10**6}-{next(_NUMBERS)}" for i, name in enumerate(hosts)
        }
        self.addresses = {name: f"10.99.0.{i + 1}" for i, name in enumerate(hosts)}
        self._wires: dict[str, int] = {}
        try:
            for name in hosts:
                self._add(name)
        except BaseException:
            self.close()
            raise
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _add(self, name: str) -> None:
        end = self._ends[name]
        wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._wires[name] = wire
        fcntl.ioctl(wire, TUNSETIFF, struct.pack("16sH22x", end.encode(), TUN | BARE))
        _run("ip", "netns", "add", end)
        _run("ip", "link", "set", end, "netns", end)
        _run("ip", "-n", end, "addr", "add", f"{self.addresses[name]}/24", "dev", end)
        for device in ("lo", end):
            _run("ip", "-n", end, "link", "set", device, "up")

    def on(self, name: str) -> tuple[str, ...]:
        """What starts a command on a host."""
        return ("ip", "netns", "exec", self._ends[name])

    def close(self) -> None:
        """The hosts are gone; what runs on them has ended before."""
        if self._wires and hasattr(self, "_thread"):
            self._ended.set()
            self._thread.join()
        for wire in self._wires.values():
            os.close(wire)
        for end in self._ends.values():
            subprocess.run(("ip", "netns", "del", end), check=False, capture_output=True)

    def _work(self) -> None:
        by_address = {bytes(map(int, a.split("."))): n for n, a in self.addresses.items()}
        under_way: list[tuple[float, int, str, bytes]] = []
        count = 0
        with selectors.DefaultSelector() as ready:
            for name, wire in self._wires.items():
                ready.register(wire, selectors.EVENT_READ, name)
            while not self._ended.is_set():
                now = time.monotonic()
                wait = min(0.2, max(0.0, under_way[0][0] - now)) if under_way else 0.2
                for key, _ in ready.select(wait):
                    packet = os.read(key.fd, MTU)
                    target = by_address.get(packet[16:20], "")
                    if self.cut & {key.data, target}:
                        self.refused += 1
                    elif self._dice.random() < self.loss:
                        self.lost += 1
                    elif target:
                        count += 1
                        due = time.monotonic() + self.delay
                        heapq.heappush(under_way, (due, count, target, packet))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, _, target, packet = heapq.heappop(under_way)
                    if target in self.cut:
                        self.refused += 1
                        continue
                    self.passed += 1
                    with suppress(OSError):  # its queue is full: a packet that is lost
                        os.write(self._wires[target], packet)
