"""The tasks: one a stage, nothing retried, nothing stored."""

import logging

import pytest
from prefect.client.schemas.objects import StateType
from prefect.logging import disable_run_logger

from segengine.job import Job
from segengine.progress import Progress
from segengine_tasks.artifacts import Publisher
from segengine_tasks.session import STAGES, Session
from segengine_tasks.stages import TASKS, follow

JOB = Job.model_validate(
    {"source": {"paths": ["/x"]}, "segmenter": {"kind": "threshold"}, "store": {"path": "/s"}}
)


class Followed(Session):
    """A session whose plan has ended, whose survey had nothing to do and whose segment failed."""

    def __init__(self) -> None:
        super().__init__(JOB)
        self._publish("plan", Progress("plan", 3, 4, failed=1))
        self._ended |= {"plan", "survey"}
        self._notices = ("2 shards are stale",)
        self._error = RuntimeError("disk full\nlong story")


def test_there_is_a_task_for_each_stage_and_prefect_neither_retries_nor_stores() -> None:
    assert tuple(TASKS) == STAGES
    for stage, task in TASKS.items():
        assert task.name == stage
        assert task.retries == 0
        assert task.persist_result is False
        assert stage in (task.description or "")


@pytest.mark.parametrize(
    ("stage", "kind", "message"),
    [
        ("plan", StateType.COMPLETED, "3 of 4, 1 frame failed"),
        ("survey", StateType.COMPLETED, "nothing to do"),
        ("segment", StateType.FAILED, "the run has failed: disk full"),
    ],
)
def test_a_task_ends_as_its_stage(stage: str, kind: StateType, message: str) -> None:
    publish = Publisher()
    publish.trouble = "no Prefect here"
    with disable_run_logger():
        state = follow(stage, Followed(), publish)
    assert (state.type, state.message) == (kind, message)


def test_notices_of_the_plan_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    logger = logging.getLogger("tests.tasks.stages")
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    monkeypatch.setattr("segengine_tasks.stages.get_run_logger", lambda: logger)
    publish = Publisher()
    publish.trouble = "no Prefect here"
    follow("plan", Followed(), publish)
    assert lines == ["2 shards are stale", "3 of 4, 1 frame failed"]
