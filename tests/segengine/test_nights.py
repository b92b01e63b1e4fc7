"""Night after night: a folder that grows, changes and shrinks; what is computed is what changed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.runs import Run, parse_job
from segengine.worker.segment import segment_shard

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
SHARED = {"shard": 512}  # 4 frames of a 256 x 256 bucket share a shard


@pytest.fixture(autouse=True)
def computed(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Names of the frames of each shard that is worked on, gone ones left out."""
    found: list[set[str]] = []

    def counted(task: Any) -> Any:
        found.append({r.name for r in task.frames if not r.gone})
        return segment_shard(task)

    monkeypatch.setattr("segengine.stages.segment.compute_shard", counted)
    return found


def place(bench: Any, name: str) -> tuple[str, int]:
    """Where a frame lives now: (scene, frame)."""
    ((scene, frame),) = [
        (row["scene"], row["frame"])
        for row in bench.open().frames.to_pylist()
        if row["name"] == name and row["status"] != "gone"
    ]
    return scene, frame


def statuses(bench: Any) -> dict[tuple[str, str], str]:
    rows = bench.open().frames.to_pylist()
    return {(row["scene"], row["name"]): row["status"] for row in rows}


def mask(bench: Any, scene: str, frame: int, shape: tuple[int, ...]) -> np.ndarray:
    found = np.asarray(bench.open()[scene].mask)[frame]
    return np.asarray(found[: shape[0], : shape[1]])


def test_three_nights(bench: Any, noise: Any, computed: Any) -> None:
    images = {f"{c}.png": noise(i, (50 + i, 60, 3)) for i, c in enumerate("abcdef")}
    for name, image in images.items():
        bench.put(name, image)
    first = bench.run(MEAN, store=SHARED)
    assert (first.shards, first.computed, first.exit_code) == (2, 2, 0)
    assert computed == [{"a.png", "b.png", "c.png", "d.png"}, {"e.png", "f.png"}]
    before = bench.tree()

    computed.clear()
    same = bench.run(MEAN, store=SHARED)
    assert (same.computed, same.skipped, computed) == (0, 2, [])
    assert bench.tree() == before

    # Night 2: two more, one changed and one gone, in a shard they share.
    images |= {"aa.png": noise(20, (40, 40, 3)), "z.png": noise(21, (44, 40, 3))}
    bench.put("aa.png", images["aa.png"])
    bench.put("z.png", images["z.png"])
    images["b.png"] = noise(30, (77, 33, 3))
    bench.put("b.png", images["b.png"])
    (bench.inputs / "c.png").unlink()
    gone = mask(bench, "256x256-uint8-3", 2, (256, 256))
    second = bench.run(MEAN, store=SHARED)
    assert computed == [{"a.png", "b.png", "d.png"}, {"aa.png", "z.png"}]
    assert (second.computed, second.skipped, second.exit_code) == (2, 1, 0)
    assert any("1 input has vanished" in m for m in second.messages)
    assert any("1 of 3 shards are stale" in m for m in second.messages)
    assert sorted(bench.open().scenes) == ["256x256-uint8-3", "256x256-uint8-3.2"]
    np.testing.assert_array_equal(mask(bench, "256x256-uint8-3", 2, (256, 256)), gone)
    assert statuses(bench)["256x256-uint8-3", "c.png"] == "gone"
    for name, image in images.items():
        if name != "c.png":
            scene, frame = place(bench, name)
            np.testing.assert_array_equal(
                mask(bench, scene, frame, image.shape), segengine.segment(image, MEAN)
            )
    assert place(bench, "a.png") == ("256x256-uint8-3", 0)
    assert place(bench, "z.png") == ("256x256-uint8-3.2", 1)

    # Night 3: what had vanished is back as it was.
    computed.clear()
    back = bench.put("c.png", images["c.png"])
    bench.run(MEAN, store=SHARED)
    assert computed == [{"a.png", "b.png", "c.png", "d.png"}]  # its time of change is new
    np.testing.assert_array_equal(mask(bench, "256x256-uint8-3", 2, (256, 256)), gone)
    assert "gone" not in statuses(bench).values()
    assert back.exists()


def test_a_frame_that_comes_back_unchanged_is_not_computed(
    bench: Any, noise: Any, computed: Any
) -> None:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    bench.run(MEAN, store=SHARED)
    before = bench.tree()
    (bench.inputs / "1.png").rename(bench.root / "aside.png")
    computed.clear()
    assert bench.run(MEAN, store=SHARED).computed == 0
    assert statuses(bench)["256x256-uint8-3", "1.png"] == "gone"
    (bench.root / "aside.png").rename(bench.inputs / "1.png")
    assert bench.run(MEAN, store=SHARED).computed == 0
    assert statuses(bench)["256x256-uint8-3", "1.png"] == "done"
    assert computed == []
    assert bench.tree() == before


