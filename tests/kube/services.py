"""Services: each has an address, on which a proxy leads to a pod that is ready, and a name."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.kube.node import Node


class Services:
    """Of all namespaces. Used in the server's loop."""

    def __init__(self, node: Node, hosts: Path) -> None:
        self.node, self.hosts = node, hosts
        self.addresses: dict[str, str] = {}
        """By uid."""
        self._listening: dict[tuple[str, int], asyncio.Server] = {}

    async def look(self, services: list[Any]) -> None:
        """Serve those that there are, and no others."""
        there = {service["metadata"]["uid"] for service in services}
        for uid, port in [k for k in self._listening if k[0] not in there]:
            self._listening.pop((uid, port)).close()
        for service in services:
            uid = service["metadata"]["uid"]
            if uid not in self.addresses:
                count = len(self.addresses)
                self.addresses[uid] = f"{self.node.net}.{100 + count // 250}.{count % 250 + 1}"
            for entry in service["spec"].get("ports", ()):
                if (uid, entry["port"]) not in self._listening:
                    await self._listen(service, entry)
        lines = ["127.0.0.1 localhost"]
        for service in services:
            name, space = (service["metadata"][k] for k in ("name", "namespace"))
            names = (
                name,
                f"{name}.{space}",
                f"{name}.{space}.svc",
                f"{name}.{space}.svc.cluster.local",
            )
            lines.append(" ".join((self.addresses[service["metadata"]["uid"]], *names)))
        text = "\n".join(lines) + "\n"
        if text != self.hosts.read_text():
            self.hosts.write_text(text)  # in its place: containers have it bound

    async def _listen(self, service: Any, entry: Any) -> None:
        uid = service["metadata"]["uid"]
        target = entry.get("targetPort", entry["port"])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            place = self._endpoint(service, target)
            if place is None:
                writer.close()
                return
            try:
                far, back = await asyncio.open_connection(*place)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_copy(reader, back), _copy(far, writer))

        key = uid, entry["port"]
        self._listening[key] = await asyncio.start_server(serve, self.addresses[uid], entry["port"])

    def _endpoint(self, service: Any, target: Any) -> tuple[str, int] | None:
        ready = [pod for pod in self.node.behind(service) if self.node.is_ready(pod)]
        return (str(ready[0]["status"]["podIP"]), port_of(ready[0], target)) if ready else None

    def end(self) -> None:
        """Serve nobody any more."""
        for server in self._listening.values():
            server.close()


def port_of(pod: Any, target: Any) -> int:
    """A port of a pod by its number or name."""
    if isinstance(target, int):
        return target
    return next(
        int(entry["containerPort"])
        for container in pod["spec"]["containers"]
        for entry in container.get("ports", ())
        if entry.get("name") == target
    )


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
