"""The Prefect flow: images in, masks out. `python -P -m segengine_flows.segment JOB.yaml` runs it."""

from __future__ import annotations

if __name__ == "__main__":
    # Ahead of the imports: the command prepares Prefect before it is loaded. As a program of its
    # own: workers load their parent's main module, and must not load Prefect.
    import os
    import sys

    os.execv(
        sys.executable, [sys.executable, "-P", "-m", "segengine_flows.start", "run", *sys.argv[1:]]
    )

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from prefect import flow, get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from segengine.errors import SegengineError, StoppedError
from segengine.job import Job, parse_job
from segengine.progress import Summary
from segengine.registry.options import outlined
from segengine_flows.guard import driving, guard
from segengine_tasks.artifacts import Publisher, publish_alerts, publish_results
from segengine_tasks.session import Session
from segengine_tasks.stages import TASKS
from segengine_tasks.words import count

Made = TypeVar("Made")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Driven:
    """A session that another thread drives, and that this flow follows."""

    session: Session
    begun: Callable[[str], None]
    """Is told the flow run's id, once there is one."""


driven: ContextVar[Driven | None] = ContextVar("driven", default=None)
"""The command line's own; a deployed flow has none and drives its own."""


def _outlined(make: Callable[[Made], Result]) -> Callable[[Made], Result]:
    """A decorator that loads no plug-in: Prefect asks for parameters' schemas here, where a run
    begins, and again where the flow is deployed, which is when a form needs them in full."""

    def made(function: Made) -> Result:
        with outlined():
            return make(function)

    return made


@_outlined(
    flow(
        name="segment",
        flow_run_name="{job.name}",
        description="Segment the images, video or scenes of a job; masks, figures and a report "
        "go to its store. What is done already is not done again.",
        retries=0,
        persist_result=False,
        validate_parameters=True,
    )
)
def segment(job: Job, repair: bool = False, refit: bool = False) -> dict[str, Any]:
    """Run a job.

    Args:
        job: What to segment, how, and where the masks go. Paths are absolute.
        repair: Look for stored masks that have changed, and make them again.
        refit: Fit the segmenter again, where it fits over scenes or the run.
    """
    try:
        with _session(job, repair, refit) as session:
            guard(session)
            return _mirror(session, Publisher())  # type: ignore[return-value] # a state with the dict
    except SegengineError as error:
        # Not what it was raised from, whose words may hold credentials: Prefect logs all of it.
        return Failed(message=f"{error}", data=type(error)(*error.args))  # type: ignore[return-value]


def _session(job: Job, repair: bool, refit: bool) -> AbstractContextManager[Session]:
    """The session to follow. One of our own is driven in a thread."""
    followed = driven.get()
    if followed is not None:
        followed.begun(str(runtime.flow_run.id))
        return nullcontext(followed.session)
    return driving(Session(parse_job(job), repair=repair, refit=refit))


def _mirror(session: Session, publish: Publisher) -> State[Any]:
    """Follow a session, stage by stage; the state that its end means."""
    for stage, follow in TASKS.items():
        try:
            follow(session, publish, return_state=True)
        except Exception as error:  # noqa: BLE001 - Prefect's trouble, not the run's
            publish.trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
            break
        if session.state(stage) == "failed":
            break
    try:
        summary = session.outcome()
    except StoppedError as error:
        return Cancelled(message=f"{error}")
    publish_results(publish, summary)
    publish_alerts(publish, summary)
    if publish.trouble is not None:
        get_run_logger().warning("Prefect shows only a part of this run: %s", publish.trouble)
    return _final(summary)


def _final(summary: Summary) -> State[dict[str, Any]]:
    data = asdict(summary) | {"metrics": dict(summary.metrics), "exit_code": summary.exit_code}
    done = f"{count(summary.computed, 'shard')} computed, {summary.skipped:,} done before"
    if summary.budget:
        return Completed(message=f"{done}; {summary.ended}", name="Partial", data=data)
    if not summary.failed:
        return Completed(message=done, data=data)
    bad = count(len(summary.failed), "frame")
    return Completed(message=f"{done}; {bad} quarantined", name="Quarantined", data=data)