def test_a_frame_that_was_away_during_a_change_of_the_job_is_done_again(
    bench: Any, noise: Any, computed: Any
) -> None:
    images = [noise(i, (40, 40, 3)) for i in range(3)]
    for i, image in enumerate(images):
        bench.put(f"{i}.png", image)
    bench.run(MEAN, store=SHARED)
    old = mask(bench, "256x256-uint8-3", 1, (40, 40))
    (bench.inputs / "1.png").rename(bench.root / "aside.png")
    other = {**MEAN, "offset": 40}
    summary = bench.run(other, store=SHARED)
    assert any("segmenter.offset: default -> 40" in m for m in summary.messages)
    np.testing.assert_array_equal(mask(bench, "256x256-uint8-3", 1, (40, 40)), old)
    np.testing.assert_array_equal(
        mask(bench, "256x256-uint8-3", 0, (40, 40)), segengine.segment(images[0], other)
    )
    (bench.root / "aside.png").rename(bench.inputs / "1.png")
    computed.clear()
    bench.run(other, store=SHARED)
    assert computed == [{"0.png", "1.png", "2.png"}]
    np.testing.assert_array_equal(
        mask(bench, "256x256-uint8-3", 1, (40, 40)), segengine.segment(images[1], other)
    )


def test_a_photo_that_outgrows_its_bucket_moves_and_stays_there(
    bench: Any, noise: Any, computed: Any
) -> None:
    small, large = noise(1, (40, 40, 3)), noise(2, (40, 300, 3))
    bench.put("a.png", small)
    bench.put("b.png", noise(3, (40, 40, 3)))
    bench.run(MEAN, store=SHARED)
    kept = mask(bench, "256x256-uint8-3", 0, (256, 256))
    bench.put("a.png", large)
    computed.clear()
    bench.run(MEAN, store=SHARED)
    wide = ("256x512-uint8-3", 0)
    for night in range(3):
        assert computed == ([{"a.png"}] if night == 0 else [])
        assert place(bench, "a.png") == wide
        assert statuses(bench)["256x256-uint8-3", "a.png"] == "gone"
        np.testing.assert_array_equal(mask(bench, "256x256-uint8-3", 0, (256, 256)), kept)
        np.testing.assert_array_equal(
            mask(bench, *wide, large.shape), segengine.segment(large, MEAN)
        )
        computed.clear()
        bench.run(MEAN, store=SHARED)
    # Small again: back to the place it had, and its place in the other scene is the one left.
    bench.put("a.png", small)
    computed.clear()
    bench.run(MEAN, store=SHARED)
    assert computed == [{"a.png", "b.png"}]
    assert place(bench, "a.png") == ("256x256-uint8-3", 0)
    assert statuses(bench)["256x512-uint8-3", "a.png"] == "gone"
    bench.run(MEAN, store=SHARED)
    assert computed == [{"a.png", "b.png"}]


def test_other_bands_of_the_same_files_lay_them_out_anew(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN, store=SHARED)
    for computed in (1, 0):
        summary = bench.run(MEAN, store=SHARED, source={"color": "gray"})
        assert summary.computed == computed
        assert statuses(bench) == {("256x256-uint8-1", "a.png"): "done"}
        assert {p.split("/")[0] for p in bench.tree()} == {"zarr.json", "256x256-uint8-1"}


def test_a_changed_video_step_lays_the_video_out_again(
    bench: Any, noise: Any, computed: Any
) -> None:
    import av

    path = bench.inputs / "clip.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(noise(i, (64, 64, 3)), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    bench.run(MEAN, source={"every": 2})
    (scene,) = bench.open().scenes
    assert bench.open()[scene].mask.shape == (5, 64, 64)
    bench.run(MEAN, source={"every": 5})
    rows = [r for r in bench.open().frames.to_pylist() if r["status"] == "done"]
    assert [r["name"] for r in rows] == ["clip.mp4#0", "clip.mp4#5"]
    computed.clear()
    assert bench.run(MEAN, source={"every": 5}).computed == 0


@pytest.mark.parametrize("scope", ["run", "scene"])
def test_a_fit_is_kept_until_it_is_made_again(scope: str, bench: Any, noise: Any) -> None:
    spec = {"kind": "threshold", "method": "mean", "scope": scope}
    dark, bright = noise(1, (40, 40, 3)) // 4, 255 - noise(2, (40, 40, 3)) // 4
    bench.put("a.png", dark)
    bench.run(spec)
    bench.put("b.png", bright)
    second = bench.run(spec)
    assert second.computed == 1
    fitted = segengine.create_segmenter(spec)
    fitted = fitted.fit(fitted.survey(dark[None], np.ones((1, 40, 40), bool)))
    _, frame = place(bench, "b.png")
    scene = place(bench, "b.png")[0]
    alone = fitted if scope == "run" else segengine.create_segmenter({**spec, "scope": "frame"})
    np.testing.assert_array_equal(
        mask(bench, scene, frame, (40, 40)), segengine.segment(bright, alone)
    )
    with Run(parse_job(bench.job(spec)), refit=True, in_process=True) as run:
        for name in Run.STAGES:
            for _ in run.stage(name):
                pass
    # Fits of the two scenes see what they saw before; the run's sees more now.
    assert run.summary().computed == (2 if scope == "run" else 0)
    both = np.stack([dark, bright])
    wanted = segengine.segment(both, spec) if scope == "run" else None
    if wanted is not None:
        for i, name in enumerate(["a.png", "b.png"]):
            found = mask(bench, *place(bench, name), (40, 40))
            np.testing.assert_array_equal(found, wanted[i])
    assert bench.run(spec).computed == 0


