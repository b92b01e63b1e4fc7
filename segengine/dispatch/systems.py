"""The batch systems: how each is asked for jobs, which of them there are, and how all are ended."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from segengine.errors import SegengineError
from segengine.terms.jobqueue import Jobqueue

ANSWER = 30.0
"""Seconds in which a command of the system answers, or is not waited for."""
_NEVER = re.compile(
    r"PartitionTimeLimit|PartitionNodeLimit|PartitionConfig|BadConstraints|JobHeld\w+|"
    r"InvalidAccount|InvalidQOS|QOSNotAllowed|AccountNotAllowed|JobLaunchFailure|"
    r"(?:Assoc|QOS)Max\w+PerJob\w*"
)
"""Slurm's reasons for which a job waits that do not pass by themselves."""


@dataclass(frozen=True, slots=True)
class System:
    """A batch system. Jobs of a run share a name, by which they are listed and ended."""

    title: str
    cluster: str
    """Its class in dask_jobqueue."""
    submit: str
    """The command that takes a script."""
    by_stdin: bool
    """The script goes to the command's standard input."""
    listing: tuple[str, ...]
    """Prints a line a job, which begins with its number; `{name}` is the jobs' name."""
    ending: str
    """A line of shell that ends the jobs of a name."""
    walltime: Callable[[int], str]
    """Seconds as the system writes them."""
    gpus: str = ""
    """Asks for GPUs, `{count}` a job; empty: they are named with cores and memory."""
    directives: tuple[str, ...] = ()
    """Told for each job before the user's own."""

    def told(self, options: Jobqueue) -> list[str]:
        """What a job's script says beside what dask_jobqueue writes."""
        asked = options.gpus and self.gpus
        gpus = [self.gpus.format(count=options.cores)] if asked else []
        return [*self.directives, *gpus, *options.directives]

    def require(self, options: Jobqueue) -> None:
        """Raise SegengineError where its commands are not here."""
        if shutil.which(self.submit) is None:
            raise SegengineError(
                f"cluster.options: system: {options.system}: {self.submit} is not on the PATH; run "
                "where jobs are submitted"
            )

    def listed(self, name: str) -> Mapping[str, str] | None:
        """Number of each job of a name that waits or runs, and what it says; None: not known now."""
        command = [word.format(name=name) for word in self.listing]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ANSWER,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode and not re.search("not found|No unfinished job", done.stderr):
            return None
        lines = (re.match(r"\s*(\d+)\S*\s*(.*)", line) for line in done.stdout.splitlines())
        return {match[1]: match[2].strip() for match in lines if match}

    def end(self, name: str) -> None:
        """End all jobs of a name."""
        try:
            subprocess.run(
                ["sh", "-c", self.ending.format(name=name)],
                capture_output=True,
                timeout=ANSWER,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return  # who watches over this process does it again


def never_starts(said: str) -> str:
    """The reason for which a job will not start by waiting; empty where there is none."""
    match = _NEVER.search(said)
    return match[0] if match else ""


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def _minutes(seconds: int) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60:02}:{minutes % 60:02}"


_OF_QSUB = ("-S /bin/bash", "-r n")
"""Else the shell is the one that the user logs in with, and a job whose node fails starts again."""
SYSTEMS: Mapping[str, System] = {
    "slurm": System(
        title="Slurm",
        cluster="SLURMCluster",
        submit="sbatch",
        by_stdin=False,
        listing=("squeue", "-h", "-n", "{name}", "-o", "%A %T %r"),
        ending="scancel --name={name}",
        walltime=_clock,
        gpus="--gres=gpu:{count}",
        directives=("--no-requeue",),  # what a node's end takes is asked for anew
    ),
    "pbs": System(
        title="PBS",
        cluster="PBSCluster",
        submit="qsub",
        by_stdin=False,
        listing=("qselect", "-N", "{name}"),
        ending="qselect -N {name} | xargs -r qdel",
        walltime=_clock,
        directives=_OF_QSUB,
    ),
    "lsf": System(
        title="LSF",
        cluster="LSFCluster",
        submit="bsub",
        by_stdin=True,
        listing=("bjobs", "-noheader", "-J", "{name}", "-o", "jobid stat"),
        ending="bkill -J {name} 0",
        walltime=_minutes,
        gpus="-gpu num={count}",
        directives=("-rn",),
    ),
    "sge": System(
        title="Grid Engine",
        cluster="SGECluster",
        submit="qsub",
        by_stdin=False,
        listing=("qstat",),
        ending="qdel {name}",
        walltime=_clock,
        gpus="-l gpu={count}",
        directives=_OF_QSUB,
    ),
}
