"""What measuring costs: a k-means run with truth against one without, and AP against pycocotools."""

import contextlib
import io
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segengine.instances.rows import SCHEMA
from segengine.job import parse_job
from segengine.metrics.coco import Coco
from segengine.runs import Run
from segengine.types import Prediction, Truth
from tests.benchmarks.scenes import grainy_photos
from tests.benchmarks.table import Row, show

PHOTOS, SIDE = 96, 1024
CLASSES = 8
IMAGES, KINDS = 5000, 80
SIZE = (480, 640)
LIMIT = 1000.0
"""Megabytes that the AP of all images may take, their objects included."""
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100",
    "ar_small", "ar_medium", "ar_large")  # fmt: skip
Objects = list[dict[str, Any]]
"""Rows of objects of one image, masks as pycocotools has them."""


def rows() -> Iterator[Row]:
    """Seconds and megabytes."""
    yield from cost_of_truth()
    yield from average_precision()


# ------------------------------------------------------------------------------------- a whole run


def cost_of_truth() -> list[Row]:
    """Seconds of all stages, the least of five runs each, by turns; two workers."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        write_photos(folder)
        truth = {"paths": [f"{folder}/truth/{{stem}}.png"]}
        truth["classes"] = [f"class {i}" for i in range(CLASSES)]
        measured, bare = [], []
        for turn in range(5):
            bare.append(run(folder, f"bare-{turn}", {}))
            measured.append(run(folder, f"measured-{turn}", {"truth": truth}))
    ours, theirs = min(measured), min(bare)
    what = f"k-means of {PHOTOS} photos, with truth against without"
    return [Row(what, ours, theirs, "s", ours / theirs, "<= 1.05")]


def write_photos(folder: Path) -> None:
    """Photos, and their smoothed gray in classes."""
    for name in ("in", "truth"):
        (folder / name).mkdir()
    for i, photo in enumerate(grainy_photos(PHOTOS, SIDE)):
        gray = cv2.GaussianBlur(photo, (0, 0), 5)[..., 1]
        cv2.imwrite(str(folder / f"in/{i:03}.jpg"), photo)
        cv2.imwrite(str(folder / f"truth/{i:03}.png"), gray // (256 // CLASSES))


def run(folder: Path, name: str, blocks: Mapping[str, Any]) -> float:
    """Seconds of a run, once its workers have started."""
    job = parse_job(
        {
            "source": {"paths": [f"{folder}/in"]},
            "segmenter": {"kind": "kmeans", "clusters": CLASSES},
            "store": {"path": f"{folder}/{name}.zarr"},
            "cluster": {"workers": 2},
            **blocks,
        }
    )
    with Run(job) as one:
        one.wait_for_workers()
        start = time.perf_counter()
        for stage in Run.STAGES:
            for _ in one.stage(stage):
                pass
        return time.perf_counter() - start


# -------------------------------------------------------------------------------- average precision


def average_precision() -> list[Row]:
    """Seconds and peak megabytes of all 12 figures of masks; each side in a process of its own."""
    context = get_context("spawn")
    found = []
    for side in (run_ours, run_pycocotools):
        with context.Pool(1) as pool:
            found.append(pool.apply(side))
    (ours, our_peak, figures, objects), (theirs, their_peak, stats, _) = found
    assert figures == stats, (figures, stats)
    what = f"AP of masks, {IMAGES:,} images with {objects:,} objects"
    return [
        Row(f"{what}, against pycocotools", ours, theirs, "s", ours / theirs, "<= 1"),
        Row(f"{what}: peak of the process", our_peak, their_peak, "MB", our_peak / LIMIT,
            "<= 1 of 1 GB"),
    ]  # fmt: skip


def run_ours() -> tuple[float, float, list[float | None], int]:
    """Seconds, megabytes, the figures, how many true objects; as the aggregate stage does it."""
    images = [(table(found), table(true)) for found, true in map(draw, range(IMAGES))]
    metric = Coco(tuple(map(str, range(KINDS))), kinds=("mask",))
    labels = np.zeros((1, *SIZE), np.uint8)
    start = time.perf_counter()
    state = metric.empty()
    for i, (found, true) in enumerate(images):
        prediction, truth = Prediction(labels, objects=found), Truth(labels, objects=true)
        one = metric.update(metric.empty(), prediction, truth)
        state = metric.merge(state, metric.locate(one, "scene", i))
    figures = metric.compute(state)["mask"]
    seconds = time.perf_counter() - start
    count = sum(true.num_rows for _, true in images)
    return seconds, peak(), [figures[key] for key in FIGURES], count


def run_pycocotools() -> tuple[float, float, list[float], int]:
    """The same of pycocotools: evaluate, accumulate, summarize."""
    images = [draw(i) for i in range(IMAGES)]
    count = sum(len(true) for _, true in images)
    truth, results = COCO(), []
    annotations: Objects = []
    for i, (found, true) in enumerate(images):
        place = {"image_id": i}
        annotations += [as_coco(row) | place | {"iscrowd": int(row["crowd"])} for row in true]
        for row in found:  # with a box beside its mask, it would have the box's area
            one = {"category_id": row["class"], "segmentation": row["rle"]}
            results.append(one | place | {"score": row["score"]})
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(IMAGES)],
        "categories": [{"id": k, "name": str(k)} for k in range(KINDS)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        start = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        seconds = time.perf_counter() - start
    return seconds, peak(), evaluation.stats.tolist(), count


def draw(image: int) -> tuple[Objects, Objects]:
    """Detections and true objects of an image: ellipses, some of them missed, doubled or mistaken."""
    rng = np.random.default_rng(image)
    found: Objects = []
    true: Objects = []
    seen = rng.choice(KINDS, 3)
    for _ in range(rng.poisson(7.25)):
        kind = int(rng.choice(seen))
        radii = np.exp(rng.normal(3.4, 0.8, 2)).clip(3, 200)
        centre = rng.random(2) * SIZE
        true.append(ellipse(kind, centre, radii) | {"crowd": bool(rng.random() < 0.02)})
        for _ in range(rng.choice(3, p=[0.2, 0.6, 0.2])):
            moved = centre + rng.normal(0, 0.12, 2) * radii
            taken = kind if rng.random() < 0.9 else int(rng.integers(KINDS))
            one = ellipse(taken, moved, radii * np.exp(rng.normal(0, 0.12, 2)))
            found.append(one | {"score": float(np.float32(round(rng.random(), 2)))})
    return [row for row in found if row["area"]], [row for row in true if row["area"]]


def ellipse(kind: int, centre: Any, radii: Any) -> dict[str, Any]:
    """A row, its mask cut by the image's border."""
    canvas = np.zeros(SIZE, np.uint8, order="F")
    box = tuple(
        slice(max(0, int(c - r)), int(c + r) + 2) for c, r in zip(centre, radii, strict=True)
    )
    y, x = (np.arange(size)[part] for size, part in zip(SIZE, box, strict=True))
    away = ((y - centre[0])[:, None] / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2
    canvas[box] = away <= 1
    rle = mask.encode(canvas)
    bbox = mask.toBbox(rle).astype(np.float32).tolist()
    return {"class": kind, "rle": rle, "bbox": bbox, "area": int(mask.area(rle))}


def table(objects: Objects) -> pa.Table:
    """The rows as metrics take them."""
    columns: dict[str, Any] = {"id": range(1, len(objects) + 1)}
    for name in ("class", "bbox", "area"):
        columns[name] = [row[name] for row in objects]
    columns["rle"] = [row["rle"]["counts"].decode() for row in objects]
    arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
    arrays["score"] = pa.array([row.get("score", 1.0) for row in objects], pa.float32())
    arrays["crowd"] = pa.array([row.get("crowd", False) for row in objects], pa.bool_())
    return pa.table(arrays)


def as_coco(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as COCO's JSON has it."""
    return {
        "category_id": row["class"],
        "segmentation": row["rle"],
        "bbox": row["bbox"],
        "area": row["area"],
    }


def peak() -> float:
    """Megabytes this process came to."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    show(rows())
