"""A run as events of OpenLineage: what it reads, what it writes, how it ended.

    START at once, RUNNING now and then, COMPLETE, FAIL or ABORT at the end

Events go out in a thread of their own: a receiver that does not answer costs no shard, and at the end
no more than some seconds.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, UUID, uuid5

from segengine import stderr
from segengine.errors import JobError, StoppedError
from segengine.urls import public
from segengine.watching.tally import Tally

if TYPE_CHECKING:
    from segengine.progress import Progress, Summary

PATIENCE = 3.0
"""Seconds that one message may take to a receiver named by its address."""
LAST = 5.0
"""Seconds that a run waits at its end for what is still to be sent."""
EVERY = 60.0
"""Seconds between two events of a run that works."""
FILES = ("path", "weights", "encoder", "decoder", "prompts")
"""Options of a segmenter that may name a file."""

_LITERAL = re.compile(r"\[([*?[])\]|(\{\{|\}\})")
"""What stands for itself in a pattern, or in a path with fields."""


class Lineage:
    """Sends a run's events."""

    def __init__(self, job: Mapping[str, Any], run: str, where: str | None) -> None:
        """`job`: as JSON, without credentials; `run`: the run's id; `where`: a file that events are
        added to, one a line, or an address; None: as the environment says.

        Raises JobError where `where` will not do, or the client is missing.
        """
        try:
            from openlineage.client import OpenLineageClient, event_v2, facet_v2
        except ImportError as error:
            raise JobError(
                f"{'--lineage' if where else 'OPENLINEAGE_URL'}: needs {error.name}, which is not "
                "installed; pip install 'segengine[lineage]', or leave it out"
            ) from None
        # A receiver that is away is not the run's trouble: its retries are no lines of the log.
        for library in ("openlineage", "urllib3.connectionpool"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        before = set(os.environ)
        self._client = OpenLineageClient(transport=_transport(where) if where else None)
        for name in set(os.environ) - before:  # it writes the key to others, which workers inherit
            del os.environ[name]
        self._made, self._facets = event_v2, facet_v2
        self._producer = f"urn:segengine:{version('segengine')}"
        self._job, self._tally, self._said = job, Tally(), time.monotonic()
        self._run, self._run_facets, self._job_facets = run_uuid(run), *self._about()
        self._inputs = [
            event_v2.InputDataset(*dataset(path), facets=self._source(path))
            for path in {dataset(path): path for path in inputs(job)}.values()
        ]
        self._waiting: SimpleQueue[Any] = SimpleQueue()
        self._arrived, self._asked, self._trouble = 0, 0, ""
        self._thread = threading.Thread(target=self._deliver, name="segengine-lineage", daemon=True)
        self._thread.start()
        self._send("START")

    def begin(self, stage: str) -> None:
        """As Watcher's."""
        self._tally.begin(stage)

    def update(self, progress: Progress) -> None:
        """As Watcher's."""
        self._tally.update(progress)
        if time.monotonic() - self._said >= EVERY:
            self._send("RUNNING")

    def end(self, stage: str) -> None:
        """As Watcher's."""
        self._tally.end(stage)

    def finish(self, summary: Summary | None, error: BaseException | None = None) -> None:
        """As Watcher's."""
        facets: dict[str, Any] = {}
        if summary is not None:
            kind = "COMPLETE"
        elif isinstance(error, KeyboardInterrupt | StoppedError):
            kind = "ABORT"
        else:
            kind = "FAIL"
            message = public(str(error)) or type(error).__name__
            facets["errorMessage"] = self._facets.error_message_run.ErrorMessageRunFacet(
                message, "python", producer=self._producer
            )
        self._send(kind, facets)
        self._waiting.put(None)
        self._thread.join(LAST)
        if self._arrived < self._asked:
            why = self._trouble or f"no answer within {LAST:g} s"
            stderr.say(
                f"{self._asked - self._arrived} of {self._asked} events of OpenLineage did not arrive, "
                f"which the run is not affected by: {why}",
                "warning",
            )

    def _send(self, kind: str, facets: Mapping[str, Any] | None = None) -> None:
        """Hand an event over to the thread."""
        self._said = time.monotonic()
        made = self._made
        event = made.RunEvent(
            eventType=made.RunState(kind),
            eventTime=datetime.now(UTC).isoformat(timespec="milliseconds"),
            producer=self._producer,
            run=made.Run(str(self._run), {**self._run_facets, **(facets or {})}),
            job=made.Job(
                os.environ.get("OPENLINEAGE_NAMESPACE") or "segengine",
                self._job["name"],
                dict(self._job_facets),
            ),
            inputs=list(self._inputs),
            outputs=[self._output()],
        )
        self._asked += 1
        self._waiting.put(event)

    def _deliver(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._client.emit(event)
            except Exception as error:  # noqa: BLE001 - whatever a transport has, the run goes on
                self._trouble = public(f"{type(error).__name__}: {error}").partition("\n")[0]
            else:
                self._arrived += 1
        self._client.close(0)

    def _about(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Facets of the run and of its job."""
        facets, producer = self._facets, self._producer
        engine = facets.processing_engine_run.ProcessingEngineRunFacet(
            version("segengine"), "segengine", version("openlineage-python"), producer=producer
        )
        kind = facets.job_type_job.JobTypeJobFacet("BATCH", "SEGENGINE", "JOB", producer=producer)
        said = facets.documentation_job.DocumentationJobFacet(
            f"Masks of images, by {self._job['segmenter']['kind']}", producer=producer
        )
        text = facets.source_code_job.SourceCodeJobFacet(
            "json", json.dumps(self._job, indent=2), producer=producer
        )
        of_job = {"jobType": kind, "documentation": said, "sourceCode": text}
        return {"processing_engine": engine}, of_job

    def _output(self) -> Any:
        """The store, and what this run has written to it so far."""
        path = self._job["store"]["path"]
        written = self._facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            size=self._tally.bytes, producer=self._producer
        )
        return self._made.OutputDataset(
            *dataset(path), {"outputStatistics": written}, facets=self._source(path)
        )

    def _source(self, path: str) -> dict[str, Any]:
        """Where a dataset lies, by the path that the job names it with."""
        namespace, name = dataset(path)
        at = f"file://{name}" if namespace == "file" else f"{namespace}/{name.lstrip('/')}"
        source = self._facets.datasource_dataset.DatasourceDatasetFacet(
            namespace, quote(at, safe=":/"), producer=self._producer
        )
        return {"dataSource": source}


def run_uuid(run: str) -> UUID:
    """The UUID of a run by its id: the same for the same run.

    >>> run_uuid("4f1c2a3b4c5d")
    UUID('09a105ba-9969-5a78-8942-0c43f9392068')
    """
    return uuid5(NAMESPACE_URL, f"segengine:run:{run}")


def inputs(job: Mapping[str, Any]) -> Iterator[str]:
    """What a job reads, as it names it: images, truth, and files of the segmenter.

    >>> list(inputs({"source": {"paths": ["/a/*.tif"]}, "segmenter": {"weights": "/b/m.onnx"}}))
    ['/a/*.tif', '/b/m.onnx']
    """
    source, truth = job["source"], job.get("truth") or {}
    yield from source["paths"]
    yield from truth.get("paths", ())
    named = (source.get("annotations"), truth.get("instances"))
    for path in (*named, *map(job["segmenter"].get, FILES)):
        if isinstance(path, str) and (path.startswith("/") or "://" in path):
            yield path


def dataset(path: str) -> tuple[str, str]:
    """Namespace and name of a path or URL, as OpenLineage names datasets; of a pattern the part that
    is the same for all.

    >>> dataset("/scenes/2026/*_B?.tif"), dataset("s3://bucket/masks/{stem}.png")
    (('file', '/scenes/2026'), ('s3://bucket', 'masks'))
    >>> dataset("https://host:81/a/b.tif"), dataset("gcs://bucket"), dataset("/photos[[]1]/*")
    (('https://host:81', 'a/b.tif'), ('gs://bucket', '/'), ('file', '/photos[1]'))
    """
    parts: list[str] = []
    scheme, marked, rest = path.partition("://")
    for part in (rest if marked else path).split("/"):
        if re.search(r"[*?[{}]", _LITERAL.sub("", part)):
            break
        parts.append(_LITERAL.sub(lambda m: m[1] or m[2][0], part))
    if not marked:
        return "file", "/".join(parts) or "/"
    scheme = {"gcs": "gs", "s3a": "s3"}.get(scheme.lower(), scheme.lower())
    return f"{scheme}://{parts[0]}", "/".join(parts[1:]) or "/"


def _transport(where: str) -> Any:
    """What takes events to a file or an address. Raises JobError."""
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    if "://" not in where:
        file = os.path.abspath(os.path.expanduser(where))
        try:
            with open(file, "a"):
                pass
        except OSError as error:
            raise JobError(
                f"--lineage: {where}: {error.strerror}; name a file in a folder that is there"
            ) from None
        return FileTransport(FileConfig(file, append=True))
    scheme, _, rest = where.partition("://")
    authority, _, path = rest.partition("/")
    if scheme.lower() not in ("http", "https") or not authority:
        raise JobError(
            f"--lineage: {public(where)}: takes a file, or an address of http:// or https://"
        )
    given: dict[str, Any] = {
        "url": f"{scheme}://{authority}/",
        "timeout": PATIENCE,
        "retry": {"total": 0},
    }
    if path:  # the very address; else the one that the standard's server has
        given["endpoint"] = path
    key = os.environ.get("OPENLINEAGE_API_KEY")
    if key:
        given["auth"] = {"type": "api_key", "apiKey": key}
    return HttpTransport(HttpConfig.from_dict(given))
