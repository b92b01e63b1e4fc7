"""The page as a whole: how large it is, what it says of changes, how it prints and who can use it."""

import datetime
import io
import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import segengine
from segengine.report import MOST_BYTES, _charts, _content, _gallery, _since, build
from segengine.store.blobs import open_objects
from segengine.store.seals import SealedObjects
from tests.segengine.report._page import Page, run

CLUSTERS = {"kind": "kmeans", "clusters": 4, "scope": "frame"}


def photo(path: Path, seed: int, shape=(48, 64)) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 90, (*shape, 3)).astype(np.uint8)
    image[shape[0] // 4 : shape[0] // 2] += 140
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Three nights: three photos; two more, and a file that is none; one replaced, one gone."""
    folder = tmp_path_factory.mktemp("nights")
    (folder / "in").mkdir()
    alerts = [{"figure": "frames.done", "above": 4}]

    def night():
        return run(folder, {"kind": "threshold"}, alerts=alerts)

    for i in range(3):
        photo(folder / "in" / f"{i}.png", i)
    night()
    for i in range(3, 5):
        photo(folder / "in" / f"{i}.png", i)
    (folder / "in" / "none.png").write_bytes(b"none")
    night()
    photo(folder / "in" / "0.png", 10, (48, 64))
    (folder / "in" / "2.png").unlink()
    return night()


# ------------------------------------------------------------------------------------------- size


def test_pictures_of_noise_and_many_clusters_stay_below_three_megabytes(tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(1)
    for i in range(14):
        noise = rng.integers(0, 256, (512, 512, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{i:02d}.png")
    path = Path(build(run(tmp_path, CLUSTERS)))
    assert path.stat().st_size < 3_000_000
    page = Page(str(path))
    cards = [a for tag, a in page.tags if a.get("class") == "card"]
    assert len(cards) == _gallery.FRAMES
    small, large = page.pictures()[0].shape, (512, 512, 3)
    assert small < large  # halved
    widths = {a["width"] for tag, a in page.tags if tag == "img"}
    assert widths == {"512"}  # and shown as large as ever


def test_a_page_of_much_text_leaves_less_room_for_pictures(nights, monkeypatch):
    rooms = []
    monkeypatch.setattr(_content._gallery, "gallery", lambda *args: rooms.append(args[-1]) or [])
    build(nights)
    monkeypatch.setattr(_content, "job_text", lambda job: "x" * 1_000_000)
    build(nights)
    assert rooms[0] - rooms[1] == pytest.approx(1_000_000, abs=2000)
    assert rooms[0] < MOST_BYTES


def test_of_thousands_in_quarantine_the_first_are_listed_and_all_are_counted(tmp_path):
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "a.png", 1)
    for i in range(1200):
        (tmp_path / "in" / f"{i:04d}.png").write_bytes(b"none")
    store = run(tmp_path, {"kind": "threshold"}, faults={"max_quarantined": 1.0})
    page = Page(build(store))
    assert "1,200 frames could not be labelled and are void" in page.words
    assert "The first 1,000; segengine status names all" in page.words
    assert page.text.count("corrupt") == 1 + 1000


# ---------------------------------------------------------------------------------------- changes


def test_the_page_says_what_changed_since_the_run_before(nights):
    page = Page(build(nights))
    changes = page.words.partition("Since the run before")[2].partition("All that are done")[0]
    # 0.png is in the shard of 1.png and 2.png: it was done again
    assert "1 shard with 3 frames in 1 scene were worked on" in changes
    assert "frames done 4 5 -1" in changes
    assert "frames in quarantine 1 1 ±0" in changes
    assert "frames whose input has vanished 1 0 +1" in changes
    assert "0.png done" in changes
    assert "3.png" not in changes.partition("Frames worked on")[2]


def test_an_alert_of_the_last_run_alone_is_told(nights):
    runs = segengine.open_store(nights).runs
    fired = [row["alerts"] != [] for row in runs.to_pylist()]
    assert fired == [False, True, False]
    assert "alert" not in Page(build(nights)).words.partition("What was asked")[0]
    found = _since.last_run(runs.slice(0, 2))
    assert [alert["figure"] for alert in found["alerts"]] == ["frames.done"]


def test_class_areas_change_by_the_difference_of_two_runs(nights):
    runs = segengine.open_store(nights).runs
    before, now = runs.to_pylist()[-2:]
    found = _since.area_changes(runs)
    assert found == {
        name: now[f"area.{name}"] - before[f"area.{name}"]
        for name in ("background", "object", "void")
    }
    assert found["object"]
    assert f"{found['object']:+,}" in Page(build(nights)).text
    assert _since.area_changes(runs.slice(0, 1)) == {}


def test_each_stage_has_its_time_and_that_of_the_run_before(nights):
    rows = _since.last_run(segengine.open_store(nights).runs)["stages"]
    assert [row["name"] for row in rows] == [*segengine.runs.Run.STAGES]
    assert max(row["share"] for row in rows) == 1
    assert all(row["old"] is not None for row in rows)
    words = Page(build(nights)).words.partition("Timings")[2]
    assert all(row["name"] in words for row in rows)


def test_of_the_first_run_nothing_is_compared(tmp_path):
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "a.png", 1)
    page = Page(build(run(tmp_path, {"kind": "threshold"})))
    assert "The first run" in page.words
    assert "before" not in page.words.partition("The first run")[2].partition("Provenance")[0]


def test_a_store_without_rows_of_runs_has_a_page(nights, tmp_path):
    path = tmp_path / "old.zarr"
    shutil.copytree(nights, path)
    (path / "tables" / "runs.parquet").unlink()
    shutil.rmtree(path / "records" / "+copies", ignore_errors=True)
    assert "Since the run before" not in Page(build(str(path))).words


# ----------------------------------------------------------------------------- print, dates, people


def test_the_page_prints_on_a4_in_light_colours_and_knows_the_dark(nights):
    style = Page(build(nights)).source.partition("<style>")[2].partition("</style>")[0]
    assert "@page { size: A4;" in style
    assert "@media print" in style
    assert "@media screen and (prefers-color-scheme: dark)" in style


def test_dates_are_iso_8601_in_utc(nights):
    page = Page(build(nights))
    stamps = [a["datetime"] for tag, a in page.tags if tag == "time"]
    assert len(stamps) >= 4
    for stamp in stamps:
        when = datetime.datetime.fromisoformat(stamp)
        assert when.utcoffset() == datetime.timedelta(0)
        assert abs(when.timestamp() - time.time()) < 3600
        assert stamp.replace("T", " ").replace("Z", " UTC") in page.text


def test_everybody_can_use_the_page(nights):
    page = Page(build(nights))
    by_tag = {}
    for tag, attributes in page.tags:
        by_tag.setdefault(tag, []).append(attributes)
    assert by_tag["html"] == [{"lang": "en"}]
    assert len(by_tag["h1"]) == len(by_tag["main"]) == len(by_tag["title"]) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(a["alt"] for a in by_tag["img"])
    assert all(a.get("role") == "img" and a["aria-label"] for a in by_tag["svg"])
    (slider,) = (a for a in by_tag["input"] if a["type"] == "range")
    assert slider["aria-label"]
    tables = [a for tag, a in page.tags if a.get("class") == "scroll"]
    assert len(tables) == len(by_tag["table"])
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in tables)
    assert all(a.get("scope") in ("row", "col") for a in by_tag["th"])
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in by_tag["a"]} <= {f"#{name}" for name in ids}


@given(st.floats(1e-9, 1e15))
def test_ticks_are_few_round_and_evenly_apart(top):
    found = _charts.ticks(top)
    assert 1 <= len(found) <= 5
    assert max(found) <= top * (1 + 1e-6)
    step = found[0]
    assert f"{step:.0e}"[0] in "125"
    assert float(f"{step:.0e}") == pytest.approx(step, rel=1e-9)
    assert np.allclose(np.diff([0.0, *found]), step, rtol=1e-4)
    assert top - max(found) < step * (1 + 1e-6)


# ---------------------------------------------------------------------------------------- pictures


def test_frames_of_a_far_store_are_read_several_at_once(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for i in range(12):
        photo(tmp_path / "in" / f"{i:02d}.png", i)
    store = run(tmp_path, {"kind": "threshold"})
    near = Page(build(store)).pictures()
    together, look = threading.Barrier(3, timeout=20), _gallery.look
    monkeypatch.setattr(_gallery, "is_far", lambda root: True)
    monkeypatch.setattr(_gallery, "look", lambda *a, **k: (together.wait(), look(*a, **k))[1])
    far = Page(build(store)).pictures()
    assert len(near) == len(far) == 24
    assert all(map(np.array_equal, near, far))


def test_frames_stand_below_their_scenes_unless_each_has_its_own():
    cards = [{"scene": scene, "name": name} for scene, name in ("b1", "a2", "b3")]
    assert [(s, [c["name"] for c in g]) for s, g in _gallery.by_scene(cards)] == [
        ("b", ["1", "3"]),
        ("a", ["2"]),
    ]
    assert _gallery.by_scene(cards[:2]) == [("", cards[:2])]
    assert _gallery.by_scene([]) == []


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store of 10,000 scenes, with figures of each."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "in").mkdir()
    photo(folder / "in" / "a.png", 1)
    path = run(folder, {"kind": "threshold"})
    store, objects = segengine.open_store(path), SealedObjects(open_objects(path), heals=True)
    first, names = store.frames.to_pylist(), [f"scene{i:05}" for i in range(10_000)]
    (own,) = store.metrics["scenes"].values()
    metrics = {**store.metrics, "scenes": dict.fromkeys(names, own)}
    objects.open(["metrics.json", "tables/frames.parquet", "tables/shards.parquet"])
    objects.put("metrics.json", json.dumps(metrics).encode())
    for name, table in (("frames", store.frames), ("shards", store.shards)):
        many = pa.concat_tables([table] * len(names))
        sink = io.BytesIO()
        pq.write_table(many.set_column(0, "scene", pa.array(names, pa.string())), sink)
        objects.put(f"tables/{name}.parquet", sink.getvalue())
    objects.commit("published")
    with pytest.MonkeyPatch.context() as patch:  # the one scene that has a mask
        patch.setattr(_gallery, "_chosen", lambda metrics, frames: first * 12)
        return build(path)


def chromium(*words: str) -> subprocess.CompletedProcess[str]:
    fixed = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--proxy-server=127.0.0.1:9",
    ]
    return subprocess.run([*fixed, *words], check=True, capture_output=True, text=True, timeout=300)


@pytest.mark.browser
def test_ten_thousand_scenes_open_in_two_seconds(many, tmp_path):
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>nothing</title>")

    def seconds(page):
        begun = time.perf_counter()
        found = chromium("--dump-dom", f"file://{page}").stdout
        return time.perf_counter() - begun, found

    alone = min(seconds(blank)[0] for _ in range(2))  # the browser's own start
    took, found = min(seconds(many) for _ in range(3))
    assert found.count("<tr>") > 500
    assert 'class="tools">' in found  # the script ran
    assert Path(many).stat().st_size < 3_000_000
    assert took - alone < 2


@pytest.mark.browser
def test_the_page_prints_on_sheets_of_a4(nights, tmp_path):
    out = tmp_path / "report.pdf"
    chromium(f"--print-to-pdf={out}", f"file://{build(nights)}")
    boxes = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", out.read_bytes())
    assert boxes
    for width, height in boxes:
        assert (float(width), float(height)) == pytest.approx((595.3, 841.9), abs=1)
