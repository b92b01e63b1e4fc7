"""Events of OpenLineage, as a receiver on loopback and a file have them."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
import yaml

import segengine
from segengine.errors import JobError, SegengineError, StoppedError
from segengine.job import Job, parse_job
from segengine.progress import Progress
from segengine.watching import lineage
from segengine.watching.lineage import Lineage, run_uuid
from segengine_flows.cli import main
from segengine_tasks.session import Session

# ---------------------------------------------------------------- what the standard asks for, 2-0-2

FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {
            "_producer": {"type": "string", "pattern": "^[a-z]+:"},
            "_schemaURL": {"type": "string", "pattern": r"^https://openlineage\.io/spec/facets/"},
        },
    },
}
NAMED = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "facets": FACETS,
        "inputFacets": FACETS,
        "outputFacets": FACETS,
    },
}
EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string"},
        "producer": {"type": "string", "pattern": "^[a-z]+:"},
        "schemaURL": {
            "const": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
        },
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {"runId": {"type": "string"}, "facets": FACETS},
        },
        "job": NAMED,
        "inputs": {"type": "array", "items": NAMED},
        "outputs": {"type": "array", "items": NAMED},
    },
    "additionalProperties": False,
}
NEEDED = {
    "processing_engine": {"version": str},
    "errorMessage": {"message": str, "programmingLanguage": str},
    "jobType": {"processingType": str, "integration": str},
    "documentation": {"description": str},
    "sourceCode": {"language": str, "sourceCode": str},
    "dataSource": {"name": str, "uri": str},
    "outputStatistics": {"size": int},
    "tags": {"tags": list},
}
"""What the facets' own schemas ask for, of those that are sent."""


def check(event: dict[str, Any]) -> None:
    """Raise where an event is not one."""
    jsonschema.validate(event, EVENT)
    assert str(UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    nouns = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    for noun in nouns:
        for group in ("facets", "inputFacets", "outputFacets"):
            for name, facet in noun.get(group, {}).items():
                for key, kind in NEEDED[name].items():
                    assert isinstance(facet[key], kind), (name, key)


class Receiver(ThreadingHTTPServer):
    """Keeps the events that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.events: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def kinds(self) -> list[str]:
        return [event["eventType"] for event in self.events]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        check(event)
        self.server.events.append(event)
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(autouse=True)
def _nobody_else_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_API_KEY", "OPENLINEAGE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def job(bench: Any, noise: Any) -> Job:
    for index in range(3):
        bench.put(f"{index}.png", noise(index, (40, 40, 3)))
    return parse_job(bench.job({"kind": "threshold"}, name="photos"))


def test_a_run_says_what_it_reads_and_writes(receiver: Receiver, job: Job, bench: Any) -> None:
    session = Session(job, in_process=True, lineage=receiver.url)
    session.drive()
    assert receiver.kinds == ["START", "COMPLETE"]
    assert {path for path, _ in receiver.asked} == {"/api/v1/lineage"}
    start, end = receiver.events
    assert start["run"]["runId"] == end["run"]["runId"] == str(run_uuid(session.run_id))
    for event in receiver.events:
        assert (event["job"]["namespace"], event["job"]["name"]) == ("segengine", "photos")
        ((read,), (written,)) = event["inputs"], event["outputs"]
        assert (read["namespace"], read["name"]) == ("file", str(bench.inputs))
        assert (written["namespace"], written["name"]) == ("file", str(bench.store))
        assert written["facets"]["dataSource"]["uri"] == bench.store.as_uri()
    text = json.loads(end["job"]["facets"]["sourceCode"]["sourceCode"])
    assert text == job.as_json()
    records = segengine.open_store(bench.store).records()
    stored = sum(o.bytes for record in records if record.kind == "mask" for o in record.objects)
    sizes = [e["outputs"][0]["outputFacets"]["outputStatistics"]["size"] for e in receiver.events]
    assert sizes == [0, stored]
    assert stored > 0


def test_the_environment_names_receiver_key_and_namespace(
    receiver: Receiver, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the standard's client reads it."""
    monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "k3y")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "nights")
    before = dict(lineage.os.environ)
    Session(job, in_process=True).drive()
    assert receiver.asked == [("/api/v1/lineage", "Bearer k3y")] * 2
    assert {event["job"]["namespace"] for event in receiver.events} == {"nights"}
    assert dict(lineage.os.environ) == before  # workers inherit it
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "True")
    Session(job, in_process=True).drive()
    Session(job, in_process=True, lineage=receiver.url).drive()
    assert len(receiver.events) == 2


def test_an_address_with_a_path_is_that_very_address(receiver: Receiver, job: Job) -> None:
    Session(job, in_process=True, lineage=f"{receiver.url}/take/them?all=1").drive()
    assert [path for path, _ in receiver.asked] == ["/take/them?all=1"] * 2


