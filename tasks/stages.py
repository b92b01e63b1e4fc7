"""One Prefect task a stage of the engine: it follows the stage, logs, and says how it ended."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from prefect import Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from segengine.urls import public
from segengine_tasks.artifacts import Publisher, StageProgress
from segengine_tasks.pace import Pace
from segengine_tasks.session import STAGES, Session
from segengine_tasks.words import count

if TYPE_CHECKING:
    from segengine.progress import Progress

EVERY = 60.0
"""Seconds between two log lines of one stage."""

Follow = Task[[Session, Publisher], Any]


def follow(stage: str, session: Session, publish: Publisher) -> State[None]:
    """Follow one stage to its end: a progress artifact, sparse log lines, a final state."""
    logger, said = get_run_logger(), time.monotonic()
    artifact, last, pace = StageProgress(publish, stage), None, Pace()
    for progress in session.follow(stage):
        words = pace(progress)
        artifact.update(progress, words)
        last = progress
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            logger.info("%s", ", ".join(filter(None, (_line(progress), public(words)))))
    artifact.close()
    if stage == "plan":
        for notice in session.notices:
            logger.info("%s", public(notice))
    if session.state(stage) == "failed":
        return Failed(message=f"the run has failed: {session.trouble()}")
    message = _line(last) if last is not None else "nothing to do"
    logger.log(logging.INFO if last is not None else logging.DEBUG, "%s", message)
    return Completed(message=message)


def _line(progress: Progress) -> str:
    failed = f", {count(progress.failed, 'frame')} failed" if progress.failed else ""
    note = f", {progress.message}" if progress.message else ""
    unit = f" {progress.unit}" if progress.unit else ""
    return public(f"{progress.done:,} of {progress.total:,}{unit}{failed}{note}")


def _task(stage: str) -> Follow:
    def run(session: Session, publish: Publisher) -> State[None]:
        return follow(stage, session, publish)

    run.__name__, run.__doc__ = stage, f"The engine's {stage} stage."
    # Nothing is retried, cached or stored here: the engine's records are what resumes a run.
    return Task(run, name=stage, retries=0, cache_policy=NO_CACHE, persist_result=False)


TASKS: dict[str, Follow] = {stage: _task(stage) for stage in STAGES}
"""The tasks, in the order they follow each other."""
