"""Failure is data: damaged inputs are listed by name and reason, and spoil nothing beside them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import segengine
from segengine.commands.status import status
from segengine.errors import SegengineError, StoreLockedError, TooManyQuarantinedError
from segengine.progress import FailedFrame
from segengine.stages.quarantine import Quarantine
from segengine.types import Unreadable

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
SHARED = {"shard": 1024}  # 16 frames of a 256 x 256 bucket share a shard


def png_claiming(height: int, width: int) -> bytes:
    """A PNG whose header claims a size that its data does not hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def tiff_without_a_strip(path: Path, image: np.ndarray) -> None:
    import rasterio

    with rasterio.open(
        path, "w", driver="GTiff", height=image.shape[0], width=image.shape[1], count=3,
        dtype="uint8", blockysize=8, crs="EPSG:32613", compress="deflate",
        transform=rasterio.transform.Affine(2, 0, 500000, 0, -2, 4e6),
    ) as out:  # fmt: skip
        out.write(np.moveaxis(image, -1, 0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def damage(bench: Any, noise: Any) -> dict[str, str]:
    """One of each kind of damage; name to the status it must get."""
    folder = bench.inputs
    good = cv2.imencode(".jpg", noise(90, (60, 80, 3)))[1].tobytes()
    (folder / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is text")
    (folder / "huge.png").write_bytes(png_claiming(60_000, 60_000))
    (folder / "short.png").write_bytes(png_claiming(50, 60))
    tiff_without_a_strip(folder / "strip.tif", noise(91, (64, 48, 3)))
    cv2.imwrite(str(folder / "nan.tiff"), np.full((30, 30), np.nan, np.float32))
    (folder / "dangling.png").symlink_to(folder / "nothing-here.png")
    (folder / "a.jpg").mkdir()
    return {
        "truncated.jpg": "corrupt",
        "empty.png": "corrupt",
        "text.png": "corrupt",
        "huge.png": "corrupt",
        "short.png": "corrupt",
        "strip.tif": "corrupt",
        "nan.tiff": "corrupt",
        "dangling.png": "error",
        "a.jpg": "corrupt",
    }


def masks(bench: Any) -> dict[str, np.ndarray]:
    """Masks of the frames that are done, by name."""
    store = bench.open()
    found = {}
    for row in store.frames.to_pylist():
        if row["scene"] is not None and row["status"] == "done":
            mask = np.asarray(store[row["scene"]].mask[row["frame"]])
            found[row["name"]] = mask[: row["height"], : row["width"]]
    return found


def test_damaged_inputs_beside_good_ones(bench: Any, new_bench: Any, noise: Any) -> None:
    alone = new_bench()
    for i in range(20):
        image = noise(i, (50 + i, 60, 3))
        bench.put(f"good {i:02}.png", image)
        alone.put(f"good {i:02}.png", image)
    wanted = damage(bench, noise)
    job = {"store": SHARED, "faults": {"max_quarantined": 0.9, "retries": 0}}
    summary = bench.run(MEAN, **job)
    assert summary.exit_code == 3
    failed = {f.name: f for f in summary.failed}
    assert {name: f.kind for name, f in failed.items()} == wanted
    for name, frame in failed.items():
        assert frame.reason
        assert "\n" not in frame.reason
        assert not frame.reason.startswith(f"{name}: {name}")
    good = alone.run(MEAN, **job)
    assert good.exit_code == 0
    ours, theirs = masks(bench), masks(alone)
    assert sorted(ours) == sorted(theirs)
    assert len(theirs) == 20
    for name, mask in theirs.items():
        np.testing.assert_array_equal(ours[name], mask)
    # Some of the damage lies in shards that good frames share, and is void there.
    rows = {r["name"]: r for r in bench.open().frames.to_pylist()}
    shared = [n for n in wanted if rows[n]["scene"] == rows["good 00.png"]["scene"]]
    assert len(shared) >= 2
    for name in shared:
        scene = bench.open()[rows[name]["scene"]]
        assert (np.asarray(scene.mask[rows[name]["frame"]]) == scene.void).all()
        assert rows[name]["status"] == wanted[name]
    assert {n for n in wanted if rows[n]["scene"] is None} >= {"empty.png", "text.png"}
    report = status(str(bench.store))
    assert {f.name for f in report.failed} == set(wanted)
    text = "\n".join(report.lines())
    assert all(f"{f.name}: {f.kind}: {f.reason}" in text for f in summary.failed)

    # They remain quarantined, and nothing of what is final is computed again.
    again = bench.run(MEAN, **job)
    assert (again.exit_code, again.computed) == (3, 0)
    assert {f.name for f in again.failed} == set(wanted)

    # Mended, one by one they are done.
    bench.put("short.png", noise(70, (50, 60, 3)))
    (bench.inputs / "dangling.png").unlink()
    third = bench.run(MEAN, **job)
    assert {f.name for f in third.failed} == set(wanted) - {"short.png", "dangling.png"}
    np.testing.assert_array_equal(
        masks(bench)["short.png"], segengine.segment(noise(70, (50, 60, 3)), MEAN)
    )


def test_scopes_leave_corrupt_frames_out_of_the_fit(bench: Any, noise: Any) -> None:
    images = [noise(i, (40, 60, 3)) for i in range(3)]
    for i, image in enumerate(images):
        bench.put(f"{i}.png", image)
    (bench.inputs / "short.png").write_bytes(png_claiming(50, 60))
    for scope in ("run", "scene"):
        spec = {**MEAN, "scope": scope}
        summary = bench.run(spec, store=SHARED)
        assert [f.name for f in summary.failed] == ["short.png"]
        wanted = segengine.segment(np.stack(images), spec)
        for i in range(3):
            np.testing.assert_array_equal(masks(bench)[f"{i}.png"], wanted[i])


def test_a_frame_over_many_shards_that_cannot_be_surveyed_is_void(bench: Any, noise: Any) -> None:
    bench.put("0.png", noise(0, (200, 200, 3)))
    (bench.inputs / "short.png").write_bytes(png_claiming(220, 130))
    for spec in (MEAN, {"kind": "edges", "operator": "canny", "scope": "frame"}):
        summary = bench.run(spec, store={"shard": 64})
        assert [f.name for f in summary.failed] == ["short.png"]
        found = masks(bench)
        assert sorted(found) == ["0.png"]
        wanted = segengine.segment(noise(0, (200, 200, 3)), spec)
        np.testing.assert_array_equal(found["0.png"], wanted)
        assert (np.asarray(bench.open()["256x256-uint8-3"].mask[1]) == 255).all()


def test_too_many_stop_the_run_early(bench: Any, noise: Any) -> None:
    for i in range(20):
        bench.put(f"{i:02}.png", noise(i, (40, 40, 3)))
    for i in range(6):
        (bench.inputs / f"short {i}.png").write_bytes(png_claiming(50, 60))
    with pytest.raises(TooManyQuarantinedError) as error:
        bench.run(MEAN, store={"shard": 256})
    assert "6 of 26 frames are quarantined" in str(error.value)
    assert "faults.max_quarantined 0.01 (5 frames)" in str(error.value)
    assert "short 5.png" in str(error.value)
    assert not (bench.store / "run.lock").exists()
    summary = bench.run(MEAN, store={"shard": 256}, faults={"max_quarantined": 0.5})
    assert (summary.exit_code, len(summary.failed)) == (3, 6)
    assert summary.skipped >= 20


def test_five_never_stop_a_run() -> None:
    quarantine = Quarantine(10, 0.0)
    for i in range(5):
        quarantine.add(FailedFrame(f"{i}", "s", i, "corrupt", "why"))
        quarantine.add(FailedFrame(f"{i}", "s", i, "corrupt", "said twice"))
    assert len(quarantine) == 5
    with pytest.raises(TooManyQuarantinedError, match="6 of 10"):
        quarantine.add(FailedFrame("5", "s", 5, "error", "why"))
    assert Quarantine(1000, 0.01).limit == 10


def test_a_frame_that_its_segmenter_refuses_spoils_no_other(
    toys: str, bench: Any, noise: Any
) -> None:
    spec = {"kind": f"{toys}:Fussy"}
    images = [noise(i, (40, 40, 3)) for i in range(4)]
    images[2][0, 0, 0] = 7
    for i, image in enumerate(images):
        image[0, 0, 0] = 7 if i == 2 else 8
        bench.put(f"{i}.png", image)
    summary = bench.run(spec, store=SHARED, faults={"retries": 0})
    (failed,) = summary.failed
    assert (failed.name, failed.kind) == ("2.png", "error")
    assert failed.reason == "RuntimeError: I do not like it"
    for i in (0, 1, 3):
        np.testing.assert_array_equal(masks(bench)[f"{i}.png"], segengine.segment(images[i], spec))
    # An error is worth another try, on the next run.
    again = bench.run(spec, store=SHARED, faults={"retries": 0})
    assert (again.computed, again.exit_code) == (1, 3)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, slice], bool]], None]:
    """Make the Zarr source fail for a while where a condition on (frame, rows) holds."""
    from segengine.sources.zarr import ZarrSource

    real = ZarrSource.read

    def patch(fails: Callable[[Any, slice], bool]) -> None:
        def read(self: Any, frames: Any, rows: slice, cols: slice) -> Any:
            for ref in frames:
                if fails(ref, rows):
                    yield Unreadable("error", "the network is away")
                else:
                    yield from real(self, [ref], rows, cols)

        monkeypatch.setattr(ZarrSource, "read", read)

    return patch


