"""Works that a cluster is tried with: each does what its task says, on a worker."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segengine.types import Pixels, Prediction
from segengine.worker.tasks import Retry

Conduct = Literal["done", "again", "fail", "fatal", "die", "hang"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a work does, and which attempt it is."""

    number: int
    conduct: Conduct = "done"
    attempt: int = 1
    last: bool = False


def work(task: Task) -> tuple[int, int, int, str] | Retry:
    """(the task's number squared, attempt, process, host), or what the task says instead."""
    match task.conduct:
        case "again" if task.attempt == 1:
            return Retry("not yet")
        case "fail":
            return Retry(f"number {task.number} never works")
        case "fatal":
            return Retry("the store is gone", fatal=True)
        case "die":
            os._exit(1)
        case "hang":
            time.sleep(3600)
    return task.number**2, task.attempt, os.getpid(), socket.gethostname()


class Sums:
    """A segmenter that no pixel escapes: the sum of all bytes of a pixel tells its label."""

    classes = ("0", "1", "2", "3", "4")
    halo, stride = 0, 1
    outputs = ("labels",)

    def segment(self, pixels: Pixels) -> Prediction:
        """Of any bands and dtype."""
        values = np.ascontiguousarray(pixels)
        values = values.view(np.uint8).reshape(*pixels.shape[:3], -1)
        weights = np.arange(1, values.shape[-1] + 1)
        return Prediction(((values * weights).sum(axis=-1) % 5).astype(np.uint8))
