"""`cluster: {kind: jobqueue}`: workers are jobs of a batch system, which start when there is room.

    driver ---- submits ----> queue ----> job: workers of one thread ----> scheduler in the driver
      |                         ^
      +-- keeper ---------------+   what ended is asked for anew; what never starts ends the run
      +-- watchman                  a process that ends all jobs of the run once the driver is gone

The jobs of a run share a name of its own. Dask's scheduler hands out the work, as on one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from segengine.dispatch.clusters import SETTINGS, options_of, variable
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.keeper import IDLE, LOOK, Keeper
from segengine.dispatch.leaving import BEGAN, TOPIC, Leaving
from segengine.dispatch.patience import pause
from segengine.dispatch.systems import SYSTEMS, System, never_starts
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec
from segengine.terms.jobqueue import Jobqueue

SETTLE = 5.0
"""Seconds after which a job that was submitted is in the system's list."""
BARREN = 3
"""Jobs that ended before a worker was there, one after the other, after which the run ends."""
AT_ONCE = 4
"""Jobs that are submitted at the same time."""
ALONE = 60
"""Seconds that a worker looks for its scheduler, before it ends."""
FIRST = 45.0
"""Seconds in which the system says whether it takes a job."""


@contextlib.contextmanager
def jobqueue(spec: ClusterSpec, tasks: int) -> Iterator[DaskPool]:
    """Jobs of a batch system, each with `cores` workers of one thread."""
    options = options_of(Jobqueue, spec)
    system = SYSTEMS[options.system]
    system.require(options)
    least, most = (math.ceil(n / options.cores) for n in spec.bounds(tasks))
    name = f"seg-{uuid.uuid4().hex[:8]}"
    logs, submissions = _log_folder(name), _Submissions()
    with contextlib.ExitStack() as stack:
        stack.push(partial(_drop_words, logs))
        stack.enter_context(_Watchman(system, name))
        cluster = _open(stack, options, name, logs, submissions)
        from distributed import Client

        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(Leaving(options.seconds))
        jobs = least if least == most else None
        keeper = _Keeper(cluster, options, name, logs, submissions, jobs)
        client.subscribe_topic(TOPIC, keeper.hear)
        cluster.scale(jobs=least or 1)
        keeper.require_taken()
        if least != most:
            _adapt(cluster, options.cores, least, most)
        stack.enter_context(keeper)
        yield DaskPool(client, expected=most * options.cores, check=keeper.check)


def _log_folder(name: str) -> Path:
    """Where the jobs' own words go: below the user's home, which all nodes see."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(state).expanduser() / "segengine" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _drop_words(logs: Path, kind: type[BaseException] | None, *_: object) -> None:
    """Where all went well nobody will ask for what the jobs have said."""
    if kind is None or not any(logs.iterdir()):
        shutil.rmtree(logs, ignore_errors=True)


# ------------------------------------------------------------------------------------- Dask's cluster


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """While dask_jobqueue loads, which sets a handler of Ctrl-C and fails outside the main thread."""
    real, here = signal.signal, threading.get_ident()

    def kept(number: Any, handler: Any) -> Any:
        return signal.getsignal(number) if threading.get_ident() == here else real(number, handler)

    signal.signal = kept  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = real


def load_dask_jobqueue() -> Any:
    """The package, with this process's signal handlers left alone."""
    with _signals_kept():
        try:
            return importlib.import_module("dask_jobqueue")
        except ImportError as error:
            raise JobError(
                f"cluster.kind: jobqueue: {error}; pip install 'segengine[hpc]'"
            ) from error


