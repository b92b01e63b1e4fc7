"""Works on stores in a process of its own, as a user's commands do: `python _resumed.py WORKS`.

WORKS is a JSON list of [folder, *arguments]; `run` takes `job.yaml`, all else is a command. Says on
stdout, as JSON, of each work: `code`, `out`, and of a run how many steps each stage took.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from contextlib import redirect_stdout
from typing import Any

from segengine.job import load_job
from segengine.runs import Run
from segengine_flows.cli import main


def run() -> dict[str, Any]:
    """The job of this folder, in this process."""
    steps: dict[str, int] = {}
    with Run(load_job("job.yaml"), in_process=True) as run:
        for stage in Run.STAGES:
            steps[stage] = sum(1 for _ in run.stage(stage))
        summary = run.summary()
    return {"code": summary.exit_code, "steps": steps, **dataclasses.asdict(summary)}


def command(*arguments: str) -> dict[str, Any]:
    """A command of the command line."""
    with redirect_stdout(io.StringIO()) as out:
        code = main(arguments)
    return {"code": code, "out": out.getvalue()}


if __name__ == "__main__":
    found = []
    for folder, *arguments in json.loads(sys.argv[1]):
        os.chdir(folder)
        found.append(run() if arguments == ["run"] else command(*arguments))
    sys.stdout.write(json.dumps(found, default=str))
