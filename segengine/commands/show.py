"""One frame as a picture: the image beside what was made of it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import numpy as np

from segengine import asked, registry
from segengine.errors import JobError, StoreError
from segengine.guards.trust import named_by_store
from segengine.outputs import Inputs, replacing
from segengine.pictures import draw
from segengine.pictures.objects import pictured
from segengine.pictures.view import FrameTruth, View, find_truths, look, matching
from segengine.reader import SceneStore, Store, open_store
from segengine.types import Color

WHAT = ("overlay", "errors", "responses")
SIDE = 1024
"""Greatest side of a panel, in pixels; larger frames are seen through the pyramid."""
_LEAST = 256
_LEGEND = 24


def show(
    store_path: str,
    scene: str | None = None,
    frame: int = 0,
    out: str | None = None,
    what: str = "overlay",
    trust: bool | None = None,
) -> str:
    """Write a PNG of a frame; its path, `<scene>-<frame>.png` where `out` is not given.

    `scene`: a scene's name, or a frame's; None: the first scene. `what`: overlay (also the instances
    there are, and for clusters each pixel in its centre's colour), errors (against the truth) or
    responses (of an edge operator). `trust`: code that the store names may be used. Raises JobError
    for what the store does not have, and where `out` is one of its inputs.
    """
    if what not in WHAT:
        raise ValueError(f"what: {what!r} is not one of {', '.join(WHAT)}")
    store = open_store(store_path, trust)
    found, frame = _find(store, scene, frame)
    if found.layout.frame(frame).pruned:
        raise JobError(f"--frame {frame}: was pruned from scene {found.name}; name another one")
    path = Path(out if out is not None else f"{found.name}-{frame}.png")
    Inputs(store).check(path)
    truth = _truth(store, found.name, frame) if what == "errors" else None
    view = look(found, frame, SIDE, truth=truth)
    objects = pictured(store, [(found.name, frame)]).of(found, frame, view)
    panels, legend = _panels(store, found.name, frame, view, what, objects)
    title = _text(found.layout.frame_name(frame))
    panels[0] = (f"{title}: {panels[0][0]}", panels[0][1])
    picture = draw.sheet([(t, draw.enlarge(p, _LEAST)) for t, p in panels], legend[:_LEGEND])
    with replacing(path) as partial:
        partial.write_bytes(draw.encode_png(picture))
    return os.fspath(path)


def _find(store: Store, name: str | None, frame: int) -> tuple[SceneStore, int]:
    """The scene of that name, or the scene and place of the frame of that name."""
    scenes = store.scenes
    if not scenes and (name or "") not in scenes:  # where only its layout is lost, that is said
        raise JobError(f"{store.path}: has no scene yet; run the job first")
    scene = name or next(iter(scenes))
    if scene not in scenes:
        place = _frame_place(store, scene)
        if place is None:
            close = difflib.get_close_matches(scene, scenes, n=3, cutoff=0.4) or list(scenes)[:3]
            raise JobError(f"scene {scene!r} is not in {store.path}; there are {', '.join(close)}")
        scene, frame = place
    frames = scenes[scene].layout.shape[0]
    if not 0 <= frame < frames:
        raise JobError(f"frame {frame} is not in scene {scene}; it has {frames}, the first is 0")
    return scenes[scene], frame


def _frame_place(store: Store, name: str) -> tuple[str, int] | None:
    import pyarrow.compute as pc

    try:
        frames = store.frames
    except StoreError:  # not published yet
        return None
    rows = frames.filter(pc.equal(frames.column("name"), name)).to_pylist()
    for row in sorted(rows, key=lambda r: r["status"] == "gone"):
        if row["scene"] is not None:
            return row["scene"], row["frame"]
    return None


def _truth(store: Store, scene: str, frame: int) -> FrameTruth:
    found = find_truths(store, [(scene, frame)])
    if not found:
        raise JobError(f"{store.path}: was not measured against truth; set truth.paths and run")
    return found[0]


def _panels(
    store: Store, scene: str, frame: int, view: View, what: str, objects: list[draw.Drawn]
) -> tuple[list[draw.Panel], list[tuple[str, Color]]]:
    """Pictures of one size with captions, and the legend."""
    image = view.image
    colors = np.asarray(store.attributes["colors"], np.uint8).reshape(-1, 3)
    legend = [
        (_text(name), (int(r), int(g), int(b)))
        for name, (r, g, b) in zip(store.classes, colors, strict=True)
    ]
    mask = draw.colorize(view.labels, view.colors)
    if image is None:
        if what == "responses":
            raise JobError(f"scene {scene}, frame {frame}: cannot be read now: {view.reason}")
        return [(f"mask (no image: {_text(view.reason)})", mask)], legend
    if what == "responses":
        return [("image", image), *_responses(store, view)], []
    clear = [i for i, name in enumerate(store.classes) if name in draw.CLEAR]
    panels = [("image", image), ("overlay", draw.overlay(image, view.labels, colors, clear=clear))]
    if objects:
        panels.append(("instances", draw.instances(image, objects, least=_LEAST)))
    if not np.array_equal(view.colors, colors):  # clusters have the colours of their centres
        panels.append(("each pixel in its cluster's colour", mask))
    if what == "errors":
        if view.truth is None:
            raise JobError(f"scene {scene}, frame {frame}: has no truth that fits it")
        metrics = store.metrics
        truths = metrics["confusion"]["rows"]
        pairs = matching(store.classes, truths, metrics.get("matching"))
        error = draw.error_map(image, view.labels, view.truth, pairs, len(truths))
        panels.append(("errors", error))
        legend += [("wrong label", draw.WRONG), ("no label", draw.UNLABELLED)]
    return panels, legend


def _responses(store: Store, view: View) -> list[draw.Panel]:
    """Both signed responses of the job's edge operator."""
    options = dict(store.job["segmenter"])
    options.pop("instances", None)  # what the engine adds
    with named_by_store(store.trust):
        segmenter = registry.create("segmenters", options.pop("kind"), options)
    assert view.pixels is not None
    pixels = view.pixels[None]
    if asked.surveys(segmenter):
        valid = np.ones(pixels.shape[:3], np.bool_) if view.valid is None else view.valid[None]
        segmenter = segmenter.fit(segmenter.survey(pixels, valid))
    if not asked.responds(segmenter):
        kind = store.job["segmenter"]["kind"]
        raise JobError(f"responses: the segmenter {kind} has none; edges has")
    response = segmenter.response(pixels)[0]
    if view.valid is not None:
        response = np.where(view.valid[..., None], response, 0.0)
    return [
        ("response across rows (horizontal edges)", draw.signed(response[..., 0])),
        ("response across columns (vertical edges)", draw.signed(response[..., 1])),
    ]


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
