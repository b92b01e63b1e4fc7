"""Tracks: ids through time against truth, the same for any cut, mended and kept; counts by time."""

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import segengine
from segengine.commands.plan import plan
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.instances.crossings import Counts, Seen
from segengine.instances.tracking import Look, Tracker
from segengine.job import load_job, parse_job
from segengine.report import build
from segengine.runs import Run
from segengine.stages import tracks
from tests.segengine.moving import CAR, HEIGHT, TRUCK, WIDTH, idf1, passing, road, write_video

JOBS = Path(__file__).parents[3] / "deployments/jobs"
VEHICLES = {
    "kind": "threshold",
    "method": "fixed",
    "levels": [105, 185],
    "instances": "components",
}
GATES = {
    "lines": {"west": [[60, 0], [60, HEIGHT]]},
    "zones": {"middle": [[140, 0], [208, 0], [208, HEIGHT], [140, HEIGHT]]},
    "period": "2s",
}


def tables(bench):
    folder = bench.store / "tables"
    return (folder / "tracks.parquet").read_bytes(), (folder / "counts.csv").read_bytes()


QUICK = {"faults": {"fsync": False}}


def cut(frames=16, **sides):
    return {"chunk": 320, "shard": 320, "frames": frames, **sides}


@pytest.fixture(scope="module")
def roads():
    return road(100, seed=1)


