"""What a run says that it will do again, before it does: how many shards, why, and what that takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segengine
from segengine.commands.plan import plan as plan_job
from segengine.fingerprint import changes
from segengine.job import parse_job
from segengine.planning.plan import make_plan
from segengine.planning.redo import Redo, lines, release_notice
from segengine.runs import Run
from segengine.stages.cost import cost
from segengine.store.blobs import open_objects
from segengine.store.runs import History
from segengine.store.seals import SealedObjects

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
ONE = {"store": {"frames": 1}, "faults": {"fsync": False}}


def filled(bench: Any, noise: Any, count: int = 4) -> Any:
    for i in range(count):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    bench.run(MEAN, **ONE)
    return bench


def redo_of(bench: Any, segmenter: Any = MEAN, **blocks: Any) -> tuple[Redo, ...]:
    job = parse_job(bench.job(segmenter, **{**ONE, **blocks}))
    return make_plan(job, SealedObjects(open_objects(str(bench.store)))).redo


def test_of_a_new_store_and_of_one_that_is_done_nothing_is_done_again(bench, noise):
    bench.put("a.png", noise(1, (40, 40, 3)))
    assert redo_of(bench) == ()
    filled(bench, noise)
    assert redo_of(bench) == ()
    bench.put("late.png", noise(9, (40, 40, 3)))
    assert redo_of(bench) == ()  # new is not again


def test_each_cause_is_told_with_its_shards(bench, noise):
    filled(bench, noise)
    bench.put("1.png", noise(11, (40, 41, 3)))
    assert redo_of(bench) == (Redo(1, "inputs changed"),)
    offset = "segmenter.offset: default -> 3"
    assert redo_of(bench, {**MEAN, "offset": 3}) == (
        Redo(3, offset),
        Redo(1, f"{offset}; inputs changed"),
    )
    anew = 'frames are laid out anew: source.color: default -> "gray"'
    assert redo_of(bench, source={"color": "gray"}) == (Redo(4, anew.replace('"', "")),)


def test_a_raised_version_and_other_weights_are_causes(bench, noise, toys, monkeypatch):
    blocks = {"kind": f"{toys}:Blocks"}
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(blocks)
    kind = type(segengine.create_segmenter(blocks))
    monkeypatch.setattr(kind, "version", 2)
    assert redo_of(bench, blocks) == (Redo(1, "segmenter version: 1 -> 2"),)
    monkeypatch.setattr(kind, "version", 1)
    monkeypatch.setattr(kind, "weights", "another", raising=False)
    assert redo_of(bench, blocks) == (Redo(1, "the weights changed"),)


def test_a_fit_that_is_made_again_is_a_cause(bench, noise):
    bench.put("a.png", noise(1, (40, 40, 3)))
    clusters = {"kind": "kmeans", "clusters": 2, "scope": "run"}
    bench.run(clusters)
    job = parse_job(bench.job(clusters))
    objects = SealedObjects(open_objects(str(bench.store)))
    assert make_plan(job, objects, refit=True).redo == (Redo(1, "the fit is made again"),)


def test_a_mended_shard_is_a_cause(bench, noise):
    filled(bench, noise)
    job = parse_job(bench.job(MEAN, **ONE))
    objects = SealedObjects(open_objects(str(bench.store)))
    found = make_plan(job, objects, repair=frozenset({("256x256-uint8-3", (2, 0, 0))}))
    assert found.redo == (Redo(1, "stored bytes are not those of their record"),)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=st.sets(st.integers(0, 3)), new=st.integers(0, 2), offset=st.sampled_from([0, 5]))
def test_what_is_told_is_what_a_run_does(new_bench, noise, changed, new, offset):
    bench = filled(new_bench(), noise)
    for i in changed:
        bench.put(f"{i}.png", noise(20 + i, (39, 40, 3)))
    for i in range(new):
        bench.put(f"new{i}.png", noise(30 + i, (40, 40, 3)))
    segmenter = {**MEAN, "offset": offset}
    told = sum(redo.shards for redo in redo_of(bench, segmenter))
    assert told == (4 if offset else len(changed))
    assert bench.run(segmenter, **ONE).computed == told + new


# ------------------------------------------------------------------------------------- how it is said


def test_scenes_are_named_and_then_counted(bench, noise):
    for i, side in enumerate((40, 300, 600, 900, 1200, 1500, 1800)):
        bench.put(f"{i}.png", noise(i, (8, side, 3)))
    bench.run(MEAN, **ONE)
    bench.put("1.png", noise(11, (8, 300, 3)))
    objects = SealedObjects(open_objects(str(bench.store)))
    one = make_plan(parse_job(bench.job(MEAN, **ONE)), objects).notices
    assert one[0].endswith("done again: inputs or the fit changed (scene 256x512-uint8-3)")
    every = make_plan(parse_job(bench.job({**MEAN, "offset": 3}, **ONE)), objects).notices
    first = "256x1024-uint8-3, 256x1280-uint8-3, 256x1536-uint8-3"
    assert f" (7 scenes: {first}" in every[0]
    assert every[0].endswith(" more)")


def test_an_area_is_told_in_words_and_not_by_its_mark():
    one, other = {"source.area": "00ff00ff00ff00ff"}, {"source.area": "11ff00ff00ff00ff"}
    assert changes(one, other) == ["source.area: another area"]
    assert changes({}, one) == ["source.area: none -> an area"]
    assert changes(one, {}) == ["source.area: an area -> none"]
    assert changes(one, one) == []


def test_a_run_says_the_reasons_and_the_cost_before_any_shard(bench, noise):
    filled(bench, noise)
    bench.put("1.png", noise(11, (40, 41, 3)))
    with Run(parse_job(bench.job({**MEAN, "offset": 3}, **ONE)), in_process=True) as run:
        list(run.stage("plan"))
        told = run.notices()
        assert run.counts.computed == 0
    assert told[0] == (
        "4 of 4 shards are stale and will be done again: segmenter.offset: default -> 3 "
        "(scene 256x256-uint8-3)"
    )
    assert told[1].startswith("  3 shards again: ")
    assert told[2].startswith("  1 shard again: ")
    assert told[3].startswith("cost: 4 shards again, about ")
    assert told[3].endswith(" s by the runs before")


def test_a_run_with_nothing_to_do_again_says_no_cost(bench, noise):
    filled(bench, noise)
    bench.put("late.png", noise(9, (40, 40, 3)))
    assert not [line for line in bench.run(MEAN, **ONE).messages if "again" in line]


def test_plan_tells_it_too(bench, noise):
    filled(bench, noise)
    found = plan_job(parse_job(bench.job({**MEAN, "offset": 3}, **ONE)))
    reason = "segmenter.offset: default -> 3"
    assert found.as_json()["redo"] == [{"shards": 4, "reason": reason}]
    assert any(reason in line for line in found.lines())


def test_one_reason_is_said_once():
    assert list(lines([Redo(4, "inputs changed")])) == []
    anew = Redo(2, "frames are laid out anew: source.every: default -> 2")
    assert list(lines([anew])) == [f"  2 shards again: {anew.reason}"]


def test_another_release_is_named_with_what_becomes_of_its_masks(bench, noise, monkeypatch):
    assert list(release_notice([], "2.0", "2.0")) == list(release_notice([], "2.0", "")) == []
    (line,) = release_notice([Redo(2, "segmenter version: 1 -> 2")], "2.0", "1.0")
    assert line == "the last run was of segengine 1.0, this is 2.0: 2 shards of it again, as told"
    filled(bench, noise)
    for place in ("segengine.runs", "segengine.commands.plan"):
        monkeypatch.setattr(f"{place}.version", lambda name: "99.0")
    said = "this is 99.0: its masks stay"
    with Run(parse_job(bench.job(MEAN, **ONE)), in_process=True) as run:
        list(run.stage("plan"))
        assert any(said in line for line in run.notices())
    notices = plan_job(parse_job(bench.job(MEAN, **ONE))).notices
    assert any(said in line for line in notices)


# ------------------------------------------------------------------------------------------- its cost


def history(*rows: dict[str, float]) -> History:
    found = History(History.read(SealedObjects(open_objects("/nonexistent"))).table)
    blank: dict[str, Any] = {
        "run": "r", "version": "1", "started": 0.0, "seconds": 1.0, "exit_code": 0, "left": 0,
        "shards": 100, "pixels": 1, "rate": 1.0, "frames.done": 1, "frames.failed": 0,
        "frames.left": 0, "frames.gone": 0,
    }  # fmt: skip
    for row in rows:
        found = found.with_row({**blank, **row})
    return found


def test_the_cost_is_that_of_the_run_that_labelled_most(bench, noise):
    filled(bench, noise)
    job = parse_job(bench.job({**MEAN, "offset": 3}, **ONE))
    plan = make_plan(job, SealedObjects(open_objects(str(bench.store))))
    runs = history(
        {"computed": 100, "seconds.segment": 180.0, "seconds.survey": 20.0, "seconds.publish": 3.0},
        {"computed": 2, "seconds.segment": 30.0, "seconds.publish": 3.0},
        {"computed": 0, "seconds.segment": 0.0, "seconds.publish": 1.0},
    )
    assert cost(plan, runs) == "cost: 4 shards again, about 11 s by the runs before"  # 4 x 2 + 3


def test_without_rows_of_runs_the_records_tell_the_cost(bench, noise):
    filled(bench, noise)
    job = parse_job(bench.job({**MEAN, "offset": 3}, **ONE))
    objects = SealedObjects(open_objects(str(bench.store)))
    plan = make_plan(job, objects)
    assert cost(plan, history()).startswith("cost: 4 shards again, about 1 s")
    (bench.store / "metrics.json").unlink()
    assert cost(plan, history()) == "cost: 4 shards again; no run has measured how long one takes"
