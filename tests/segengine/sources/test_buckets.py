"""Inputs in a bucket of S3: each page listed once, each object opened with one request, and once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from segengine.job import parse_job
from segengine.planning.plan import Plan
from segengine.runs import Run
from segengine.sources import _buckets
from segengine.sources._files import GuardedFile, read_bytes
from segengine.sources.listing import Listing, list_entries
from tests.bucket import ENVIRONMENT, NAME, PREFIX, Photos, asked, serving

from .buckets import forget_sessions

URL = f"s3://{NAME}/{PREFIX}"
SOME = 4
"""Listings, and HEADs, that tell that a path is a folder, and no array."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url, pytest.MonkeyPatch.context() as patch:
        for key, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": url}).items():
            patch.setenv(key, value)
        forget_sessions()
        yield url
        forget_sessions()


def planned(store: Path) -> Plan:
    """What a run finds; what lies where is committed."""
    job = parse_job(
        {
            "source": {"kind": "images", "paths": [URL]},
            "segmenter": {"kind": "threshold"},
            "store": {"path": str(store)},
        }
    )
    with Run(job, in_process=True) as run:
        for _ in run.stage("plan"):
            pass
        return run.plan


def test_only_what_is_new_is_opened(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bucket.PAGE", 20)
    for photos, new in ((170, 170), (175, 5), (175, 0)):
        asked(server, photos)
        plan = planned(tmp_path / "masks.zarr")
        assert (plan.scan.frames, plan.scan.probed) == (photos, new)
        found = asked(server, photos)
        assert found["GET"] == new
        assert found["LIST"] - 9 <= SOME
        assert found["HEAD"] <= SOME


def listed(photos: int, server: str, path: str = URL) -> Listing:
    asked(server, photos)
    return list_entries([path], "images")


@pytest.mark.parametrize(
    "path", [URL, f"{URL}*.jpg", f"s3://{NAME}/**/*.jpg", f"{URL}00000001.jpg"]
)
def test_fingerprints_are_those_of_s3fs(
    server: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = listed(5, server, path)
    monkeypatch.setattr(_buckets, "bucket_of", lambda *_: None)
    theirs = listed(5, server, path)
    assert ours == theirs
    assert len(ours.entries) == (1 if path.endswith("1.jpg") else 5)


def test_a_folder_that_a_browser_made_is_no_file(server: str) -> None:
    Photos.markers = (PREFIX, f"{PREFIX}empty/")
    found = listed(2, server)
    Photos.markers = ()
    assert (len(found.entries), found.skipped) == (2, {})


def test_keys_that_obstore_takes_for_none_are_listed(server: str) -> None:
    Photos.markers = (f"{PREFIX}a//b.jpg",)
    found = listed(2, server)
    Photos.markers = ()
    assert [entry.name for entry in found.entries] == ["00000000.jpg", "00000001.jpg", "a//b.jpg"]


def test_one_request_opens_a_photo_and_one_tells_that_it_is_as_it_was(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_buckets, "_KNOWN", _buckets._Known())
    asked(server, 10)
    for wanted in ({"GET": 1}, {"HEAD": 1}):
        assert read_bytes(f"{URL}00000007.jpg") == Photos.picture
        assert asked(server, 10) == Counter(wanted)


def test_what_comes_after_the_first_bytes_is_of_the_same_state(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_buckets, "FIRST", 100)
    file = GuardedFile(f"{URL}00000008.jpg")
    assert file.read() == Photos.picture
    system = fsspec.filesystem("s3")
    there = _buckets.bucket_of(system, f"{NAME}/{PREFIX}00000008.jpg")
    assert there is not None
    assert there[0].part(there[1], 5, 9).data == Photos.picture[5:9]
