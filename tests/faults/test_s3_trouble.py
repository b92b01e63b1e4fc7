"""An S3 that answers with errors: tried again, then one line that says whose fault it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Job, differing, job_of, write_photos
from proxy import Proxy, Rule, proxied

from segengine.commands.plan import plan
from segengine.errors import JobError
from segengine.job import parse_job
from segengine.store.blobs import open_objects

pytestmark = pytest.mark.system
QUICK = {"AWS_MAX_ATTEMPTS": "1", "AWS_RETRY_MODE": "standard"}
"""botocore asks once; s3fs and we ask again."""


@pytest.fixture
def proxy(s3_server: str) -> Iterator[Proxy]:
    with proxied(s3_server) as found:
        yield found


@pytest.fixture
def job(
    proxy: Proxy, bucket: str, make_job: Callable[..., Job], tmp_path: Path
) -> Callable[..., Job]:
    """A job whose store is behind the proxy; the test itself looks past it."""
    photos = write_photos(tmp_path / "photos", 1)

    def make(kind: str = "Surveyed", **faults: int) -> Job:
        spec = job_of(photos, f"{bucket}/m.zarr", {"kind": f"faulty:{kind}"}, faults=faults)
        return make_job(spec, AWS_ENDPOINT_URL=proxy.url, **QUICK)

    return make


def puts(part: str) -> Callable[[str, str], bool]:
    return lambda method, path: method == "PUT" and part in path


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clean")
    photos = write_photos(folder / "photos", 1)
    local = Job(folder, job_of(photos, folder / "m.zarr", {"kind": "faulty:Surveyed"}))
    local.run(0, "--in-process")
    return local.scenes()


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "reset"])
def test_trouble_that_passes_is_not_noticed(
    code: str, job: Callable[..., Job], proxy: Proxy, clean: dict[str, bytes]
) -> None:
    """Once for each kind of object; s3fs tries some of them again, we the others."""
    run = job(retries=2)
    parts = ("/records/%2Bsurvey", "/records/%2Bfits", "/mask/0/c", "/work/", ".json")
    proxy.rules = [Rule(code, puts(part), 1) for part in parts[:4]]
    proxy.rules += [Rule(code, puts(part.replace("%2B", "+")), 1) for part in parts[:2]]
    run.run(0, "--in-process")
    assert sum(len(rule.done) for rule in proxy.rules) == 4
    assert differing(run.scenes(), clean) == []


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "reset"])
@pytest.mark.parametrize("part", ["fits", "tables/frames"])
def test_trouble_that_stays_is_one_line_and_not_make_room(
    part: str, code: str, job: Callable[..., Job], proxy: Proxy, clean: dict[str, bytes]
) -> None:
    """While a fit is stored by a task, and a table by the driver."""
    run = job(retries=1)
    proxy.rules = [Rule(code, puts(part))]
    (line,) = run.run(1, "--in-process").stderr.splitlines()
    assert "the store did not answer" in line
    assert code == "reset" or code in line
    assert "make room" not in line
    assert "run" in line.rpartition("; ")[2]
    if part == "fits":
        assert line.startswith("fit: error of run")
        assert len(proxy.rules[0].done) >= 2
    proxy.rules = []
    run.run(0, "--in-process")
    assert differing(run.scenes(), clean) == []


def test_a_shard_that_cannot_be_stored_is_an_error_until_the_next_run(
    job: Callable[..., Job], proxy: Proxy
) -> None:
    run = job("Trapped", retries=1)
    proxy.rules = [Rule("InternalError", puts("/mask/0/c/0/1/0"))]
    run.run(3)
    (failed,) = run.summary()["failed"]
    assert failed["kind"] == "error"
    assert "the store did not answer: InternalError" in failed["reason"]
    proxy.rules = []
    run.run(0)
    assert run.summary()["computed"] == 1


@pytest.mark.parametrize("part", ["run.lock", "/mask/0/c"])
def test_a_store_that_refuses_this_user_says_so_at_once(
    part: str, job: Callable[..., Job], proxy: Proxy
) -> None:
    run = job("Trapped", retries=5)
    proxy.rules = [Rule("AccessDenied", puts(part))]
    (line,) = run.run(1).stderr.splitlines()
    assert "the store refuses this user: AccessDenied" in line
    assert "mend its permissions or the credentials" in line
    assert "make room" not in line
    refused = proxy.rules[0].done
    assert 1 <= len(refused) == len(set(refused))  # nothing is tried again


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_plan_refuses_a_bucket_that_cannot_be_written(
    method: str, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who may not put an object, nor who may not delete one; of the trial nothing stays."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    photos = write_photos(tmp_path / "photos", 1)
    store = f"{bucket}/{method.lower()}.zarr"
    job = parse_job(job_of(photos, store, {"kind": "threshold"}))
    proxy.rules = [Rule("AccessDenied", lambda asked, path: asked == method)]
    with pytest.raises(JobError, match=r"store\.path: cannot be written: .*AccessDenied.*mend"):
        plan(job)
    assert [path for path in proxy.rules[0].done if "work" in str(path)]
    proxy.rules = []
    assert plan(job).pending
    litter = list(open_objects(store).keys(""))
    assert len(litter) == (method == "DELETE")  # which it may not take away; the next run does


def test_a_bucket_that_is_not_there_says_so(bucket: str, job: Callable[..., Job]) -> None:
    run = job("Trapped")
    run.job["store"]["path"] = f"{bucket}-no/m.zarr"
    run.__post_init__()
    (line,) = run.run(1).stderr.splitlines()
    assert "the store is not there: NoSuchBucket" in line
    assert "make its bucket" in line


def test_a_store_that_is_away_does_not_answer(
    bucket: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    spec = job_of(photos, f"{bucket}/m.zarr", {"kind": "faulty:Trapped"})
    away = make_job(spec, AWS_ENDPOINT_URL="http://127.0.0.1:9", **QUICK)
    (line,) = away.run(1).stderr.splitlines()
    assert "the store did not answer: " in line
    assert open_objects(bucket).get("m.zarr/zarr.json") is None


def test_an_object_is_asked_for_in_one_request(proxy: Proxy, bucket: str) -> None:
    asked: list[tuple[str, str]] = []

    def note(method: str, path: str) -> bool:
        asked.append((method, path.rpartition("/")[2]))
        return False

    proxy.rules = [Rule("SlowDown", note)]
    code = (
        "import sys; from segengine.store.blobs import open_objects; o = open_objects(sys.argv[1])\n"
        "o.put('there', b'x'); print(o.get('there'), o.get('away'), o.exists('there'), o.exists('away'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, f"{bucket}/m.zarr"],
        env=os.environ | {"AWS_ENDPOINT_URL": proxy.url},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.split() == ["b'x'", "None", "True", "False"]
    gets = [("GET", "there"), ("GET", "away"), ("HEAD", "there"), ("HEAD", "away")]
    assert asked == [("PUT", "there"), *gets]
