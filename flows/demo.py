"""`segengine demo`: the demo's jobs one after the other, in this process, recorded by Prefect.

Without Dask, which takes longer to start than these few pictures take to segment.
"""

from __future__ import annotations

import os

from segengine_flows import terminal
from segengine_flows.run import Recorder, drive


def demo(out: str, *, overwrite: bool = False) -> int:
    """Run the demo's jobs below the folder `out`, and say where to look; returns the exit code.

    `overwrite`: also files that no demo wrote. Raises JobError, before anything is written.
    """
    from segengine.commands.demo import demo_jobs, write_inputs, write_own_job
    from segengine_tasks.session import Session

    folder = os.path.abspath(os.path.expanduser(out))
    write_inputs(folder, overwrite=overwrite)
    code = 0
    with Recorder() as recorder:
        for job in demo_jobs(folder):
            session = Session(job, in_process=True)
            recorder.mirror(session, tell=False)  # the last line says where they all are
            summary = drive(session)
            terminal.show_result(summary)
            code = max(code, summary.exit_code)
        own = write_own_job(folder)
        terminal.write(f"runs:   {recorder.where()}")
        terminal.write(f"your own images: edit {own}, then type: segengine run {own}")
    return code
