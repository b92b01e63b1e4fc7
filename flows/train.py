"""The Prefect flow that trains: images with truth in, a bundle out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from segengine.errors import SegengineError, StoppedError
from segengine.training.job import TrainJob, parse_train_job
from segengine.urls import public
from segengine_flows._train import hush
from segengine_flows.guard import driving, guard
from segengine_tasks.artifacts import Publisher, StageProgress
from segengine_tasks.session import TRAIN, Training


@flow(
    name="train",
    flow_run_name="{job.name}",
    description="Train a network on images with truth; checkpoints, pictures and a bundle for "
    "segmenting go to the job's folder. What is done already is not done again.",
    retries=0,
    persist_result=False,
    validate_parameters=True,
)
def train(job: TrainJob) -> dict[str, Any]:
    """Train a network.

    Args:
        job: What to learn from, what to train, and where it goes. Paths are absolute.
    """
    hush()
    logger, progress = get_run_logger(), StageProgress(Publisher(), TRAIN)
    try:
        training = Training(parse_train_job(job))
        with driving(training, lambda text: logger.info("%s", public(text))):
            guard(training)
            for latest in training.follow(TRAIN):
                progress.update(latest)
            progress.close()
            trained = training.outcome()
    except StoppedError as error:
        return Cancelled(message=f"{error}")  # type: ignore[return-value]
    except SegengineError as error:
        return Failed(message=f"{error}", data=type(error)(*error.args))  # type: ignore[return-value]
    state: State[dict[str, Any]] = Completed(
        message=f"{trained.epochs} epochs; {trained.bundle}",
        data=asdict(trained) | {"metrics": dict(trained.metrics)},
    )
    return state  # type: ignore[return-value] # a state with the dict
