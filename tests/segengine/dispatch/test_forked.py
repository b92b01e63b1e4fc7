"""The worker that is a copy of its parent: it does works, and what it cannot survive is Dask's."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

HEAD = """
import json, os, sys, time
from dataclasses import replace
from segengine.dispatch import clusters
from segengine.dispatch.forked import Child, fork
from segengine.dispatch.pool import Work
from segengine.errors import StoreError
from segengine.job import ClusterSpec
from segengine.testing._works import Task, work

def works(*conducts):
    return [Work(str(i), work, Task(i, c)) for i, c in enumerate(conducts)]

def told(outcome):
    value = outcome.value and list(outcome.value)
    return [outcome.work.key, outcome.status, outcome.attempts, value, outcome.reason]

if __name__ == "__main__":
    import segengine.runs
    child = fork()
    assert child is not None
    with clusters.open_pool(ClusterSpec(), 1, child) as pool:
"""


def run(folder: Path, body: str) -> Any:
    """What a script prints, that has a pool with a child."""
    script = folder / "script.py"
    script.write_text(HEAD + textwrap.indent(textwrap.dedent(body), " " * 8))
    done = subprocess.run(
        [sys.executable, "-P", str(script)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_works_are_done_by_one_process_that_is_another_and_without_dask(tmp_path: Path) -> None:
    body = """
        found = [told(o) for o in pool.dispatch(works("done", "again", "fail"), retries=1, deadline=60)]
        print(json.dumps([found, os.getpid(), child.pid, "distributed" in sys.modules]))
    """
    found, parent, child, dask = run(tmp_path, body)
    assert not dask
    assert parent != child
    assert found[0][:3] == ["0", "done", 1]
    assert found[0][3][:3] == [0, 1, child]
    assert found[1][:3] == ["1", "done", 2]
    assert found[1][3][:3] == [1, 2, child]
    assert found[2] == ["2", "error", 2, None, "number 2 never works"]
    assert not psutil.pid_exists(child)


def test_a_lost_store_ends_the_run(tmp_path: Path) -> None:
    body = """
        try:
            list(pool.dispatch(works("fatal"), retries=2, deadline=60))
        except StoreError as error:
            print(json.dumps(str(error)))
    """
    assert run(tmp_path, body) == "the store is gone"


@pytest.mark.system
def test_a_work_that_kills_it_is_a_crash_and_the_others_are_done(tmp_path: Path) -> None:
    body = """
        found = [told(o) for o in pool.dispatch(works("done", "die", "done"), retries=1, deadline=60)]
        print(json.dumps([found, child.pid]))
    """
    found, child = run(tmp_path, body)
    assert [f[1] for f in found] == ["done", "crash", "done"]
    assert found[0][3][2] == child
    assert found[2][3][2] != child
    assert found[1][2] == 3
    assert "died" in found[1][4]
    assert not psutil.pid_exists(child)


@pytest.mark.system
@pytest.mark.parametrize("retries", [0, 1])
def test_a_work_that_hangs_is_ended_in_time(tmp_path: Path, retries: int) -> None:
    body = f"""
        found = [
            told(o) for o in pool.dispatch(works("hang", "done"), retries={retries}, deadline=8)
        ]
        print(json.dumps([found, child.pid]))
    """
    found, child = run(tmp_path, body)
    assert found[0][:4] == ["0", "hang", 1 + retries, None]
    assert found[0][4] == "no result within 8 s (faults.deadline)"
    assert found[1][1] == "done"
    assert not psutil.pid_exists(child)


@pytest.mark.system
def test_a_work_without_time_left_is_ended_with_no_one_to_blame(tmp_path: Path) -> None:
    body = """
        end = time.monotonic() + 0.2
        bad = [replace(w, left=lambda: end - time.monotonic()) for w in works("hang")]
        found = [told(o) for o in pool.dispatch(bad, retries=1, deadline=60)]
        print(json.dumps([found, child.pid, "distributed" in sys.modules]))
    """
    found, child, dask = run(tmp_path, body)
    assert found == [["0", "late", 1, None, "its time was over before it ended"]]
    assert not psutil.pid_exists(child)
    assert not dask  # no other worker is started for what is not tried again


@pytest.mark.system
def test_what_it_cannot_be_told_is_told_to_dask(tmp_path: Path) -> None:
    body = """
        work = Work("0", lambda task: (task.number, os.getpid()), Task(7))
        (outcome,) = pool.dispatch([work], retries=0, deadline=60)
        print(json.dumps([outcome.status, outcome.value[0], outcome.value[1] != child.pid]))
    """
    assert run(tmp_path, body) == ["done", 7, True]


def test_it_is_told_to_stop_while_it_works(tmp_path: Path) -> None:
    body = """
        import threading
        from segengine.errors import StoppedError
        threading.Timer(0.5, pool.stop.set).start()
        try:
            list(pool.dispatch(works("hang"), retries=0, deadline=60))
        except StoppedError:
            print("1")
    """
    assert run(tmp_path, body) == 1


@pytest.mark.system
def test_one_that_is_gone_before_its_first_work_is_nobodys_fault(tmp_path: Path) -> None:
    body = """
        os.kill(child.pid, 9)
        time.sleep(0.5)
        pool.prepare(print)
        print(json.dumps([told(o) for o in pool.dispatch(works("done"), retries=0, deadline=60)]))
    """
    (outcome,) = run(tmp_path, body)
    assert outcome[:2] == ["0", "done"]


ASIDE = """
import json, threading, time
from segengine.dispatch import clusters
from segengine.dispatch.forked import fork
from segengine.job import ClusterSpec
child = fork()
clusters.open_pool(ClusterSpec(), 2, child)
threading.Thread(target=time.sleep, args=[60], daemon=True).start()
print(json.dumps([child.lost, fork() is None]))
"""


def test_it_is_ended_where_more_is_asked_for_and_not_made_of_a_process_with_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASIDE], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [True, True]


PARENT = """
import time
from segengine.dispatch.forked import fork
child = fork()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_a_parent_that_is_killed_and_hears_no_ctrl_c() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as lines:
        child = psutil.Process(int(lines.readline()))
        os.kill(child.pid, signal.SIGINT)
        with pytest.raises(psutil.TimeoutExpired):
            child.wait(0.3)
        parent.kill()
        parent.wait()
    assert psutil.wait_procs([child], timeout=5)[1] == []