def test_a_transient_error_is_tried_again(
    unreadable: Any, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segengine.dispatch.pool.PAUSE", 0.0)
    left = [2]

    def twice(ref: Any, rows: slice) -> bool:
        left[0] -= 1
        return left[0] >= 0

    image = noise(1, (40, 40, 3))
    path = bench.put("a.zarr", image)
    unreadable(twice)
    spec = {"kind": "edges"}
    summary = bench.run(spec, source={"paths": [str(path)]}, store={"shard": 64})
    assert summary.exit_code == 0
    (record,) = bench.open().records()
    assert record.attempts == 3
    np.testing.assert_array_equal(bench.open()["a"].mask[0], segengine.segment(image, spec))


def test_an_error_stops_a_run_before_a_fit_that_lasts(
    unreadable: Any, bench: Any, noise: Any
) -> None:
    image = noise(1, (40, 40, 3))
    path = bench.put("a.zarr", image)
    unreadable(lambda ref, rows: True)
    job = {"source": {"paths": [str(path)]}, "faults": {"retries": 0}, "store": {"shard": 32}}
    with pytest.raises(SegengineError, match=r"survey: a\.zarr: .*the fit would miss it"):
        bench.run({**MEAN, "scope": "run"}, **job)
    assert list((bench.store / "records").glob("+fits/*")) == []
    unreadable(lambda ref, rows: False)
    bench.run({**MEAN, "scope": "run"}, **job)
    np.testing.assert_array_equal(
        bench.open()["a"].mask[0], segengine.segment(image, {**MEAN, "scope": "run"})
    )


@pytest.mark.parametrize("operator", ["canny", "sobel"])
def test_a_part_that_was_away_for_a_night(
    operator: str, unreadable: Any, bench: Any, noise: Any
) -> None:
    """What is linked across shards is linked again once the lost part is there."""
    spec = {"kind": "edges", "operator": operator}
    image = noise(4, (90, 64, 3)) // 60 + 100
    # A weak edge through all shards, strong only in the lost ones.
    image[:, 20:] += (20 + 2 * np.arange(90).clip(28, 75) - 56).astype(np.uint8)[:, None, None]
    path = bench.put("a.zarr", image)
    wanted = segengine.segment(image, spec)
    job = {"source": {"paths": [str(path)]}, "faults": {"retries": 0}, "store": {"shard": 32}}
    unreadable(lambda ref, rows: rows.start < 60 < rows.stop and rows.start > 0)
    first = bench.run(spec, **job)
    assert first.exit_code == 3
    mask = np.asarray(bench.open()["a"].mask[0])
    assert (mask[32:64] == 255).all()
    assert (mask != 255).any()
    unreadable(lambda ref, rows: False)
    second = bench.run(spec, **job)
    assert second.exit_code == 0
    np.testing.assert_array_equal(bench.open()["a"].mask[0], wanted)
    assert bench.run(spec, **job).computed == 0


def test_errors_say_what_to_do(bench: Any) -> None:
    for kind in (SegengineError, StoreLockedError, TooManyQuarantinedError):
        assert kind.exit_code == 1
