"""What the engine asks of plug-ins: in typed protocols, and nowhere but in `segengine.asked`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine import asked, registry, types
from segengine.errors import JobError
from segengine.guards.parts import Parts

ENGINE = Path(types.__file__).parent
PARTS = {
    name
    for whole in (types.SegmenterParts, types.SourceParts, types.MetricParts)
    for part in whole.__mro__
    if part.__module__ == types.__name__
    for name in (*Parts.of(part).values, *Parts.of(part).methods)
}
PROTOCOLS = {
    name
    for protocol in (
        types.Segmenter,
        types.Surveyor,
        types.Linker,
        types.Merger,
        types.Source,
        types.Metric,
        types.ScoringLoss,
        types.TrainingLoss,
    )
    for name in (*Parts.of(protocol).values, *Parts.of(protocol).methods)
}
NO_PLUGIN = {"segmenters/_keras.py", "store/access.py"}
"""Where a layer's `outputs` and an error's `response` are looked for."""


def looks(path: Path) -> Iterator[str]:
    """Each look for a part by its name, `getattr(x, "slow", ...)` or `hasattr(x, "slow")`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "getattr_static"),
                args=[_, ast.Constant(value=str(name)), *_],
            ) if name in PARTS | PROTOCOLS:
                yield f"{path.relative_to(ENGINE)}:{node.lineno}: {name}"


def test_the_parts_are_those_that_are_asked() -> None:
    assert {"slow", "seams", "label", "check_pixels", "provenance", "describe", "inertia"} <= PARTS
    assert {"response", "outputs", "colors", "weights", "version", "segmenter"} <= PARTS
    assert {"list", "find_truth", "load_truth", "truth_classes", "truth_instances"} <= PARTS
    assert {"needs", "uses", "unmet", "whole", "part", "join", "close", "base", "locate"} <= PARTS


def test_nobody_else_looks_for_a_part() -> None:
    found = [look for path in sorted(ENGINE.rglob("*.py")) for look in looks(path)]
    others = [look for look in found if look.partition(":")[0] not in ("asked.py", *NO_PLUGIN)]
    assert found, "the look at `survey` in asked.py is seen"
    assert others == []


def test_every_part_says_when_it_is_asked() -> None:
    for whole in (types.SegmenterParts, types.SourceParts, types.MetricParts):
        parts = [p for p in whole.__mro__[1:] if p.__module__ == types.__name__]
        assert len(parts) >= 5
        for part in parts:
            if part is not types.Framed:
                assert (part.__doc__ or "").startswith("Asked of "), part.__name__


class Plain:
    classes = ("a", "b")
    halo: int | None = 3
    stride = 1

    def segment(self, pixels: Any) -> types.Prediction:
        return types.Prediction((pixels[..., 0] > 9).astype(np.uint8))


@dataclass(frozen=True)
class Full(Plain):
    version: int = 4
    weights: str = "w"
    outputs: tuple[str, ...] = ("labels",)
    colors: tuple[tuple[int, int, int], ...] = ((1, 2, 3), (4, 5, 6))
    slow: bool = True
    seams: int | None = 7
    provenance: str = "engine 1"
    inertia: float = 2.5
    centres: Any = None

    def label(self, pixels: Any) -> types.Prediction:
        return types.Prediction(np.ones(pixels.shape[:3], np.uint8))

    def check_pixels(self, bands: int, dtype: str) -> None:
        if bands != 3:
            raise ValueError("bands: 3 are needed")

    def describe(self) -> tuple[str, ...]:
        return ("a line",)

    def response(self, pixels: Any) -> Any:
        return pixels[..., :2].astype(np.float64)


class Surveys:
    classes = ("a", "b")
    scope = "run"
    segmenter = Full()

    def survey(self, pixels: Any, valid: Any) -> int:
        return 0

    def merge(self, a: int, b: int) -> int:
        return a + b

    def fit(self, state: int) -> Full:
        return self.segmenter


def test_what_has_no_part_has_its_default() -> None:
    plain, pixels = Plain(), np.zeros((1, 2, 2, 3), np.uint8)
    assert (asked.version(plain), asked.weights(plain), asked.outputs(plain)) == (1, "", None)
    assert (asked.is_slow(plain), asked.seams(plain), asked.provenance(plain)) == (False, None, "")
    assert (asked.inertia(plain), asked.description(plain), asked.keep(plain)) == (None, (), None)
    assert asked.findings(plain) == {}
    assert asked.colors(plain) == asked.palette(2)
    assert not asked.responds(plain)
    assert asked.labels_alone(plain, pixels).labels.max() == 0
    asked.check_pixels(plain, 99, "uint8")


def test_a_part_that_is_there_is_asked_also_of_what_a_surveyor_completes() -> None:
    for plugin in (Full(), Surveys()):
        assert (asked.is_slow(plugin), asked.seams(plugin)) == (True, 7)
        assert (asked.description(plugin), asked.band(plugin)) == (("a line",), 2)
        with pytest.raises(ValueError, match="3 are needed"):
            asked.check_pixels(plugin, 1, "uint8")
    full = Full()
    assert (asked.version(full), asked.weights(full), asked.outputs(full)) == (4, "w", ("labels",))
    assert (asked.provenance(full), asked.inertia(full)) == ("engine 1", 2.5)
    assert asked.findings(full) == {"inertia": 2.5}
    assert asked.colors(full) == full.colors
    assert asked.responds(full)
    assert asked.labels_alone(full, np.zeros((1, 2, 2, 3), np.uint8)).labels.min() == 1


class AtOnce(Surveys):
    def label_frame(self, pixels: Any, valid: Any) -> tuple[Full, types.Prediction]:
        return self.segmenter, types.Prediction(valid.astype(np.uint8))


def test_a_surveyor_labels_a_frame_at_once_where_it_can() -> None:
    pixels, valid = np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2), np.bool_)
    assert asked.label_frame(Surveys(), pixels, valid) == (Surveys.segmenter, None)
    segmenter, prediction = asked.label_frame(AtOnce(), pixels, valid)
    assert segmenter is Surveys.segmenter
    assert prediction is not None
    assert prediction.labels.min() == 1


def test_what_is_no_segmenter_is_named_with_what_it_lacks() -> None:
    with pytest.raises(JobError, match=r"kind: x: object is no segmenter: it has no classes, halo"):
        asked.check(object(), "x")


def test_sources_that_list_or_know_truth() -> None:
    listing = {name for name in registry.names("sources") if asked.lists_inputs(name)}
    # A catalog lists its items, and knows no truth.
    assert listing - {"stac"} == {n for n in registry.names("sources") if asked.has_truth(n)}
    assert {"coco", "voc", "camvid"} <= listing
    assert not listing & {"images", "raster", "video", "zarr"}
    assert not asked.has_truth("auto")
