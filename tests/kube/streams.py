"""What is done inside of pods: commands, forwarded ports, what they have written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from tests.kube import spdy
from tests.kube.store import Refused

if TYPE_CHECKING:
    from tests.kube.node import Node
    from tests.kube.server import Server

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
"""Channels of a command's web socket; the last half-closes one."""
TUNNEL = "SPDY/3.1+portforward.k8s.io"
PIECE = 1 << 16


class Streams:
    """Answers `exec`, `portforward` and `log` of pods."""

    node: Node

    def __init__(self, server: Server) -> None:
        self.server = server

    async def answer(self, what: str, request: web.Request, pod: Any) -> web.StreamResponse:
        """A request for one of the three."""
        if what == "log":
            return await self._log(request, pod)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise Refused(400, "BadRequest", "only web sockets are spoken here")
        if what == "exec":
            return await self._exec(request, pod)
        if TUNNEL in request.headers.get("Sec-WebSocket-Protocol", ""):
            return await self._tunnel(request, pod)
        return await self._forward(request, pod)

    # --------------------------------------------------------------------------------- commands

    async def _exec(self, request: web.Request, pod: Any) -> web.StreamResponse:
        words = request.query.getall("command")
        argv, environ, folder = self.node.inside(pod, request.query.get("container"), words)
        socket = web.WebSocketResponse(
            protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"), max_msg_size=0
        )
        await socket.prepare(request)
        wants = {n: request.query.get(n) in ("1", "true") for n in ("stdin", "stdout", "stderr")}
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environ,
            cwd=folder,
            start_new_session=True,
            **{name: pipe if wanted else null for name, wanted in wants.items()},
        )
        outputs = [
            asyncio.ensure_future(self._send(socket, channel, reader))
            for channel, reader in ((STDOUT, process.stdout), (STDERR, process.stderr))
            if reader is not None
        ]
        inputs = asyncio.ensure_future(self._take(socket, process))
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait([inputs, ended], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and socket.closed:
                return socket  # who asked has gone
            await ended
            await asyncio.gather(*outputs)
            with contextlib.suppress(ConnectionError):
                status = json.dumps(_status(process.returncode or 0, words)).encode()
                await socket.send_bytes(bytes([ERROR]) + status)
                await socket.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for task in (inputs, ended, *outputs):
                task.cancel()
        return socket

    async def _send(
        self, socket: web.WebSocketResponse, channel: int, reader: asyncio.StreamReader
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(PIECE):
                await socket.send_bytes(bytes([channel]) + data)

    async def _take(
        self, socket: web.WebSocketResponse, process: asyncio.subprocess.Process
    ) -> None:
        """Until the socket is closed."""
        async for message in socket:
            if message.type != WSMsgType.BINARY or process.stdin is None:
                continue
            with contextlib.suppress(ConnectionError):
                if message.data[0] == CLOSE and message.data[1] == STDIN:
                    process.stdin.close()
                elif message.data[0] == STDIN:
                    process.stdin.write(message.data[1:])
                    await process.stdin.drain()

    # ------------------------------------------------------------------------------------- ports

    async def _forward(self, request: web.Request, pod: Any) -> web.StreamResponse:
        """A port of a pod, by a web socket: channel 0 is data, 1 errors; each begins with the port."""
        port = int(request.query["ports"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection(pod["status"]["podIP"], port)
        except (OSError, KeyError) as error:
            await socket.send_bytes(b"\x01" + str(error).encode())
            await socket.close()
            return socket

        async def back() -> None:
            await self._send(socket, 0, reader)
            await socket.close()

        task = asyncio.get_running_loop().create_task(back())
        try:
            async for message in socket:
                if message.type == WSMsgType.BINARY and message.data[:1] == b"\0":
                    writer.write(message.data[1:])
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            task.cancel()
            writer.close()
        return socket

    async def _tunnel(self, request: web.Request, pod: Any) -> web.StreamResponse:
        """SPDY inside of a web socket: two streams a connection, one of them for what went wrong."""
        socket = web.WebSocketResponse(protocols=(TUNNEL,), max_msg_size=0)
        await socket.prepare(request)
        frames = spdy.Frames()
        errors: dict[str, int] = {}
        """The stream for errors of each connection."""
        queues: dict[int, asyncio.Queue[spdy.Frame]] = {}
        tasks = []
        try:
            async for message in socket:
                if message.type != WSMsgType.BINARY:
                    continue
                for frame in frames.feed(message.data):
                    if frame.kind == spdy.PING:
                        await socket.send_bytes(frames.ping(frame.data))
                    elif frame.kind == spdy.SYN_STREAM:
                        await socket.send_bytes(frames.reply(frame.stream))
                        number = frame.headers["requestid"]
                        if frame.headers["streamtype"] == "error":
                            errors[number] = frame.stream
                            continue
                        queue = queues[frame.stream] = asyncio.Queue()
                        port = int(frame.headers["port"])
                        work = self._connection(socket, frames, pod, port, frame.stream,
                                                errors[number], queue)  # fmt: skip
                        tasks.append(asyncio.get_running_loop().create_task(work))
                    elif frame.stream in queues and frame.kind in (0, spdy.RST_STREAM):
                        queues[frame.stream].put_nowait(frame)
        finally:
            for task in tasks:
                task.cancel()
        return socket

    async def _connection(
        self,
        socket: web.WebSocketResponse,
        frames: spdy.Frames,
        pod: Any,
        port: int,
        stream: int,
        error: int,
        queue: asyncio.Queue[spdy.Frame],
    ) -> None:
        """One connection to a port; what cannot be connected is told."""
        try:
            reader, writer = await asyncio.open_connection(pod["status"]["podIP"], port)
        except (OSError, KeyError) as failed:
            said = f"an error occurred forwarding {port}: {failed}".encode()
            await socket.send_bytes(frames.data(error, said, fin=True))
            await socket.send_bytes(frames.data(stream, b"", fin=True))
            return

        async def back() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(PIECE):
                    await socket.send_bytes(frames.data(stream, data))
                await socket.send_bytes(frames.data(stream, b"", fin=True))
                await socket.send_bytes(frames.data(error, b"", fin=True))

        task = asyncio.get_running_loop().create_task(back())
        try:
            while True:
                frame = await queue.get()
                if frame.kind == spdy.RST_STREAM:
                    break
                with contextlib.suppress(ConnectionError):
                    writer.write(frame.data)
                    await writer.drain()
                    if frame.fin:
                        writer.write_eof()
                if frame.fin:
                    await task
                    break
        finally:
            task.cancel()
            writer.close()

    # -------------------------------------------------------------------------------------- logs

    async def _log(self, request: web.Request, pod: Any) -> web.StreamResponse:
        uid = pod["metadata"]["uid"]
        data = self.server.log_of(uid).encode()
        if (tail := request.query.get("tailLines")) is not None:
            lines = data.splitlines(keepends=True)
            data = b"".join(lines[max(0, len(lines) - int(tail)) :])
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(data)
        if request.query.get("follow") in ("1", "true"):
            file = self.server.logs / uid
            at = file.stat().st_size if file.exists() else 0
            while self.node.works(uid):
                await asyncio.sleep(0.1)
                with file.open("rb") as log:
                    log.seek(at)
                    new = log.read()
                at += len(new)
                await response.write(new)
        return response


def _status(code: int, words: list[str]) -> dict[str, Any]:
    """How a command ended, as the last word of its web socket."""
    if not code:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(code)}
    said = f"command terminated with non-zero exit code: exit status {code}"
    return {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": said,
            "details": {"causes": [cause]}}  # fmt: skip