def _open(
    stack: contextlib.ExitStack,
    options: Jobqueue,
    name: str,
    logs: Path,
    submissions: _Submissions,
) -> Any:
    """The scheduler, in this process, and nobody who works."""
    import dask

    system, loaded = SYSTEMS[options.system], load_dask_jobqueue()
    for logger in ("distributed", "distributed.scheduler", "distributed.deploy.adaptive"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    stack.enter_context(dask.config.set(SETTINGS))
    kind = _cluster_class(getattr(loaded, system.cluster), system, submissions)
    try:
        cluster = kind(**_settings(options, system, name, logs))
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().rpartition("\n")[2]
        raise SegengineError(
            f"cluster.options: interface: {options.interface}: {said}; name one of this host's "
            "that the nodes reach"
        ) from error
    stack.callback(_close, cluster, submissions)
    return cluster


def _settings(options: Jobqueue, system: System, name: str, logs: Path) -> dict[str, Any]:
    """What dask_jobqueue takes. Nothing of weight is left to its own configuration files."""
    meeting = {"interface": options.interface} if options.interface else {"host": "127.0.0.1"}
    special: dict[str, Any] = {"lsf": {"use_stdin": True}}.get(options.system, {})
    if options.gpus and not system.gpus:
        chunk = f"ncpus={options.cores}:mem={math.ceil(options.bytes / 2**20)}MB"
        special = {"resource_spec": f"select=1:{chunk}:ngpus={options.cores}"}
    return {
        "cores": options.cores,
        "processes": options.cores,
        "memory": f"{options.bytes} B",
        "queue": options.queue,
        "walltime": system.walltime(options.seconds),
        "interface": options.interface,
        "name": name,
        "job_name": name,
        "death_timeout": ALONE,
        "python": shlex.quote(sys.executable),
        "log_directory": str(logs),
        "job_script_prologue": [*_preparations(), *options.prologue],
        "job_extra_directives": system.told(options),
        "worker_extra_args": ["--no-dashboard"],
        "scheduler_options": {"dashboard": False, "dashboard_address": "127.0.0.1:0", **meeting},
        "silence_logs": logging.CRITICAL,
        **special,
    }


def _preparations() -> Iterator[str]:
    """Shell lines that every job starts with."""
    yield f"export {BEGAN}=$(date +%s)"
    yield "unset DASK_INTERNAL_INHERIT_CONFIG"
    for key, value in SETTINGS.items():
        if key.startswith(("distributed.worker.", "distributed.admin.")):
            yield f"export {variable(key)}={shlex.quote(str(value))}"
    if os.environ.get("PYTHONPATH"):
        yield f"export PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}"


def job_script(spec: ClusterSpec) -> str:
    """What is handed to the batch system for one job; nothing is submitted."""
    options = options_of(Jobqueue, spec)
    system = SYSTEMS[options.system]
    kind = getattr(load_dask_jobqueue(), system.cluster).job_cls
    settings = _settings(options, system, "seg-name", Path(tempfile.gettempdir()))
    for key in ("scheduler_options", "silence_logs", "name"):
        del settings[key]
    job = _job_class(kind, system, _Submissions())("tcp://scheduler:0", "seg-name-0", **settings)
    return str(job.job_script())


@dataclass
class _Submissions:
    """What has become of the jobs that were handed in."""

    taken: int = 0
    refused: str = ""
    """What the system said where it refused one, the last time."""
    closing: bool = False
    """All jobs are about to end: none is ended by itself."""
    seen: set[str] = field(default_factory=set)
    """Names of all workers that have been there."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


def _job_class(kind: Any, system: System, submissions: _Submissions) -> Any:
    """dask_jobqueue's kind of job, which raises nothing in Dask's loop and tells what was said of it."""
    from distributed import Status

    class Told(kind):  # type: ignore[misc] # Dask tells no types
        submitted = 0.0

        async def start(self) -> None:
            try:
                async with submissions.slots:
                    await super().start()
                submissions.taken += 1
            except (OSError, RuntimeError, ValueError) as error:
                submissions.refused = " ".join(str(error).split())
                self.status = Status.running  # the keeper sees that it has no number
            self.submitted = time.monotonic()

        async def _submit_job(self, script: str) -> str:
            # In a session of its own: Ctrl-C must not cut it off before it has said the number.
            with open(script, "rb") as file:
                process = await asyncio.create_subprocess_exec(
                    *shlex.split(self.submit_command),
                    *(() if system.by_stdin else (script,)),
                    stdin=file if system.by_stdin else asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
                out, err = (text.decode(errors="replace") for text in await process.communicate())
            if process.returncode:
                raise RuntimeError(err.strip() or out.strip() or f"exit code {process.returncode}")
            return out

        async def close(self) -> None:
            if not submissions.closing:
                await super().close()
            self.status = Status.closed

    return Told


def _cluster_class(kind: Any, system: System, submissions: _Submissions) -> Any:
    class Queued(kind):  # type: ignore[misc] # Dask tells no types
        job_cls = _job_class(kind.job_cls, system, submissions)

        def _update_worker_status(self, op: str, msg: Any) -> None:
            if op == "add":
                submissions.seen.update(str(w["name"]) for w in msg["workers"].values())
            super()._update_worker_status(op, msg)

    return Queued


def _close(cluster: Any, submissions: _Submissions) -> None:
    """End the scheduler, and with it the workers that are there."""
    submissions.closing = True
    with contextlib.suppress(Exception):
        cluster.close(timeout=10)


def _adapt(cluster: Any, cores: int, least: int, most: int) -> None:
    """Let Dask ask for jobs as there is work, and end those that have none."""
    from distributed.deploy.adaptive import Adaptive

    def busy() -> set[str]:
        workers = cluster.scheduler.workers.values()
        return {_job_of(worker.name, cores) for worker in workers if worker.processing}

    class WholeJobs(Adaptive):  # type: ignore[misc] # Dask tells no types
        """Workers come and go with their job."""

        async def target(self) -> int:
            # Dask's own would reckon with how long tasks take, and few of ours are with it at a time.
            tasks = cluster.scheduler.tasks.values()
            undone = sum(task.state in ("queued", "no-worker", "processing") for task in tasks)
            return math.ceil(undone / cores) * cores

        async def workers_to_close(self, target: int) -> list[str]:
            there = [worker.name for worker in cluster.scheduler.workers.values()]
            idle = sorted({_job_of(name, cores) for name in there} - busy())
            surplus = idle[: max(0, len(there) - target) // cores]
            return [name for name in there if _job_of(name, cores) in surplus]

        async def scale_down(self, workers: Iterable[str]) -> None:
            working = busy()
            await super().scale_down([w for w in workers if _job_of(w, cores) not in working])

    cluster.adapt(
        Adaptive=WholeJobs,
        minimum=least * cores,
        maximum=most * cores,
        interval=LOOK,
        wait_count=IDLE,
    )


def _job_of(worker: str, cores: int) -> str:
    """Name of the job that a worker belongs to: several in a job have a number more."""
    return worker.rpartition("-")[0] if cores > 1 else worker


# --------------------------------------------------------------------------------------- who looks on


class _Keeper(Keeper):
    """Looks at the queue: what ended is asked for anew, and what never starts ends the run."""

    def __init__(
        self,
        cluster: Any,
        options: Jobqueue,
        name: str,
        logs: Path,
        submissions: _Submissions,
        jobs: int | None,
    ) -> None:
        """`jobs`: how many there are always to be; None: Dask asks for them."""
        self.cluster, self.options, self.submissions = cluster, options, submissions
        self.name, self.logs, self.jobs = name, logs, jobs
        self.system = SYSTEMS[options.system]
        self.barren = 0
        super().__init__(self._look_at_queue)

    def hear(self, event: Any) -> None:
        """A worker says that a job's time is not enough for one shard."""
        self.trouble = (
            f"cluster.options: walltime: a shard was not done within {event[1]['seconds']:.0f} s, and "
            f"{self.system.title} ends a job after {self.options.seconds} s; ask for more"
        )

    def require_taken(self) -> None:
        """Wait for the first job to be taken. Raises SegengineError with what the system said."""
        end = time.monotonic() + FIRST
        while time.monotonic() < end:
            if self.submissions.taken:
                return
            if self.submissions.refused:
                raise SegengineError(self._refused())
            pause(0.05)
        raise SegengineError(
            f"{self.system.title} did not answer within {FIRST:g} s; run again later"
        )

    def _refused(self) -> str:
        return (
            f"cluster.options: {self.system.title} does not take the job: "
            f"{self.submissions.refused}"
        )

    def _look_at_queue(self) -> str:
        listed = self.system.listed(self.name)
        there = {str(worker.name) for worker in list(self.cluster.scheduler.workers.values())}
        jobs = dict(self.cluster.workers)
        ended = [key for key, job in jobs.items() if self._has_ended(key, job, listed, there)]
        self._judge(listed or {}, there, {key: jobs[key] for key in ended})
        if self._stop.is_set() or self.trouble:
            return self.trouble
        if ended:
            self.cluster.sync(self.cluster.scale_down, ended, callback_timeout=60)
        if self.jobs is not None and len(self.cluster.worker_spec) < self.jobs:
            self.cluster.scale(jobs=self.jobs)
        return self.trouble

    def _workers(self, key: str) -> set[str]:
        return (
            {f"{key}-{i}" for i in range(self.options.cores)} if self.options.cores > 1 else {key}
        )

    def _has_ended(
        self, key: str, job: Any, listed: Mapping[str, str] | None, there: set[str]
    ) -> bool:
        if not job.submitted or time.monotonic() - job.submitted < SETTLE:
            return False
        if job.job_id is None:
            return True
        return listed is not None and job.job_id not in listed and not self._workers(key) & there

    def _judge(self, listed: Mapping[str, str], there: set[str], ended: Mapping[str, Any]) -> None:
        """Find out whether this can come to anything."""
        if there:
            self.barren = 0
            return
        taken = [key for key, job in ended.items() if job.job_id is not None]
        self.barren += sum(not self._workers(key) & self.submissions.seen for key in taken)
        reasons = {reason for said in listed.values() if (reason := never_starts(said))}
        if reasons and all(map(never_starts, listed.values())):
            self.trouble = (
                f"cluster.options: {self.system.title} will not start the jobs: "
                f"{', '.join(sorted(reasons))}; ask for what the queue allows"
            )
        elif self.barren >= BARREN:
            self.trouble = (
                f"cluster.options: jobs end before a worker is there: {self._last_words()} "
                f"({self.logs}); look at prologue, directives and interface"
            )
        elif ended and not taken and not listed and self.submissions.refused:
            self.trouble = self._refused()

    def _last_words(self) -> str:
        """The last line that a job has written."""
        for file in sorted(self.logs.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True):
            lines = file.read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()
        return "they said nothing"


class _Watchman:
    """A process of its own that ends a run's jobs when this one is gone, however it went."""

    def __init__(self, system: System, name: str) -> None:
        self._system, self._name = system, name
        self._ours = -1

    def __enter__(self) -> _Watchman:
        far, self._ours = os.pipe()
        ending = self._system.ending.format(name=self._name)
        # Twice: what was being submitted at the end is in the queue a moment later. Its parent goes at
        # once, so that who kills all children of this process leaves it alone.
        script = (
            "exec 3<&0 4>&1; trap '' INT TERM HUP; "
            f'( word=; read -r word <&3; [ "$word" = done ] && exit; {ending}; sleep 3; {ending} ) '
            "3<&3 </dev/null >/dev/null 2>&1 4>&- &"
        )
        try:
            subprocess.run(
                ["sh", "-c", script],
                stdin=far,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                check=True,
            )
        finally:
            os.close(far)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._system.end(self._name)
        if kind is None:  # all is ended: there is nothing left to do
            with contextlib.suppress(OSError):
                os.write(self._ours, b"done\n")
        os.close(self._ours)
