"""Traces (run, stage, shard) and metrics by OTLP over HTTP, to the collector of the environment.

What is sent goes out in threads of the SDK: a collector that does not answer costs no shard, and at
the end no more than some seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from segengine import stderr
from segengine.errors import JobError
from segengine.urls import public
from segengine.watching.tally import Tally

if TYPE_CHECKING:
    from segengine.progress import Piece, Progress, Summary

PATIENCE = 3.0
"""Seconds that one message may take, tries included."""
_SPOKEN = "http/protobuf"
_PROTOCOLS = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
)
"""Variables of OpenTelemetry's standard that ask for another way than this one."""
EVERY_MS = 5000
"""Milliseconds between two messages of metrics."""


class Telemetry:
    """Sends a run's spans and figures."""

    def __init__(self, name: str, run: str) -> None:
        """`name`: the job's; `run`: the run's id. Raises JobError where the SDK is missing."""
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise JobError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {error.name} is not installed; "
                "pip install 'segengine[otel]', or unset it"
            ) from None
        _warn_of_protocols()
        # A collector that is away is not the run's trouble: its retries are no lines of the log.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        about = {"segengine.job": public(name), "segengine.run": run}
        resource = Resource.create({"service.name": "segengine", **about})
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._sent: list[_Counted] = []
        readers = []
        if _is_wanted("OTEL_TRACES_EXPORTER"):
            self._sent.append(_Counted(OTLPSpanExporter))
            self._traces.add_span_processor(BatchSpanProcessor(self._sent[-1].exporter))
        if _is_wanted("OTEL_METRICS_EXPORTER"):
            self._sent.append(_Counted(OTLPMetricExporter))
            metrics = self._sent[-1].exporter
            readers.append(PeriodicExportingMetricReader(metrics, EVERY_MS, PATIENCE * 1000))
        self._metrics = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._tally = Tally()
        self._observe()
        self._tracer = self._traces.get_tracer("segengine")
        self._run = self._tracer.start_span("run", attributes=about)
        self._stage: Any = None

    def begin(self, stage: str) -> None:
        """As Watcher's."""
        self._tally.begin(stage)
        self._stage = self._tracer.start_span(stage, self._within(self._run))

    def update(self, progress: Progress) -> None:
        """As Watcher's."""
        self._tally.update(progress)
        if progress.piece is not None and progress.piece.shard is not None:
            self._shard(progress.piece)

    def end(self, stage: str) -> None:
        """As Watcher's."""
        self._tally.end(stage)
        self._stage.end()
        self._stage = None

    def finish(self, summary: Summary | None, error: BaseException | None = None) -> None:
        """As Watcher's."""
        from opentelemetry.trace import Status, StatusCode

        if self._stage is not None:
            self._stage.set_status(Status(StatusCode.ERROR))
            self._stage.end()
        if summary is None:
            self._run.set_status(Status(StatusCode.ERROR))
        else:
            self._run.set_attribute("segengine.exit_code", summary.exit_code)
            self._tally.quarantined = len(summary.failed)
        self._run.end()
        closing = threading.Thread(target=self._close, name="segengine-otel", daemon=True)
        closing.start()
        closing.join(2 * PATIENCE)
        tried = sum(counted.tried for counted in self._sent)
        lost = tried - sum(counted.arrived for counted in self._sent)
        if lost or closing.is_alive():
            stderr.say(
                f"{lost} of {tried} messages of OpenTelemetry did not arrive, which the run is not "
                "affected by: see that the collector of OTEL_EXPORTER_OTLP_ENDPOINT is there and takes "
                "OTLP over HTTP",
                "warning",
            )

    def _close(self) -> None:
        """Send what is left."""
        self._metrics.shutdown(PATIENCE * 1000)
        self._traces.shutdown()

    def _shard(self, piece: Piece) -> None:
        from opentelemetry.trace import Status, StatusCode

        now = time.time_ns()
        span = self._tracer.start_span(
            "shard",
            self._within(self._stage),
            start_time=now - int(piece.seconds * 1e9),
            attributes={
                "segengine.scene": piece.scene,
                "segengine.shard": piece.shard or (),
                "segengine.attempts": piece.attempts,
                "segengine.status": piece.status,
                "segengine.bytes": piece.bytes,
            },
        )
        if piece.failed or piece.status != "done":
            span.set_status(Status(StatusCode.ERROR, public(piece.reason)))
        span.end(now)

    def _within(self, span: Any) -> Any:
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(span)

    def _observe(self) -> None:
        """Say what the metrics are, which the reader's thread asks for now and then."""
        from opentelemetry.metrics import Observation

        meter, tally = self._metrics.get_meter("segengine"), self._tally
        figures = {
            "segengine.shards.total": lambda: tally.total,
            "segengine.shards.done": lambda: tally.skipped + tally.done,
            "segengine.shards.computed": lambda: tally.done,
            "segengine.shards.quarantined": lambda: tally.lost,
            "segengine.shards.queue": lambda: tally.queue,
            "segengine.frames.quarantined": lambda: tally.quarantined,
            "segengine.retries": lambda: tally.retries,
            "segengine.pixels": lambda: tally.pixels,
            "segengine.bytes": lambda: tally.bytes,
        }
        for name, value in figures.items():
            meter.create_observable_gauge(name, [partial(_observed, Observation, value)])
        meter.create_observable_gauge(
            "segengine.stage.seconds",
            [lambda _: [Observation(s, {"stage": k}) for k, s in dict(tally.seconds).items()]],
            unit="s",
        )


def _warn_of_protocols() -> None:
    other = [f"{name}={os.environ[name]}" for name in _PROTOCOLS if os.environ.get(name)]
    other = [each for each in other if each.partition("=")[2] != _SPOKEN]
    if other:
        stderr.say(
            f"{' and '.join(other)} is not followed: OTLP goes over HTTP ({_SPOKEN}); set it so, and in "
            "OTEL_EXPORTER_OTLP_ENDPOINT the collector's port for HTTP, which is 4318 where that for "
            "gRPC is 4317",
            "warning",
        )


def _is_wanted(name: str) -> bool:
    """Whether traces or metrics are sent, by the variable that says where to."""
    said = os.environ.get(name, "").strip() or "otlp"
    if said not in ("otlp", "none"):
        stderr.say(f"{name}={said} is not followed: otlp and none are", "warning")
    return said != "none"


class _Counted:
    """An exporter, and how many of its messages arrived; the SDK tells its log alone."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        self.tried = self.arrived = 0
        self.exporter = kind(timeout=PATIENCE)
        self._export = self.exporter.export
        self.exporter.export = self._counted

    def _counted(self, *args: Any, **kwargs: Any) -> Any:
        self.tried += 1
        found = self._export(*args, **kwargs)
        self.arrived += found.name == "SUCCESS"
        return found


def _observed(made: Callable[[float], Any], value: Callable[[], float], _: object) -> list[Any]:
    return [made(value())]
