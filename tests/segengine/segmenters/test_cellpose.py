"""Cellpose's head: its published steps written again with SciPy, and objects whose flows are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

import segengine
from segengine import asked
from segengine.segmenters import _cellflows
from segengine.segmenters._cellflows import consistent
from segengine.segmenters._cellpose import masks, objects
from segengine.segmenters.ensemble import create as ensemble
from segengine.segmenters.model import create
from tests.segengine.segmenters import finders

Array = np.ndarray[Any, Any]


def followed(flows: Array, inside: Array) -> Array:
    """(n, 2) where pixels end: `steps_interp` of version 4, whose `grid_sample` has its corners so."""
    size = np.array(inside.shape, float)
    field = np.where(inside, flows / 5, 0)
    at = np.stack(np.nonzero(inside), 1).astype(float)
    for _ in range(200):
        there = (at * size / (size - 1) - 0.5).T
        at += np.stack([map_coordinates(f, there, order=1, mode="grid-constant") for f in field], 1)
        at = np.clip(at, 0, size - 1)
    return at.astype(int)


def grown(ends: Array, inside: Array) -> Array:
    """`get_masks_torch`, pixel by pixel: seeds by ascending count grow over bins of more than two."""
    counts: dict[tuple[int, int], int] = {}
    for y, x in ends.tolist():
        counts[y, x] = counts.get((y, x), 0) + 1
    around = [(a, b) for a in range(-2, 3) for b in range(-2, 3)]
    seeds = [
        (n, p)
        for p, n in sorted(counts.items())
        if n > 10 and all(counts.get((p[0] + a, p[1] + b), 0) <= n for a, b in around)
    ]
    owner: dict[tuple[int, int], int] = {}
    for number, (_, seed) in enumerate(sorted(seeds, key=lambda s: s[0]), 1):
        part = {seed}
        for _ in range(5):
            near = {(y + a, x + b) for y, x in part for a in (-1, 0, 1) for b in (-1, 0, 1)}
            part = {p for p in near if counts.get(p, 0) > 2}
        owner |= dict.fromkeys(part, number)
    ids = np.zeros(inside.shape, int)
    ids[inside] = [owner.get((y, x), 0) for y, x in ends.tolist()]
    for number in np.unique(ids[ids > 0]):
        if (ids == number).sum() > 0.4 * ids.size:
            ids[ids == number] = 0
    return ids


@pytest.mark.parametrize("seed", range(3))
def test_pixels_go_where_the_published_steps_lead(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (70, 85)
    hills = gaussian_filter(rng.normal(size=size), 5)
    flows = np.stack(np.gradient(hills))
    flows = (5 * flows / np.maximum(np.hypot(*flows), 1e-9)).astype(np.float32)
    inside = hills > np.quantile(hills, 0.4)
    wanted = grown(followed(flows, inside), inside)
    found = masks(flows, inside)
    assert len(np.unique(wanted)) > 4
    # an end that lies on the border of two bins may fall into either
    same = 0
    for number in np.unique(wanted[wanted > 0]):
        values, counts = np.unique(found[wanted == number], return_counts=True)
        same += counts[values > 0].max(initial=0)
    assert same >= 0.99 * (wanted > 0).sum()
    assert abs(int((found > 0).sum()) - int((wanted > 0).sum())) <= 0.01 * inside.sum()


def flow_errors(ids: Array, flows: Array) -> dict[int, float]:
    """`flow_error` and `masks_to_flows_gpu` of version 4 in whole arrays: all objects at once."""
    own = np.pad(ids, 1)
    moves = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    heat = np.zeros(own.shape)
    numbers = [int(n) for n in np.unique(ids) if n]
    middles, sides = [], []
    for number in numbers:
        at = np.argwhere(own == number)
        # halves go to the even number, counted from the object's first row and column
        mean = at.min(axis=0) + np.round((at - at.min(axis=0)).mean(axis=0))
        middles.append(tuple(at[((at - mean) ** 2).sum(axis=1).argmin()]))
        sides.append(int((np.ptp(at, axis=0) + 1).sum()) + 2)
    for _ in range(2 * max(sides)):
        heat[tuple(np.transpose(middles))] += 1
        terms = [np.roll(heat, (-a, -b), (0, 1)) for a, b in moves]
        same = [np.roll(own, (-a, -b), (0, 1)) == own for a, b in moves]
        heat = np.where(own, sum(t * s for t, s in zip(terms, same, strict=True)) / 9, 0)
    led = np.stack([np.roll(heat, -1, axis) - np.roll(heat, 1, axis) for axis in (0, 1)])
    led = (led / (1e-60 + np.hypot(*led)))[:, 1:-1, 1:-1]
    away = ((led - flows / 5) ** 2).sum(axis=0)
    return {number: float(away[ids == number].mean()) for number in numbers}


def test_objects_go_whose_flows_are_not_those_of_their_shape() -> None:
    """As the published steps decide, of blobs that touch, one that bends around its middle, and a gap."""
    rng = np.random.default_rng(4)
    ids = np.zeros((60, 70), np.int32)
    y, x = np.mgrid[:60, :70]
    for number, (cy, cx, radius) in enumerate([(12, 12, 9), (14, 28, 8), (40, 20, 13)], 1):
        ids[np.hypot(y - cy, x - cx) <= radius] = number
    ids[35:58, 45:68], ids[41:58, 51:62] = 5, 0
    ids[3:13, 45:57], ids[44:57, 1:7] = 6, 7
    flows = 5 * np.stack([np.sin(y / 9), np.cos(x / 7)]) + 3 * rng.normal(size=(2, 60, 70))
    flows = flows.astype(np.float32)
    wanted = flow_errors(ids, flows)
    assert len(wanted) == 6
    for threshold in [t + d for t in wanted.values() for d in (-1e-9, 1e-9)]:
        stays = [number for number, error in wanted.items() if error <= threshold]
        found = consistent(ids, flows, threshold)
        np.testing.assert_array_equal(found, np.where(np.isin(ids, stays), ids, 0))
    assert not consistent(np.zeros((9, 9), np.int32), flows[:, :9, :9], 0.4).any()


def test_an_object_that_would_take_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a large one small ones do not count for all of its steps: their heat is steady soon."""
    ids = np.zeros((80, 90), np.int32)
    ids[2:62, 2:72], ids[70:74, 80:85] = 1, 2
    flows = np.zeros((2, 80, 90), np.float32)
    work = 60 * 70 * 264 + 4 * 5 * 11 * 4**2
    monkeypatch.setattr(_cellflows, "_MOST", work)
    consistent(ids, flows, 0.4)
    monkeypatch.setattr(_cellflows, "_MOST", work - 1)
    with pytest.raises(ValueError, match=r"an object of 70 x 60 pixels, .* 264 steps .* flow_thr"):
        consistent(ids, flows, 0.4)