def test_tracks_are_the_same_bytes_for_any_cut(new_bench, roads, plain_report):
    made = []
    for store in (cut(1), cut(16), cut(1, chunk=64, shard=192)):
        bench = new_bench()
        write_video(bench.inputs / "a/road.mkv", roads[0][:20], codec="ffv1")
        write_video(bench.inputs / "still.mkv", roads[0][:1] * 3, codec="ffv1")
        bench.run(VEHICLES, tracks=GATES, store=store, **QUICK)
        assert bench.open()["still"].layout.cut == (store["shard"] == 192)
        made.append(tables(bench))
    assert made[0] == made[1] == made[2]
    rows = pq.read_table(bench.store / "tables/tracks.parquet")
    assert rows.column_names == ["scene", "frame", "time", "track", "id", "class"]
    still = [row["track"] for row in rows.to_pylist() if row["scene"] == "still"]
    assert still == list(range(1, len(still) // 3 + 1)) * 3


def test_tracks_of_a_road_with_bridges_are_those_of_its_vehicles(bench, roads, plain_report):
    pictures, truth = roads
    found = tracked(bench, pictures)
    score = idf1(truth, found)
    assert score >= 0.9, score
    # every vehicle is hidden twice; if nothing were carried over, each would be several
    assert idf1(truth, renumbered(found, gap=0)) < 0.7


def tracked(bench, pictures):
    """Of a road by the job that is shipped: by frame the class and the mask of each track."""
    write_video(bench.inputs / "road.mkv", pictures, codec="ffv1")
    places = [f"source.paths=[{bench.inputs}]", f"store.path={bench.store}"]
    segengine.run(load_job(JOBS / "road.yaml", places))
    store = bench.open()
    here = rows_by_frame(store.table("tracks").to_pylist())
    instances = rows_by_frame(store.table("instances").to_pylist())
    found = []
    for frame in range(len(pictures)):
        own = here[frame]
        assert [row["id"] for row in own] == [row["id"] for row in instances[frame]]
        assert len({row["track"] for row in own}) == len(own)
        assert all(row["time"] == pytest.approx(frame / 25) for row in own)
        ids = store["road"].instances[frame][:HEIGHT, :WIDTH]
        found.append({row["track"]: (row["class"], ids == row["id"]) for row in own})
    return found


@pytest.mark.parametrize("speed", [1.7, 2.3, 3.2, 3.9])
def test_what_goes_behind_a_bridge_slowly_is_known_by_its_first_pixels(speed):
    """Its last looks before lack a little of its front: that does not come out before the rest."""
    tracker, seen = Tracker(iou=0.3, gap=20), set()
    for t in range(60):
        left = round(speed * t)
        masks = [np.arange(left, min(left + 38, 60)), np.arange(max(left, 100), left + 38)]
        looks = [
            Look(np.ones((9, len(m)), bool), (0.0, float(m[0])), 9 * len(m))
            for m in masks
            if m.size
        ]
        seen |= set(tracker.step(t, [(1, look) for look in looks]))
    assert seen == {1}


YY, XX = np.mgrid[:120, :320]


def a_box(top, left, high, long):
    left = round(left)
    mask = np.zeros(YY.shape, bool)
    mask[max(0, top) : top + high, max(0, left) : max(0, left + long)] = True
    return mask


def a_disk(middle, centre, radius):
    return (YY - middle) ** 2 + (XX - centre) ** 2 <= radius**2


def numbers_of(frames, scene):
    """Of each object its tracks, of masks by frame from the front to the back."""
    tracker, found = Tracker(iou=0.3, gap=20), {}
    for t in range(frames):
        free, seen = np.ones(YY.shape, bool), {}
        for name, mask in enumerate(scene(t)):
            seen[name] = mask & free
            free &= ~mask
        shown = [name for name, mask in seen.items() if name and mask.any()]
        numbers = tracker.step(t, [(1, look_of(seen[name])) for name in shown])
        for name, number in zip(shown, numbers, strict=True):
            found.setdefault(name, set()).add(number)
    return found


@pytest.mark.parametrize(("there", "back"), [(3, 3), (5, 2), (2, 6), (1, 4)])
def test_what_is_hidden_by_something_that_comes_towards_it_is_known_again(there, back):
    """Its sides come towards each other: one is its own, and goes on as before."""
    none = np.zeros(YY.shape, bool)

    def scene(t):
        return none, a_box(45, 250 - back * t, 30, 40), a_box(50, 20 + there * t, 20, 40)

    assert numbers_of(220 // max(there, back), scene) == {1: {1}, 2: {2}}


@pytest.mark.parametrize("speed", [1.7, 2.3, 3.9])
def test_a_round_thing_that_goes_behind_a_bridge_aslant_is_known_again(speed):
    """What is seen of it becomes lower on both sides, of which neither is its own."""
    bridge = a_box(0, 140, 120, 50)

    def scene(t):
        return bridge, a_disk(10 + 0.4 * speed * t, 20 + speed * t, 15)

    assert numbers_of(int(250 / speed), scene) == {1: {1}}


def test_what_goes_behind_something_a_pixel_a_frame_is_known_again():
    bridge = a_box(0, 150, 120, 30)
    assert numbers_of(110, lambda t: (bridge, a_box(50, 100 + t, 24, 24))) == {1: {1}}


def rows_by_frame(rows):
    found = {}
    for row in rows:
        found.setdefault(row["frame"], []).append(row)
    return found


def renumbered(found, gap):
    """The same objects, tracked anew."""
    tracker, again = Tracker(0.3, gap), []
    for frame, objects in enumerate(found):
        looks = [(kind, look_of(mask)) for kind, mask in objects.values()]
        numbers = tracker.step(frame, looks)
        again.append(dict(zip(numbers, objects.values(), strict=True)))
    return again


def look_of(mask):
    ys, xs = np.nonzero(mask)
    y, x = ys.min(), xs.min()
    return Look(mask[y : ys.max() + 1, x : xs.max() + 1], (int(y), int(x)), len(ys))


def test_tracks_are_mended_taken_over_made_anew_and_go(bench, roads, plain_report, monkeypatch):
    pictures, _ = roads
    monkeypatch.setattr(tracks, "GROUP", 50)  # several row groups a video
    write_video(bench.inputs / "a.mkv", pictures[:20], codec="ffv1")
    bench.run(VEHICLES, tracks=GATES, store=cut(), **QUICK)
    before = tables(bench)
    steps, job = [], {"tracks": GATES, "store": cut(), **QUICK}
    step = Tracker.step
    monkeypatch.setattr(Tracker, "step", lambda *args: steps.append(1) or step(*args))
    path = bench.store / "tables/tracks.parquet"
    for damage in (b"PAR1", None):
        path.unlink() if damage is None else path.write_bytes(damage)
        assert [d.object for d in verify(str(bench.store)).problems] == ["tables/tracks.parquet"]
        with Run(parse_job(bench.job(VEHICLES, **job)), repair=True, in_process=True) as run:
            for name in Run.STAGES:
                list(run.stage(name))
        assert tables(bench) == before
        assert not verify(str(bench.store)).problems
    assert len(steps) == 40
    # a second video: the first one's tracks are taken over
    write_video(bench.inputs / "b.mkv", pictures[20:30], codec="ffv1")
    summary = bench.run(VEHICLES, tracks=GATES, store=cut(), **QUICK)
    assert len(steps) == 50
    assert summary.computed == 1
    # another option: no mask is made anew
    summary = bench.run(VEHICLES, tracks={"gap": 0}, store=cut(), **QUICK)
    assert (summary.computed, len(steps)) == (0, 80)
    assert not (bench.store / "tables/counts.csv").exists()
    bench.run(VEHICLES, store=cut(), **QUICK)
    assert not path.exists()
    assert not verify(str(bench.store)).problems


def test_a_run_that_is_killed_while_it_publishes_leaves_the_same_tracks(
    bench, roads, plain_report, monkeypatch
):
    pictures, _ = roads
    write_video(bench.inputs / "a.mkv", pictures[:12], codec="ffv1")
    monkeypatch.setattr(tracks.Tracker, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bench.run(VEHICLES, tracks=GATES, store=cut(), **QUICK)
    monkeypatch.undo()
    assert bench.run(VEHICLES, tracks=GATES, store=cut(), **QUICK).computed == 0
    made = tables(bench)
    bench.run(VEHICLES, tracks=GATES, store=cut(path=f"{bench.store}.other"))
    other = bench.root / "masks.zarr.other/tables/tracks.parquet"
    assert other.read_bytes() == made[0]


def test_what_crosses_and_stands_is_counted_as_the_truth_has_it(bench, roads, plain_report):
    pictures, _ = roads
    write_video(bench.inputs / "a.mkv", pictures, codec="ffv1")
    bench.run(VEHICLES, tracks=GATES, store=cut(), **QUICK)
    rows = list(csv.DictReader(io.StringIO(tables(bench)[1].decode())))
    assert tuple(rows[0]) == tracks.COUNTS_COLUMNS
    store = bench.open()
    centres = {}
    for row, one in zip(
        store.table("tracks").to_pylist(), store.table("instances").to_pylist(), strict=True
    ):
        assert (row["frame"], row["id"]) == (one["frame"], one["id"])
        x, y, w, h = one["bbox"]
        at = (row["frame"], x + w / 2, y + h / 2)
        centres.setdefault((row["class"], row["track"]), []).append(at)
    name = {CAR: store.classes[CAR], TRUCK: store.classes[TRUCK]}
    for kind in (CAR, TRUCK):
        paths = [path for (k, _), path in centres.items() if k == kind]
        east = sum(a[1] < 60 <= b[1] for p in paths for a, b in itertools.pairwise(p))
        west = sum(b[1] < 60 <= a[1] for p in paths for a, b in itertools.pairwise(p))
        own = [row for row in rows if row["class"] == name[kind]]
        # down the picture along x = 60, what lies east is to the left hand
        assert sum(int(row["backward"] or 0) for row in own) == east
        assert sum(int(row["forward"] or 0) for row in own) == west
        assert east + west > 0
        stood = sum(140 <= at[1] < 208 for p in paths for at in p)
        assert sum(float(r["mean"]) * 50 for r in own if r["kind"] == "zone") == pytest.approx(
            stood
        )
    assert {float(row["start"]) for row in rows} <= {0.0, 2.0}
    page = Path(build(str(bench.store))).read_text()
    said = page[page.index("<h2>Counts</h2>") : page.index("<h2>Timings</h2>")]
    assert said.count("<svg") == 2  # the line and the zone
    crossed = [row for row in rows if row["kind"] == "line" and row["class"] == name[CAR]]
    assert f"{name[CAR]} forward {sum(int(row['forward']) for row in crossed)}" in said
    assert not (bench.store / "tables/counts.csv").read_bytes().count(b"\r")


def test_directions_and_zones_by_hand():
    counts = Counts({"gate": [(10, 0), (10, 10)]}, {"yard": [(0, 0), (8, 0), (8, 8), (0, 8)]})
    paths = {1: [(5, 5), (9, 5), (11, 5), (9, 5)], 2: [(9, 20), (11, 20), (20, 20), (20, 5)]}
    for frame in range(4):
        counts.step(frame, frame // 2, [Seen(t, 3, p[frame]) for t, p in paths.items()], gap=1)
    crossed = {key: (c.forward, c.backward) for key, c in counts.crossed.items()}
    assert crossed == {(1, "gate", 3): (1, 1)}  # to the east is backward, and past its end is none
    stood = counts.stood[0, "yard", 3]
    assert (stood.entered, stood.left, stood.sum, stood.most) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"segmenter": {"kind": "threshold"}}, r"^tracks: threshold finds no objects"),
        ({"tracks": {"iou": 0}}, r"tracks\.iou: .*greater than 0"),
        ({"tracks": {"lines": {"a": [[0, 0]]}}}, r"tracks\.lines: a needs two points"),
        ({"tracks": {"zones": {"a": [[0, 0], [1, 1]]}}}, r"tracks\.zones: a needs 3"),
        ({"tracks": {"zones": {"a": [[0, 0], [1, "x"]]}}}, r"tracks\.zones\.a\.1\.1"),
        ({"tracks": {"period": "0s"}}, r"tracks\.period: must be more than nothing"),
        ({"tracks": {"gaps": 1}}, r"tracks\.gaps: unknown key; did you mean gap"),
    ],
)
def test_a_wrong_block_is_refused_by_its_key(bench, job, words):
    write_video(bench.inputs / "a.mkv", passing(2, 48, 64), codec="ffv1")
    given = {"segmenter": VEHICLES, "tracks": {}} | job
    with pytest.raises(JobError, match=words):
        bench.run(given.pop("segmenter"), **given)


def test_what_lies_outside_of_every_frame_is_told(bench):
    write_video(bench.inputs / "a.mkv", passing(2, 48, 64), codec="ffv1")
    tracks = {
        "lines": {"gate": [[32, -9], [32, 60]], "far": [[9000, 0], [9000, 10]]},
        "zones": {"yard": [[60, 40], [90, 40], [90, 90]], "up": [[0, -9], [9, -9], [9, -1]]},
    }
    told = plan(parse_job(bench.job(VEHICLES, tracks=tracks))).notices
    assert [line.partition(", and")[0] for line in told] == [
        "tracks.lines: far lies outside of every frame, the largest of 64 x 48 pixels",
        "tracks.zones: up lies outside of every frame, the largest of 64 x 48 pixels",
    ]


def test_photos_have_no_tracks(bench):
    bench.put("a.png", np.zeros((32, 32), np.uint8))
    with pytest.raises(JobError, match=r"^tracks: source\.paths has no video"):
        bench.run(VEHICLES, tracks={})
