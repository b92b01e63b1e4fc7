"""An error belongs to whoever raised it: the source, the segmenter, the store; never to its errno."""

from __future__ import annotations

import errno
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.errors import SegengineError, StoreAccessError, StoreError
from segengine.sources.images import ImageSource
from segengine.sources.zarr import ZarrSource
from segengine.store.local import LocalObjects

pytestmark = pytest.mark.usefixtures("plain_report")
ERRORS = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EPERM, "Operation not permitted"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("a library of it"),
    MemoryError(),
]
QUICK = {"faults": {"retries": 1, "max_quarantined": 1.0}}
FIXED = {"kind": "threshold", "method": "fixed", "levels": 99}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segengine.dispatch.pool.PAUSE", 0.0)


def failing(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, error: Exception
) -> Callable[[], int]:
    """Let a source raise where it comes to a frame; how often it did."""
    real, times = kind.read, [0]  # type: ignore[attr-defined]

    def read(self: Any, frames: Any, rows: slice, cols: slice) -> Any:
        for ref in frames:
            if ref.name == name:
                times[0] += 1
                raise error
            yield from real(self, [ref], rows, cols)

    monkeypatch.setattr(kind, "read", read)
    return lambda: times[0]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{type(e).__name__}-{e}")
def test_what_a_source_raises_loses_its_frame_and_no_other(
    error: Exception, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    times = failing(monkeypatch, ImageSource, "1.png", error)
    job = {**QUICK, "store": {"shard": 1024}}  # all in one shard, read in one call
    summary = bench.run(FIXED, **job)
    ((name, kind, reason),) = [(f.name, f.kind, f.reason) for f in summary.failed]
    assert (name, kind) == ("1.png", "error")
    assert reason == (
        "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
    )
    assert times() == 2  # once more, as the job says
    (scene,) = bench.open().scenes.values()
    for i in (0, 2, 3):
        found = np.asarray(scene.mask[i])[:40, :40]
        np.testing.assert_array_equal(found, segengine.segment(noise(i, (40, 40, 3)), FIXED))
    monkeypatch.undo()
    assert bench.run(FIXED, **job).exit_code == 0


@pytest.mark.parametrize("error", ERRORS[:4], ids=lambda e: f"{type(e).__name__}-{e}")
def test_what_a_source_raises_in_a_survey_stops_a_fit_that_lasts(
    error: Exception, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    failing(monkeypatch, ImageSource, "1.png", error)
    with pytest.raises(SegengineError, match=r"survey: 1\.png: .*the fit would miss it") as caught:
        bench.run({"kind": "threshold", "method": "mean", "scope": "run"}, **QUICK)
    assert not isinstance(caught.value, StoreError)


def test_what_a_source_raises_while_outputs_are_probed_is_not_the_stores(
    toys: str, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.zarr", noise(1, (40, 40, 3)))
    failing(monkeypatch, ZarrSource, "a.zarr", ERRORS[0])
    source = {"paths": [str(bench.inputs / "a.zarr")]}
    summary = bench.run({"kind": f"{toys}:Silent"}, source=source, **QUICK)
    assert [(f.name, f.kind) for f in summary.failed] == [("a.zarr", "error")]


RAISING = '''
import errno
from dataclasses import dataclass

import numpy as np

from segengine.types import Prediction

ERRNO = {errno}


class Raising:
    classes = ("no", "yes")
    halo, stride = 0, 1

    def segment(self, pixels):
        raise OSError(ERRNO, "of my own file")


class Told(Raising):
    outputs = ("labels",)


@dataclass
class Level:
    level: int = 0
    classes = ("no", "yes")
    halo, stride = 0, 1
    outputs = ("labels",)

    def segment(self, pixels):
        return Prediction((pixels[..., 0] > self.level).astype(np.uint8))


class Unfit:
    """Its fit fails; of a dark frame alone it goes well."""

    classes = Level.classes
    outputs = Level.outputs
    segmenter = Level()

    def __init__(self, scope="run", at="fit"):
        self.scope, self.at = scope, at

    def survey(self, pixels, valid):
        if self.at == "survey":
            raise OSError(ERRNO, "of my own file")
        return int(pixels[valid].sum()), int(valid.sum())

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1]

    def fit(self, state):
        mean = state[0] // state[1] // 3
        if self.scope != "frame" or mean > 150:
            raise OSError(ERRNO, "of my own file")
        return Level(mean)
'''


@pytest.fixture(params=[errno.ENOSPC, errno.EPERM])
def raising(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of segmenters that raise what a store could raise."""
    name = f"raising_{tmp_path.name}"
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{name}.py").write_text(
        textwrap.dedent(RAISING.replace("{errno}", str(request.param)))
    )
    monkeypatch.syspath_prepend(folder)
    return name


def test_what_a_segmenter_raises_is_its_own(raising: str, bench: Any, noise: Any) -> None:
    bench.put("0.png", noise(0, (40, 40, 3)))
    summary = bench.run({"kind": f"{raising}:Told"}, **QUICK)
    (failed,) = summary.failed
    assert failed.kind == "error"
    assert failed.reason.startswith(("OSError: [Errno", "PermissionError: [Errno"))
    assert "of my own file" in failed.reason
    said = rf"segmenter\.kind: {raising}:Raising fails on a window of 0\.png: .*of my own file"
    with pytest.raises(SegengineError, match=said):
        bench.run({"kind": f"{raising}:Raising"}, **QUICK)


@pytest.mark.parametrize("at", ["survey", "fit"])
@pytest.mark.parametrize("scope", ["run", "scene"])
def test_a_fit_that_fails_is_one_line(
    scope: str, at: str, raising: str, bench: Any, noise: Any
) -> None:
    bench.put("0.png", noise(0, (40, 40, 3)))
    with pytest.raises(SegengineError) as caught:
        bench.run({"kind": f"{raising}:Unfit", "scope": scope, "at": at}, **QUICK)
    assert not isinstance(caught.value, StoreError)
    said = str(caught.value)
    assert said.startswith(f"{at}: error ")
    assert "of my own file" in said
    assert said.endswith("mend it or run again later")
    assert "\n" not in said


def test_a_frames_own_fit_that_fails_loses_that_frame(raising: str, bench: Any, noise: Any) -> None:
    """Of frames that are cut, so that their fits are tasks."""
    dark = noise(1, (2, 60, 60, 3)) // 2
    dark[1] = dark[1] // 4 + 190
    bench.put("a.zarr", dark)
    source = {"paths": [str(bench.inputs / "a.zarr")]}
    job = {**QUICK, "source": source, "store": {"shard": 32}}
    summary = bench.run({"kind": f"{raising}:Unfit", "scope": "frame"}, **job)
    ((kind, frame, reason),) = [(f.kind, f.frame, f.reason) for f in summary.failed]
    assert (kind, frame) == ("error", 1)
    assert reason.startswith("fit: ")
    assert "of my own file" in reason
    mask = np.asarray(bench.open()["a"].mask)
    assert (mask[1] == 255).all()
    np.testing.assert_array_equal(mask[0], dark[0, ..., 0] > dark[0].sum() // 3600 // 3)


@pytest.fixture
def storing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, Exception], list[str]]:
    """Let the first writes of keys that begin so fail; those that did are listed."""
    real = os.replace

    def patch(prefix: str, times: int, error: Exception) -> list[str]:
        failed: list[str] = []

        def rename(part: Any, target: Any) -> None:
            if f"/{prefix}" in os.fspath(target) and len(failed) < times:
                failed.append(os.fspath(target))
                raise error
            real(part, target)

        monkeypatch.setattr(os, "replace", rename)
        return failed

    return patch


SCOPES = {
    "run": {"kind": "kmeans", "clusters": 2, "attempts": 1, "scope": "run"},
    "scene": {"kind": "threshold", "method": "mean", "scope": "scene"},
    "frame": {"kind": "threshold", "method": "mean"},
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("what", ["records/+fits", "records/+survey"])
def test_a_fit_that_cannot_be_stored_is_tried_again(
    what: str, scope: str, bench: Any, noise: Any, storing: Any
) -> None:
    bench.put("a.zarr", noise(1, (60, 60, 3)))
    source = {"paths": [str(bench.inputs / "a.zarr")]}
    job = {"source": source, "store": {"shard": 32}, "faults": {"retries": 2}}
    failed = storing(what, 2, OSError(errno.EIO, "Input/output error"))
    summary = bench.run(SCOPES[scope], **job)
    assert (len(failed), summary.exit_code) == (2, 0)
    wanted = segengine.segment(noise(1, (60, 60, 3)), SCOPES[scope])
    np.testing.assert_array_equal(bench.open()["a"].mask[0], wanted)


@pytest.mark.parametrize("scope", ["run", "scene"])
def test_a_fit_that_still_cannot_be_stored_is_one_line(
    scope: str, bench: Any, noise: Any, storing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.zarr", noise(1, (60, 60, 3)))
    source = {"paths": [str(bench.inputs / "a.zarr")]}
    job = {"source": source, "store": {"shard": 32}, "faults": {"retries": 1}}
    failed = storing("records/+fits", 99, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(SegengineError) as caught:
        bench.run(SCOPES[scope], **job)
    assert len(failed) == 2
    said = str(caught.value)
    assert said.startswith("fit: error of ")
    assert "the store failed: Input/output error" in said
    assert "make room" not in said
    assert "\n" not in said
    monkeypatch.undo()
    assert bench.run(SCOPES[scope], **job).exit_code == 0


def test_a_cut_frames_fit_that_still_cannot_be_stored_is_an_error_of_that_frame(
    bench: Any, noise: Any, storing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.zarr", noise(1, (2, 60, 60, 3)))
    source = {"paths": [str(bench.inputs / "a.zarr")]}
    job = {**QUICK, "source": source, "store": {"shard": 32}}
    storing("records/+fits", 2, OSError(errno.EIO, "Input/output error"))
    summary = bench.run(SCOPES["frame"], **job)
    ((kind, reason),) = [(f.kind, f.reason) for f in summary.failed]
    assert kind == "error"
    assert "the store failed: Input/output error" in reason
    monkeypatch.undo()
    assert bench.run(SCOPES["frame"], **job).exit_code == 0
    wanted = segengine.segment(noise(1, (2, 60, 60, 3)), SCOPES["frame"])
    np.testing.assert_array_equal(bench.open()["a"].mask, wanted)


PLACES = [
    "records/+layouts",
    "scenes/a/zarr.json",
    "scenes/a/mask/0/c",
    "records/a/mask",
    "scenes/a/mask/1/c",
    "records/a/measure",
    "tables/frames",
    "metrics.json",
    "records/a.parquet",
    "records/+seals",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_a_closed_store_ends_every_stage_with_words_that_fit(
    number: int, place: str, bench: Any, noise: Any, storing: Any
) -> None:
    bench.put("a.zarr", noise(1, (300, 300, 3)))
    spec = {"kind": "threshold", "method": "fixed", "levels": 99}
    blocks = {
        "source": {"paths": [str(bench.inputs / "a.zarr")]},
        "store": {"shard": 128, "chunk": 64},
        "truth": {"paths": [str(bench.inputs / "{stem}.zarr")]},
    }
    monkey = storing(place, 99, OSError(number, os.strerror(number)))
    if place == "scenes/a/mask/1/c":
        blocks["store"]["shard"] = 64  # large enough for a pyramid
    with pytest.raises(StoreError) as caught:
        bench.run(spec, **blocks)
    assert monkey
    said = str(caught.value)
    assert os.strerror(number) in said
    assert ("make room" in said) == (number == errno.ENOSPC)
    assert ("mend its permissions" in said) == (number == errno.EROFS)
    assert "\n" not in said


def test_a_store_that_may_not_be_written_says_so_before_anything_starts(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))

    def refused(self: Any, data: bytes, flush: bool) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(LocalObjects, "_write_part", refused)
    with pytest.raises(StoreAccessError, match=r"run\.lock: the store refuses this user: Permis"):
        bench.run(FIXED)
