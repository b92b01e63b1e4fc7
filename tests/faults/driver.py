"""Run a job with the engine alone, as `segengine run` does without Prefect, and say how far it is.

`python driver.py JOB EVENTS [STAGE:progress:N:DELAY | STAGE:write:N:0 | STAGE:unrecorded:N:0]` kills
itself with SIGKILL DELAY seconds after the N-th progress of a stage, or right before the stage's
N-th atomic rename, or right before the rename that follows the N-th into `scenes/`. Flags: `--repair`;
`--in-process`, without workers; `--singly`, each shard stored before the next is begun.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading

from segengine.dispatch import pool
from segengine.errors import SegengineError
from segengine.job import load_job
from segengine.runs import Run


class Moment:
    """When to die."""

    def __init__(self, spec: str) -> None:
        stage, kind, number, delay = spec.split(":")
        self.stage, self.kind, self.left, self.delay = stage, kind, int(number), float(delay)
        self.now, self.stored = "", 0
        if kind in ("write", "unrecorded"):
            sys.addaudithook(self._audit)

    def begin(self, stage: str) -> None:
        self.now = stage
        if self.kind == "progress" and self.left == 0:
            self._count()

    def progress(self) -> None:
        if self.kind == "progress":
            self._count()

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        if event != "os.rename":
            return
        if self.kind == "write":
            self._count()
        elif self.stored == self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.now == self.stage and "/scenes/" in str(args[1]):
            self.stored += 1

    def _count(self) -> None:
        if self.now == self.stage:
            self.left -= 1
            if self.left <= 0:
                if self.delay == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


def main(job: str, events: str, moment: str = "none:never:0:0", *flags: str) -> int:
    """Exit code as `segengine run`."""
    dying = Moment(moment)
    if "--singly" in flags:
        pool.MOST = 1
    with open(events, "a", buffering=1) as log:
        try:
            alone = "--in-process" in flags
            with Run(load_job(job), repair="--repair" in flags, in_process=alone) as run:
                for stage in Run.STAGES:
                    log.write(f"begin {stage}\n")
                    dying.begin(stage)
                    for progress in run.stage(stage):
                        log.write(f"{stage} {progress.done} {progress.total}\n")
                        dying.progress()
                    log.write(f"end {stage}\n")
            summary = run.summary()
        except SegengineError as error:
            print(error, file=sys.stderr)  # noqa: T201 - as the command line does
            return error.exit_code
        log.write(f"summary {json.dumps(dataclasses.asdict(summary))}\n")
        return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