def test_a_file_gets_a_line_an_event_and_keeps_those_before(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for _ in range(2):
        Session(job, in_process=True, lineage=str(file)).drive()
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        check(event)
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 2
    assert len({event["run"]["runId"] for event in events}) == 2


def test_a_run_that_works_long_says_so(
    receiver: Receiver, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "EVERY", 0.0)
    Session(job, in_process=True, lineage=receiver.url).drive()
    assert receiver.kinds[0] == "START"
    assert receiver.kinds[-1] == "COMPLETE"
    assert set(receiver.kinds[1:-1]) == {"RUNNING"}


def test_a_run_that_fails_says_why_and_one_that_is_stopped_does_not(
    receiver: Receiver, job: Job, bench: Any
) -> None:
    session = Session(job, in_process=True, lineage=receiver.url)
    with pytest.raises(StoppedError):
        session.drive(lambda _: session.stop())
    for index in range(9):
        (bench.inputs / f"junk{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 10)
    with pytest.raises(SegengineError, match="quarantined") as failed:
        Session(job, in_process=True, lineage=receiver.url).drive()
    assert receiver.kinds == ["START", "ABORT", "START", "FAIL"]
    facets = [event["run"]["facets"] for event in receiver.events]
    assert [facet.get("errorMessage", {}).get("message") for facet in facets] == [
        *(None, None, None, str(failed.value))
    ]


def test_no_event_holds_a_credential_and_names_are_those_of_the_standard(tmp_path: Path) -> None:
    job = Job.model_validate(
        {
            "source": {
                "paths": [
                    *("s3://bucket/scenes/2026-*/x.tif", "https://me:s3cret@host/a.tif?sig=s3cret"),
                    *("/data/scenes/*.tif", "/data/scenes/**/*.jp2"),
                ]
            },
            "truth": {"paths": ["gs://labels/{stem}.png"], "classes": ["a", "b"]},
            "segmenter": {"kind": "model", "path": "/models/net.onnx"},
            "store": {"path": "s3://masks/night.zarr"},
        }
    )
    file = tmp_path / "events.jsonl"
    watcher = Lineage(job.as_json(), "run", str(file))
    watcher.update(Progress("plan", 0, 1))
    watcher.finish(None, ValueError("at https://me:s3cret@host/a.tif?sig=s3cret"))
    text = file.read_text()
    assert "s3cret" not in text
    end = json.loads(text.splitlines()[-1])
    check(end)
    assert end["run"]["facets"]["errorMessage"]["message"] == "at https://host/a.tif"
    assert [(data["namespace"], data["name"]) for data in end["inputs"]] == [
        ("s3://bucket", "scenes"),
        ("https://host", "a.tif"),
        ("file", "/data/scenes"),
        ("gs://labels", "/"),
        ("file", "/models/net.onnx"),
    ]
    assert [(data["namespace"], data["name"]) for data in end["outputs"]] == [
        ("s3://masks", "night.zarr")
    ]


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "never answers"])
@pytest.mark.parametrize("named", [False, True], ids=["environment", "option"])
def test_a_dead_receiver_costs_no_shard_and_seconds_at_most(
    hangs: bool,
    named: bool,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lineage, "LAST", 1.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hangs:
            server.listen(16)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        if not named:
            monkeypatch.setenv("OPENLINEAGE_URL", url)
        began = time.monotonic()
        summary = Session(job, in_process=True, lineage=url if named else None).drive()
        assert time.monotonic() - began < 15
    assert (summary.exit_code, summary.computed) == (0, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 2 events of OpenLineage did not arrive" in line
    assert ("Connection" in line) == (named and not hangs) or not named


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("{}/no/events.jsonl", "--lineage: .*/no/events.jsonl: No such file"),
        (
            "ftp://host/x",
            "--lineage: ftp://host/x: takes a file, or an address of http:// or https",
        ),
        ("http:///x", "--lineage: http:///x: takes a file, or"),
    ],
)
def test_a_place_that_will_not_do_is_refused_at_once(
    where: str, said: str, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job.as_json()))
    assert main(["run", str(file), "--lineage", where.format(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(JobError, match=said):
        raise JobError(line)
    assert not Path(job.store.path).exists()


def test_without_the_extra_one_line_says_what_to_do(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    with pytest.raises(JobError, match=r"--lineage: .*pip install 'segengine\[lineage\]'"):
        Lineage(job.as_json(), "run", "events.jsonl")
    with pytest.raises(JobError, match="OPENLINEAGE_URL: needs openlineage"):
        Lineage(job.as_json(), "run", None)
