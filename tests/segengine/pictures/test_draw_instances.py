"""Instances in pictures: where they are drawn, what is on top, what is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segengine.commands.show import show
from segengine.pictures import draw, objects
from segengine.pictures.draw import Drawn, instance_color, instances
from segengine.pictures.objects import pictured
from segengine.pictures.view import look
from segengine.report._gallery import gallery

COMPONENTS = {"kind": "threshold", "method": "fixed", "levels": 128, "instances": "components"}
GRAY = np.full((200, 300, 3), 100, np.uint8)


def disc(number: int, text: str, y: int, x: int, side: int) -> Drawn:
    at = np.mgrid[:side, :side] - (side - 1) / 2
    mask = (at**2).sum(axis=0) < (side / 2) ** 2
    return Drawn(number, text, (x, y, side, side), mask, (y, x))


def test_masks_are_tinted_and_outlined_and_nothing_else_is_touched() -> None:
    one = disc(3, "", 60, 80, 90)
    found = instances(GRAY, [one], opacity=0.5).astype(int)
    color = np.array(instance_color(3))
    np.testing.assert_allclose(found[105, 125], (color + 100) / 2, atol=1)
    edge = 80 + np.flatnonzero(one.mask[45])[0]
    np.testing.assert_array_equal(found[105, edge], color)
    np.testing.assert_array_equal(found[60, 80:170], np.broadcast_to(color, (90, 3)))  # its box
    changed = (found != 100).any(axis=-1)
    changed[60:150, 80:170] = False
    assert not changed.any()


def test_the_last_is_on_top() -> None:
    a, b = disc(1, "", 50, 50, 80), disc(2, "", 70, 70, 80)
    found = instances(GRAY, [a, b], opacity=1.0)
    assert tuple(found[100, 100]) == instance_color(2)
    assert tuple(instances(GRAY, [b, a], opacity=1.0)[100, 100]) == instance_color(1)


def test_names_are_written_where_there_is_room() -> None:
    def inked(one: Drawn) -> Any:
        unnamed = instances(GRAY, [dataclasses.replace(one, text="")])
        return np.argwhere((instances(GRAY, [one]) != unnamed).any(axis=-1))

    above = inked(disc(1, "cat 0.90", 60, 80, 90))
    assert above[:, 0].min() >= 43
    assert above[:, 0].max() < 61
    inside = inked(disc(1, "cat 0.90", 5, 80, 90))
    assert 5 <= inside[:, 0].min() < inside[:, 0].max() < 24
    assert len(inked(disc(1, "cat 0.90", 60, 80, 12))) == 0
    right = inked(disc(1, "a long name 0.90", 60, 255, 45))
    assert right[:, 1].max() < 300


def test_small_pictures_are_enlarged_before_anything_is_written() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    one = disc(1, "cat", 4, 6, 12)
    found = instances(image, [one], least=300, opacity=1.0)
    assert found.shape == (200, 300, 3)
    assert tuple(found[100, 120]) == instance_color(1)


def test_colors_of_neighbours_differ() -> None:
    colors = np.array([instance_color(n) for n in range(1, 200)])
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 100


@pytest.fixture(scope="module")
def store(new_bench: Any) -> Any:
    """A photo with three bright boxes."""
    bench = new_bench()
    image = np.zeros((700, 900, 3), np.uint8)
    image[100:300, 100:400] = image[400:600, 500:880] = image[350:353, 20:23] = 200
    bench.put("a.png", image)
    bench.run(COMPONENTS, store={"shard": 256})
    return bench


def test_a_view_shows_the_instances_of_its_window(store: Any) -> None:
    (scene,) = store.open().scenes.values()
    shown = pictured(store.open(), [(scene.name, 0)])
    whole = look(scene, 0, 512)
    assert whole.step == 2
    drawn = {d.number: d for d in shown.of(scene, 0, whole)}
    assert [drawn[i].box for i in (1, 2, 3)] == [
        (50, 50, 150, 100),
        (10, 175, 1.5, 1.5),
        (250, 200, 190, 100),
    ]
    for d in drawn.values():
        y, x = d.corner
        part = np.zeros(whole.labels.shape, bool)
        part[y : y + d.mask.shape[0], x : x + d.mask.shape[1]] = d.mask
        assert (whole.labels[part] == 1).all()
    assert sum(d.mask.sum() for d in drawn.values()) == (whole.labels == 1).sum()
    assert {d.text for d in drawn.values()} == {"object"}  # without scores that say nothing


def test_the_largest_of_a_view_are_drawn(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MOST", 2)
    (scene,) = store.open().scenes.values()
    shown = pictured(store.open(), [(scene.name, 0)])
    assert [d.number for d in shown.of(scene, 0, look(scene, 0, 512))] == [3, 1]
    assert pictured(store.open(), [(scene.name, 1)]).of(scene, 0, look(scene, 0, 512)) == []


def test_show_and_the_gallery_have_a_picture_of_instances(store: Any, tmp_path: Path) -> None:
    opened = store.open()
    (scene,) = opened.scenes.values()
    view = look(scene, 0, 1024)
    found = pictured(opened, [(scene.name, 0)]).of(scene, 0, view)
    wanted = instances(view.image, found)
    sheet = np.asarray(Image.open(show(str(store.store), out=str(tmp_path / "a.png"))))
    left = 12 + 2 * (900 + 12)
    np.testing.assert_array_equal(sheet[38 : 38 + 700, left : left + 900], wanted)
    (card,) = gallery(opened, opened.frames, None, 1_000_000)
    assert [layer["title"] for layer in card["layers"]] == ["image", "mask", "instances"]
    assert draw.encode_png(wanted).startswith(b"\x89PNG")
