"""A stand-in for Kubernetes' API server and the Dask operator, as far as the operator's client goes.

It keeps objects of one namespace, answers as the API's conventions say (lists by selector, merge
patches, 404, 403), allows what the rules of a Role allow and nothing else, and notes what was asked. A
DaskCluster that is made is at once what the operator would make of it, a worker group, the scheduler's
pod and service, whose address is that of a scheduler that the test runs, and is said to be running a
second later. It does not watch, and starts nothing.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Right = tuple[str, str, str]
"""API group, resource (with its part: `pods/log`), verb."""

PLACE = re.compile(
    r"/apis?/(?:(?P<group>[a-z.]+\.[a-z.]+)/)?v1/namespaces/(?P<namespace>[\w-]+)"
    r"/(?P<resource>\w+)(?:/(?P<name>[\w.-]+)(?:/(?P<part>\w+))?)?"
)
OPEN: dict[str, Any] = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"versions": ["v1"]},
    "/api/v1": {
        "groupVersion": "v1",
        "resources": [
            {
                "name": "pods",
                "singularName": "pod",
                "kind": "Pod",
                "namespaced": True,
                "shortNames": ["po"],
                "verbs": ["get", "list"],
            }
        ],
    },
    "/apis": {"groups": []},
}
"""What anybody may ask who has a name: which resources there are."""
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}


def rights(rules: list[dict[str, list[str]]]) -> set[Right]:
    """What the rules of a Role allow."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class ApiServer:
    """Objects of one namespace, and who asked what of them."""

    def __init__(self, namespace: str, allowed: set[Right], scheduler_port: int) -> None:
        self.namespace, self.allowed, self._port = namespace, allowed, scheduler_port
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: set[Right] = set()
        self.refused: set[Right] = set()
        self._lock = threading.Lock()

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve on loopback; the URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or "null")
                with outer._lock:
                    status, found = outer._answer(self.command, self.path, body)
                text = found.encode() if isinstance(found, str) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = _answer

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def _answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if path.rstrip("/") in OPEN:
            return 200, OPEN[path.rstrip("/")]
        place = PLACE.fullmatch(path)
        if place is None or place["namespace"] != self.namespace:
            return 404, error(404, f"{method} {path}")
        group, resource, name = place["group"] or "", place["resource"], place["name"]
        verb = VERBS.get(method) or ("get" if name else "watch" if "watch" in query else "list")
        part = f"/{place['part']}" if place["part"] else ""
        right = (group, resource + part, verb)
        self.asked.add(right)
        if right not in self.allowed:
            self.refused.add(right)
            return 403, error(403, f"{resource}{part} is forbidden: cannot {verb}")
        if verb == "list":
            return 200, {"items": self._matching(resource, query)}
        if verb == "create":
            return 201, self._create(resource, body)
        key = (resource, name)
        if key not in self.objects:
            return 404, error(404, f"{resource} {name} not found")
        if part:
            return 200, "a line\n"
        if verb == "delete":
            return 200, self.objects.pop(key)
        if verb == "patch":
            merge(self.objects[key], body)
        return 200, self.objects[key]

    def _matching(self, resource: str, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = [s for q in query.get("labelSelector", []) for s in q.split(",") if s]
        fields = [s for q in query.get("fieldSelector", []) for s in q.split(",") if s]
        found = []
        for (kind, _), one in self.objects.items():
            labels = one["metadata"].get("labels", {})
            has = all(labels.get(s.split("=")[0]) == s.rpartition("=")[2] for s in wanted)
            if kind == resource and has and all(field_is(one, field) for field in fields):
                found.append(one)
        return found

    def _create(self, resource: str, made: dict[str, Any]) -> dict[str, Any]:
        name = made["metadata"]["name"]
        made["metadata"] |= {"namespace": self.namespace, "uid": name}
        self.objects[resource, name] = made
        if resource == "daskclusters":
            made["status"] = {"phase": "Created"}
            self._operate(name, made["spec"])
            # as long as an operator would take at least: the client looks at all of it meanwhile
            threading.Timer(1, made["status"].update, [{"phase": "Running"}]).start()
        return made

    def _operate(self, cluster: str, spec: dict[str, Any]) -> None:
        labels = {"dask.org/cluster-name": cluster, "dask.org/component": "scheduler"}
        self._add("daskworkergroups", f"{cluster}-default", {}, spec={"worker": spec["worker"]})
        ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
        status = {"phase": "Running", "conditions": ready}
        self._add("pods", f"{cluster}-scheduler", labels, spec={}, status=status)
        ports = [
            {"name": p["name"], "port": p["port"]} for p in spec["scheduler"]["service"]["ports"]
        ]
        ports[0]["port"] = self._port
        service = {"type": "LoadBalancer", "ports": ports, "selector": labels}
        status = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}
        self._add("services", f"{cluster}-scheduler", labels, spec=service, status=status)

    def _add(self, resource: str, name: str, labels: dict[str, str], **rest: Any) -> None:
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        self.objects[resource, name] = {"metadata": metadata, **rest}


def field_is(one: dict[str, Any], selector: str) -> bool:
    """Does an object have what a field selector says, as `status.phase=Running`?"""
    path, _, wanted = selector.partition("=")
    found: Any = one
    for key in path.split("."):
        found = found.get(key, {})
    return bool(found == wanted.lstrip("="))


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """RFC 7386, in place."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merge(old[key], value)
        elif value is None:
            old.pop(key, None)
        else:
            old[key] = value


def error(code: int, message: str) -> dict[str, Any]:
    """As the API says that it will not."""
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}