def test_a_gone_frame_keeps_instances_and_colours(bench: Any, noise: Any) -> None:
    regions = {"kind": "edges", "output": "regions"}
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (50, 40, 3)))
    bench.run(regions, store=SHARED)
    store = bench.open()
    ids = np.asarray(store["256x256-uint8-3"].instances[1])
    rows = [r for r in store.table("instances").to_pylist() if r["frame"] == 1]
    assert rows
    (bench.inputs / "1.png").unlink()
    bench.put("2.png", noise(9, (30, 60, 3)))
    bench.run(regions, store=SHARED)
    store = bench.open()
    np.testing.assert_array_equal(np.asarray(store["256x256-uint8-3"].instances[1]), ids)
    table = store.table("instances").to_pylist()
    assert [r for r in table if r["frame"] == 1] == rows
    assert [r["frame"] for r in table] == sorted(r["frame"] for r in table)


def test_a_gone_frame_keeps_its_own_colours(bench: Any, noise: Any) -> None:
    spec = {"kind": "kmeans", "clusters": 2, "attempts": 1}
    for i in range(2):
        bench.put(f"{i}.png", noise(i, (50, 40, 3)))
    bench.run(spec, store=SHARED)
    colors = bench.open()["256x256-uint8-3"].colors(0)
    assert colors.any()
    (bench.inputs / "0.png").unlink()
    bench.put("1.png", noise(9, (30, 60, 3)))
    bench.run(spec, store=SHARED)
    np.testing.assert_array_equal(bench.open()["256x256-uint8-3"].colors(0), colors)


@pytest.mark.parametrize("shard", [128, 512])
@pytest.mark.parametrize(("before", "after"), [(2, 3), (4, 2)])
def test_a_gone_frame_outlives_a_change_of_the_classes(
    before: int, after: int, shard: int, bench: Any, noise: Any
) -> None:
    spec = {"kind": "kmeans", "clusters": before, "attempts": 1}
    for i in range(2):
        bench.put(f"{i}.png", noise(i, (50, 40, 3)))
    bench.run(spec, store={"shard": shard})
    gone = np.asarray(bench.open()["256x256-uint8-3"].mask[0])
    (bench.inputs / "0.png").unlink()
    summary = bench.run(spec | {"clusters": after}, store={"shard": shard})
    assert summary.exit_code == 0
    store = bench.open()
    np.testing.assert_array_equal(np.asarray(store["256x256-uint8-3"].mask[0]), gone)
    assert store["256x256-uint8-3"].colors(1).shape == (after, 3)
    areas = summary.metrics["areas"]
    assert areas.keys() == {*(f"cluster {i}" for i in range(after)), "void"}
    assert sum(area["pixels"] for area in areas.values()) >= 50 * 40


def test_only_what_the_job_touches_is_stale(bench: Any, noise: Any, computed: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN, name="one")
    before = bench.tree()
    assert bench.run({**MEAN, "offset": 0.0, "scope": "frame"}, name="two").computed == 0
    assert bench.run(MEAN, store={"chunk": 64, "shard": 512}).computed == 0  # its layout stays
    assert bench.tree() == before
    assert bench.open().job["store"]["shard"] == 512
    changed = bench.run({**MEAN, "object": "dark"})
    assert changed.computed == 1
    assert any("segmenter.object: default -> dark" in m for m in changed.messages)


def test_more_classes_than_a_byte_holds(toys: str, bench: Any, noise: Any) -> None:
    image = noise(1, (40, 40, 3))
    bench.put("a.png", image)
    bench.run(MEAN)
    assert bench.open()["256x256-uint8-3"].mask.dtype == np.uint8
    spec = {"kind": f"{toys}:Many"}
    bench.run(spec)
    scene = bench.open()["256x256-uint8-3"]
    assert (scene.mask.dtype, scene.void) == (np.uint16, 65535)
    np.testing.assert_array_equal(scene.mask[0, :40, :40], segengine.segment(image, spec))
    bench.run(MEAN)
    scene = bench.open()["256x256-uint8-3"]
    np.testing.assert_array_equal(scene.mask[0, :40, :40], segengine.segment(image, MEAN))


def test_times_alone_do_not_fool_it(bench: Any, noise: Any, computed: Any) -> None:
    """Same size and another time of change: read again; nothing else is."""
    path = bench.put("a.png", noise(1, (40, 40, 3)))
    bench.put("b.png", noise(2, (40, 300, 3)))
    bench.run(MEAN)
    computed.clear()
    os.utime(path, ns=(1, 1))
    assert bench.run(MEAN).computed == 1
    assert computed == [{"a.png"}]
