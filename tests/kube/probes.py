"""Probes of containers: a request to its port, or a command inside of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.kube.services import port_of

if TYPE_CHECKING:
    from tests.kube.node import Node


async def passes(node: Node, pod: Any, probe: Any, address: str) -> bool:
    """Whether a probe does, once."""
    seconds = probe.get("timeoutSeconds", 1) + 4  # a busy machine is no sick pod
    if "exec" in probe:
        argv, environ, folder = node.inside(pod, None, probe["exec"]["command"])
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *argv, env=environ, cwd=folder, stdin=null, stdout=null, stderr=null
        )
        try:
            return await asyncio.wait_for(process.wait(), seconds) == 0
        except TimeoutError:
            process.kill()
            return False
    asked = probe["httpGet"]
    url = f"http://{address}:{port_of(pod, asked['port'])}{asked.get('path', '/')}"
    try:
        timeout = aiohttp.ClientTimeout(seconds)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return 200 <= answer.status < 400
    except (aiohttp.ClientError, TimeoutError):
        return False
