"""A Slurm of one node for tests: munge, controller and node on ports and in a folder of their own.

It needs neither systemd nor control groups, and touches nothing of a Slurm that the machine may have.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CPUS, MEMORY = 16, 16000
"""Of the node, in MB; more than there is: it is only counted."""
NODE = "node1"
LONG = 60.0
LOOK = 0.2
"""Seconds before a look at the queue, which costs as much as a shard."""

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=30
MpiDefault=none
SwitchType=switch/none
Licenses=single:1
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=main Nodes={name} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={name} MaxTime=5 State=UP
"""


class Slurm:
    """A controller, a node, and who vouches for their users."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._stack, self._up = ExitStack(), False
        self._path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

    def start(self) -> None:
        """Start all of it, and wait until the node takes jobs."""
        for name in ("spool", "state"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)  # munge's clients must reach its socket
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        places = ["--key-file", "--socket", "--pid-file", "--seed-file", "--log-file"]
        files = ["munge.key", "munge.socket", "munge.pid", "munge.seed", "munge.log"]
        pairs = zip(places, files, strict=True)
        options = [f"{option}={self.folder / name}" for option, name in pairs]
        self._daemon("munged", "--foreground", "--force", *options)
        self._until((self.folder / "munge.socket").exists, "munged")
        self._configure()
        self._daemon("slurmctld", "-D", "-i")
        self._daemon("slurmd", "-D", "-N", NODE)
        account = Account(self, "")
        states = ("sinfo", "-h", "-n", NODE, "-o", "%T")
        self._until(lambda: "idle" in account.said(*states), "the node")
        self._up = True

    def _configure(self) -> None:
        with ExitStack() as held:
            ports = []
            for _ in range(2):
                free = held.enter_context(socket.socket())
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        text = CONF.format(
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            controller=ports[0],
            node=ports[1],
            name=NODE,
            cpus=CPUS,
            memory=MEMORY,
        )
        (self.folder / "slurm.conf").write_text(text)

    def _daemon(self, name: str, *options: str) -> None:
        log = self._stack.enter_context((self.folder / f"{name}.out").open("wb"))
        process = subprocess.Popen(
            [name, *options],
            env=os.environ | self.environment | {"PATH": self._path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._stack.callback(_end, process)

    def end(self) -> None:
        """End its jobs and all of its processes."""
        with suppress(AssertionError, subprocess.SubprocessError):
            if self._up:
                Account(self, "").clear()
        self._stack.close()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LONG
        while not condition():
            words = [p.read_text(errors="replace") for p in sorted(self.folder.glob("*.out"))]
            assert time.monotonic() < end, f"{what} does not come: {words}"
            time.sleep(0.2)


class Account:
    """Whose jobs are counted together: several tests may have some at a time."""

    def __init__(self, slurm: Slurm, name: str | None = None) -> None:
        """Without a name one of its own; an empty one stands for all there are."""
        self.name = uuid4().hex if name is None else name
        self.environment = {**slurm.environment, "SBATCH_ACCOUNT": self.name}

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """One of Slurm's commands."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def said(self, *command: str) -> str:
        """What one of Slurm's commands prints; nothing where it fails."""
        done = self.call(*command)
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self, *states: str) -> list[str]:
        """Numbers of the jobs that wait or run."""
        time.sleep(LOOK)
        only = ["-t", ",".join(states)] if states else []
        whose = ["-A", self.name] if self.name else []
        done = self.call("squeue", "-h", "-o", "%A", *only, *whose)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def update_node(self, *settings: str) -> None:
        """Drain it, or resume it."""
        done = self.call("scontrol", "update", f"NodeName={NODE}", *settings)
        assert done.returncode == 0, done.stderr

    def until_empty(self, seconds: float = LONG) -> None:
        """Wait until no job is left."""
        end = time.monotonic() + seconds
        while self.jobs():
            assert time.monotonic() < end, self.said("squeue")

    def clear(self) -> None:
        """End all of its jobs."""
        for job in self.jobs():
            self.call("scancel", job)
        self.until_empty()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