def test_what_lies_in_a_hole_goes_to_the_object_around_it() -> None:
    """As the package fills: ids in the order of their first pixels, small ones gone before."""
    ids = np.zeros((20, 30), np.int32)
    ids[1:13, 1:13] = 7
    ids[3:10, 3:10] = 2
    ids[5:7, 5:7] = 0
    ids[15:17, 2:6] = 5
    ids[15:19, 20:24] = 3
    found = objects(ids, np.full(ids.shape, 0.9))
    assert [(one.corner, int(one.mask.sum())) for one in found] == [((1, 1), 144), ((15, 20), 16)]


def test_outputs_that_are_not_read_are_told(tmp_path: Path) -> None:
    """Without its head the file looks like a network that labels pixels."""
    path = finders.disc_cells(tmp_path / "c.onnx")
    (line,) = asked.remarks(create(path), ())
    assert line.startswith(
        "head: of the model's outputs output alone is read, as labels of pixels,"
    )
    assert list(asked.remarks(create(path, augment="flips"), ())) == [line]
    twice = ensemble([{"kind": "model", "path": path}] * 2)
    assert list(asked.remarks(twice, ())) == [f"members[{i}].{line}" for i in (0, 1)]
    assert not list(asked.remarks(create(path, outputs="output"), ()))
    assert not list(asked.remarks(create(path, head="logits"), ()))
    cells = create(path, head="cellpose", scale={"divide": 255})
    assert not list(asked.remarks(cells, ()))


def test_discs_are_told_apart_and_scored(tmp_path: Path) -> None:
    """A whole frame by percentiles; those that touch are two."""
    picture, ids = finders.discs(3, (90, 120), 12, apart=2 * finders.RADIUS + 1)
    path = finders.disc_cells(tmp_path / "c.onnx")
    found = segengine.predict(
        picture,
        create(path, head="cellpose", classes=["cell"], scale={"divide": 255}, flow_threshold=0),
    )
    np.testing.assert_array_equal(found.instances, ids)
    scores = found.objects.column("score").to_numpy()
    assert ((scores > 0.9) & (scores <= 1)).all()
    percent = segengine.predict(picture, create(path, head="cellpose", flow_threshold=0))
    np.testing.assert_array_equal(percent.instances > 0, ids > 0)
    strict = create(path, head="cellpose", scale={"divide": 255}, flow_threshold=1e-3)
    assert segengine.predict(picture, strict).objects.num_rows == 0
    assert asked.version(strict) == 2
    every = create(path, head="cellpose", scale={"divide": 255}, min_score=1)
    assert segengine.predict(picture, every).objects.num_rows == 0


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    path = finders.disc_cells(tmp_path / "c.onnx")
    for options, said in (
        ({"duplicates": 0.5}, r"^duplicates: no two objects of head cellpose overlap"),
        ({"window": 64}, r"^scale: head cellpose takes values by the percentiles"),
        ({"flow_threshold": -1}, r"^flow_threshold: must be a number from 0 on, or null, not -1"),
        ({"flow_threshold": True}, r"^flow_threshold: must be"),
        ({"flow_threshold": np.inf}, r"^flow_threshold: must be"),
        ({"head": "logits", "flow_threshold": 1}, r"^flow_threshold: belongs to head cellpose"),
        ({"layout": "nhwc"}, r"^head: cellpose takes \(1, band, y, x\)|^bands: "),
    ):
        with pytest.raises(ValueError, match=said):
            create(path, **{"head": "cellpose"} | options)  # type: ignore[arg-type]
    for off in (0, None):
        made = create(path, head="cellpose", flow_threshold=off)
        assert made.head.flow_threshold == 0  # type: ignore[union-attr]
