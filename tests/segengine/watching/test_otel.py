"""Traces and metrics, as a collector on loopback decodes them."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from segengine.errors import JobError
from segengine.job import parse_job
from segengine.progress import Piece, Progress
from segengine.watching.otel import Telemetry
from segengine_tasks.session import STAGES, Session

SEEN = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Collector(ThreadingHTTPServer):
    """Decodes what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resources: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def take(self, request: Any) -> None:
        """Keep the spans, and the newest of each metric."""
        for group in getattr(request, "resource_spans", ()):
            attributes = group.resource.attributes
            self.resources.append({a.key: a.value.string_value for a in attributes})
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        for group in getattr(request, "resource_metrics", ()):
            for scope in group.scope_metrics:
                self.metrics |= {m.name: m.gauge.data_points for m in scope.metrics}


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.take(SEEN[self.path].FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A receiver that the environment names."""
    with Collector() as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server
        server.shutdown()


def value(metric: Any) -> float:
    (point,) = metric
    return float(point.as_int or point.as_double)


def test_a_run_is_spans_and_metrics(collector: Collector, bench: Any, noise: Any) -> None:
    for index in range(3):
        bench.put(f"{index}.png", noise(index, (40, 40, 3)))
    session = Session(parse_job(bench.job({"kind": "threshold"})), in_process=True)
    summary = session.drive()
    (run,) = [s for s in collector.spans if s.name == "run"]
    stages = [s for s in collector.spans if s.name in STAGES]
    shards = [s for s in collector.spans if s.name == "shard"]
    assert [s.name for s in stages] == list(STAGES)
    assert {s.parent_span_id for s in stages} == {run.span_id}
    assert len(shards) == summary.computed > 0
    (segment,) = [s for s in stages if s.name == "segment"]
    assert {s.parent_span_id for s in shards} == {segment.span_id}
    assert len({s.trace_id for s in collector.spans}) == 1
    resource = collector.resources[0]
    assert resource["service.name"] == "segengine"
    assert resource["segengine.run"] == session.run_id != ""
    metrics = collector.metrics
    assert value(metrics["segengine.shards.computed"]) == summary.computed
    assert value(metrics["segengine.pixels"]) == summary.pixels > 0
    assert value(metrics["segengine.bytes"]) > 0
    assert value(metrics["segengine.shards.queue"]) == 0
    points = metrics["segengine.stage.seconds"]
    assert {p.attributes[0].value.string_value for p in points} == set(STAGES)


@pytest.mark.parametrize(("said", "sent"), [("true", False), ("True", False), ("false", True)])
def test_only_the_word_true_turns_it_off(
    said: str, sent: bool, collector: Collector, bench: Any, noise: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", said)
    bench.put("a.png", noise(1, (40, 40, 3)))
    Session(parse_job(bench.job({"kind": "threshold"})), in_process=True).drive()
    assert bool(collector.spans) is sent


def test_a_lost_shard_and_a_run_that_fails_are_errors(collector: Collector) -> None:
    watcher = Telemetry("name", "run-id")
    watcher.begin("segment")
    piece = Piece(scene="s", shard=(1, 2, 3), status="crash", attempts=3, failed=1, reason="died")
    watcher.update(Progress("segment", 1, 5, failed=1, piece=piece))
    watcher.finish(None)
    spans = {s.name: s for s in collector.spans}
    assert {name: s.status.code for name, s in spans.items()} == dict.fromkeys(
        ("run", "segment", "shard"), 2
    )
    assert spans["shard"].status.message == "died"
    about = {a.key: a.value for a in spans["shard"].attributes}
    assert about["segengine.attempts"].int_value == 3
    assert [v.int_value for v in about["segengine.shard"].array_value.values] == [1, 2, 3]
    assert value(collector.metrics["segengine.retries"]) == 2
    assert value(collector.metrics["segengine.shards.quarantined"]) == 1


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "never answers"])
def test_a_dead_collector_costs_no_shard_and_seconds_at_most(
    hangs: bool,
    bench: Any,
    noise: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hangs:
            server.listen(16)
        port = server.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        began = time.monotonic()
        summary = Session(parse_job(bench.job({"kind": "threshold"})), in_process=True).drive()
    assert summary.exit_code == 0
    assert summary.computed == 1
    assert time.monotonic() - began < 20
    (line,) = (each for each in capsys.readouterr().err.splitlines() if "OpenTelemetry" in each)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line


def test_another_protocol_is_told(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for said, lines in (("http/protobuf", 0), ("", 0), ("grpc", 1), ("http/json", 1)):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", said)
        Telemetry("name", "run").finish(None)
        found = [line for line in capsys.readouterr().err.splitlines() if "PROTOCOL" in line]
        assert len(found) == lines
        assert all(f"OTEL_EXPORTER_OTLP_PROTOCOL={said} is not followed" in x for x in found)
    assert len(collector.spans) == 4


def test_what_is_not_wanted_is_not_sent(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    Telemetry("name", "run").finish(None)
    assert not collector.spans
    assert collector.metrics
    assert "OTEL_METRICS_EXPORTER=console is not followed" in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(JobError, match=r"pip install 'segengine\[otel\]'"):
        Telemetry("name", "run")
