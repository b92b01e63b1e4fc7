"""What a notebook shows of a store: a picture that is the mask, and text that is never markup."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

import segengine
from segengine.notebook import SIDE, Figures
from segengine.reader import Store

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "in").mkdir()
    pixels = np.zeros((300, 520), np.uint8)
    pixels[40:200, 100:400] = 200
    assert cv2.imwrite(str(tmp_path / "in/a&b.png"), pixels)
    (tmp_path / "truth").mkdir()
    assert cv2.imwrite(str(tmp_path / "truth/a&b.png"), (pixels > 0).astype(np.uint8))
    segengine.run(
        {
            "name": "shown",
            "source": {"paths": [str(tmp_path / "in/*.png")]},
            "truth": {"paths": [str(tmp_path / "truth/{stem}.png")], "classes": ["no", EVIL]},
            "segmenter": {"kind": "threshold", "method": "otsu"},
            "store": {"path": str(tmp_path / "out")},
        }
    )
    return segengine.open_store(tmp_path / "out")


class Tags(HTMLParser):
    """Tags and the pictures of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.pictures: list[bytes] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            source = dict(attrs)["src"] or ""
            self.pictures.append(base64.b64decode(source.removeprefix("data:image/png;base64,")))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_scene_is_its_mask_in_colours(store: Store) -> None:
    (scene,) = store.scenes.values()
    html = scene._repr_html_()
    (png,) = Tags(html).pictures
    shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]]
    labels = scene.mask_of("a&b.png")[::3, ::3]
    assert max(shown.shape) <= SIDE
    np.testing.assert_array_equal(shown[..., :3], scene.colors()[labels])
    assert (shown[..., 3] == 255).all()
    assert "a&amp;b.png" in html
    assert repr(scene) == "<scene 512x768-uint8-1: 1 frame of 512 x 768>"


def test_a_store_and_its_figures(store: Store) -> None:
    html = store._repr_html_()
    assert Tags(html).tags == {"div", "table", "tr", "th", "td", "img", "span"}
    assert "mean_iou" in html
    assert re.search(r"<td>object</td><td>48,000</td>", html)
    assert repr(store).endswith("out: 1 scene, 2 classes>")
    figures = store.metrics
    assert isinstance(figures, dict)
    assert f"mean_iou: {figures['overall']['mean_iou']:.4g}" in repr(figures)


def test_names_are_text(store: Store) -> None:
    figures = Figures(overall={EVIL: 1.0, "classes": {EVIL: {EVIL: 2}}}, areas={EVIL: None})
    html = figures._repr_html_()
    assert "script" not in Tags(html).tags
    assert "&lt;script&gt;" in html


def test_a_store_without_figures_or_a_readable_mask_is_shown_too(store: Store) -> None:
    (scene,) = store.scenes.values()
    for shard in Path(store.path).glob("scenes/*/mask/*/c/**/*"):
        if shard.is_file():
            shard.write_bytes(b"gone")
    (Path(store.path) / "metrics.json").unlink()
    fresh = segengine.open_store(store.path)
    assert Tags(fresh._repr_html_()).pictures == []
    assert scene.name in fresh._repr_html_()
    assert "none; give the job truth" in repr(fresh.metrics)
