"""`segengine train`: a training in this process, with progress on stderr.

Without Prefect: a training is one piece of work, and its checkpoints are what it goes on from. The
flow of the same name is in `segengine_flows.train`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from segengine import stderr
from segengine_flows import terminal


def run(job_file: str, overrides: Sequence[str] = ()) -> int:
    """Train what a TRAIN.yaml says; returns the exit code. Raises SegengineError."""
    from segengine.training.job import load_train_job

    job = load_train_job(job_file, overrides)
    hush()
    from segengine.training.trainers import train

    display = terminal.display(lambda: "")
    try:
        trained = train(job, display.update, display.note)
    finally:
        display.close()
    for line in trained.lines():
        terminal.write(line)
    return 0


def planned(job_file: str, overrides: Sequence[str] = ()) -> Any:
    """The resolved configuration of a TRAIN.yaml, with `lines()`. Raises SegengineError."""
    from segengine.training.job import load_train_job

    job = load_train_job(job_file, overrides)
    hush()  # before anything loads TensorFlow
    from segengine.training.plan import plan

    return plan(job)


def hush() -> None:
    """Load TensorFlow without its log lines on stderr, which it writes before it can be told not to.

    What it says where it cannot be loaded is in the exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr.silent():
        import keras  # noqa: F401
