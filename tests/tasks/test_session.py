"""One driver, many followers: nobody waits for a follower, every follower learns the end."""

import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import segengine.runs
from segengine.errors import SegengineError, StoppedError
from segengine.job import Job
from segengine.progress import Progress, Summary
from segengine_tasks.session import STAGES, Session

JOB = Job.model_validate(
    {"source": {"paths": ["/x"]}, "segmenter": {"kind": "threshold"}, "store": {"path": "/s"}}
)


class Run:
    """A run without images: 100 steps a stage, which can fail, or be let on step by step."""

    id: ClassVar = "a-run"
    STAGES: ClassVar = STAGES
    fail: ClassVar[BaseException | None] = None
    gate: ClassVar[threading.Semaphore | None] = None
    left: ClassVar[list[type[BaseException] | None]] = []

    def __init__(self, job: Job, **options: Any) -> None:
        self.job, self.options = job, options
        self.order: list[str] = []

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        Run.left.append(kind)

    def stage(self, name: str) -> Iterator[Progress]:
        assert STAGES[len(self.order)] == name
        self.order.append(name)
        if name == "survey":
            return
        for done in range(101):
            if Run.gate is not None and name == "segment":
                Run.gate.acquire()
            if Run.fail is not None and name == "segment" and done == 50:
                raise Run.fail
            yield Progress(name, done, 100)

    def notices(self) -> tuple[str, ...]:
        return ("12 shards are stale",)

    def summary(self) -> Summary:
        return Summary("n", "/s", "/r", 1, 1, 1, 1, 0, 1, 0.1, (), {}, ())


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segengine.runs, "Run", Run)
    monkeypatch.setattr(Run, "fail", None)
    monkeypatch.setattr(Run, "gate", None)
    monkeypatch.setattr(Run, "left", [])


def test_stages_are_those_of_the_engine() -> None:
    # Asked of the file: the fixture has put another Run in the engine's place.
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(segengine.runs))
    (run,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Run"]
    (stages,) = [n.value for n in run.body if isinstance(n, ast.AnnAssign) and n.value]
    assert ast.literal_eval(stages) == STAGES


def test_the_driver_sees_everything_in_order_without_any_follower() -> None:
    shown: list[Progress] = []
    notes: list[str] = []
    session = Session(JOB)
    summary = session.drive(shown.append, notes.append)
    assert [(p.stage, p.done) for p in shown] == [
        (stage, done) for stage in STAGES if stage != "survey" for done in range(101)
    ]
    assert notes == ["12 shards are stale"]
    assert session.outcome() is summary
    assert Run.left == [None]


def test_followers_see_the_newest_progress_and_the_end_of_every_stage() -> None:
    session = Session(JOB)
    seen: dict[str, list[int]] = {}

    def follow() -> None:
        for stage in STAGES:
            seen[stage] = []
            for progress in session.follow(stage):
                seen[stage].append(progress.done)
                time.sleep(0.001)

    follower = threading.Thread(target=follow)
    follower.start()
    session.start().join()
    follower.join()
    for stage in STAGES:
        assert seen[stage] == sorted(set(seen[stage]))
        assert seen[stage][-1:] == ([] if stage == "survey" else [100])
        assert session.state(stage) == "ended"
    assert session.outcome().exit_code == 0


def test_a_follower_that_comes_late_sees_the_last_progress_of_each_stage() -> None:
    session = Session(JOB)
    session.drive()
    seen = {stage: [p.done for p in session.follow(stage)] for stage in STAGES}
    assert seen == {stage: [] if stage == "survey" else [100] for stage in STAGES}


def test_a_failure_reaches_the_driver_and_every_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    error = SegengineError("disk full; make room")
    monkeypatch.setattr(Run, "fail", error)
    session = Session(JOB)
    with pytest.raises(SegengineError, match="disk full"):
        session.drive()
    assert [p.done for p in session.follow("segment")] == [49]
    assert list(session.follow("publish")) == []
    assert [session.state(s) for s in STAGES] == ["ended"] * 2 + ["failed"] * 4
    assert session.trouble() == "disk full; make room"
    with pytest.raises(SegengineError) as raised:
        session.outcome()
    assert raised.value is error
    assert Run.left == [SegengineError]


def test_an_interrupt_reaches_followers_as_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "fail", KeyboardInterrupt())
    session = Session(JOB)
    with pytest.raises(KeyboardInterrupt):
        session.drive()
    with pytest.raises(StoppedError, match="the same command goes on"):
        session.outcome()


def test_a_stopped_session_ends_at_its_next_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Semaphore(3)
    monkeypatch.setattr(Run, "gate", gate)
    session = Session(JOB)
    thread = session.start()
    next(session.follow("segment"))
    session.stop()
    gate.release(2)
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(StoppedError):
        session.outcome()
    assert Run.left == [StoppedError]


def test_a_session_is_driven_once() -> None:
    session = Session(JOB)
    session.drive()
    with pytest.raises(RuntimeError, match="driven once"):
        session.drive()
