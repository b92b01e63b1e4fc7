"""Dask's pages: served where a job asks for them, on loopback only, and said where."""

import sys
import urllib.request
from typing import Any

import psutil
import pytest

from segengine.dispatch import clusters
from segengine.dispatch.dask import DaskPool
from segengine.errors import JobError
from segengine.job import ClusterSpec, parse_job
from segengine.runs import Run


@pytest.mark.system
def test_a_run_says_where_its_pages_are_and_they_are_there(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    job = bench.job({"kind": "threshold"})
    job["cluster"] = {"workers": 1, "options": {"dashboard": True}}
    with Run(parse_job(job)) as run:
        list(run.stage("plan"))
        (line,) = [n for n in run.notices() if n.startswith("Dask shows its workers")]
        link = line.split()[-1]
        assert link.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(link, timeout=30) as answer:
            assert b"Dask" in answer.read()
        port = int(link.split(":")[2].partition("/")[0])
        here = psutil.Process().net_connections("tcp")
        bound = {c.laddr.ip for c in here if c.status == "LISTEN" and c.laddr.port == port}
        assert bound == {"127.0.0.1"}


@pytest.mark.system
def test_nobody_asked_and_nothing_is_served() -> None:
    with clusters.open_pool(ClusterSpec(workers=1), 2) as pool:
        assert isinstance(pool, DaskPool)
        assert pool.dashboard == ""
        status = f"{pool.client.dashboard_link}"
        with pytest.raises((OSError, ValueError)):
            urllib.request.urlopen(status, timeout=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dashboard": "yes"}, "dashboard: must be true or false"),
        ({"dashbord": True}, "dashbord: local has no such option; it takes dashboard"),
    ],
)
def test_a_mistake_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"options: {message}"):
        ClusterSpec(workers=1, options=options)
    spec = ClusterSpec.model_construct(kind="local", workers=1, options=options)
    with pytest.raises(JobError, match=f"cluster.options: {message}"), clusters.open_pool(spec, 2):
        pass


def test_without_bokeh_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bokeh", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    spec = ClusterSpec(workers=1, options={"dashboard": True})
    with (
        pytest.raises(JobError, match=r"pip install 'segengine\[dashboard\]'"),
        clusters.local(spec, 2),
    ):
        pass
