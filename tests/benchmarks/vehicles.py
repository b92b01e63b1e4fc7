"""Mask R-CNN on generated vehicles that overlap: AP50 of masks and boxes, and PQ, on pictures it never saw.

All by the product's own route, a job with instances on a data set in COCO's format, against

    outlines   connected regions that differ from the asphalt, each named by its area: what needs no
               learning, and takes vehicles that overlap for one

Each small backbone learns for a few epochs as the shipped job does; the last rows are of the network
in `segengine/data/vehicles-mask-rcnn`.
"""

import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

import segengine
from segengine.training.job import load_train_job
from segengine.training.synthetic import VEHICLES, write_vehicles
from segengine.types import Pixels, Prediction
from tests.benchmarks.table import Row, show

BUNDLE = "data/vehicles-mask-rcnn"
JOB = Path(__file__).parents[2] / "deployments/jobs/vehicles-mask-rcnn.yaml"
LEARNED, UNSEEN = range(300), range(5000, 5060)
EPOCHS = 6
BACKBONES = ("resnet14", "resnet32")
TARGET = 0.85
"""AP50 of masks that the shipped network must have."""


@dataclass(frozen=True)
class Outlines:
    """Regions that differ from the asphalt, as cars, trucks or buses by their area."""

    contrast: int = 25
    """Gray values in some band."""
    areas: tuple[int, int] = (360, 690)
    """Least of a truck and of a bus, in pixels; whole ones have 190 to 330, 400 to 700, 700 to 1000."""

    classes: ClassVar[tuple[str, ...]] = ("background", *VEHICLES)
    halo: ClassVar[None] = None
    stride: ClassVar[int] = 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) of pixels (n, y, x, 3)."""
        return Prediction(np.stack([self._frame(frame) for frame in pixels]))

    def _frame(self, frame: Any) -> Any:
        calm = cv2.medianBlur(frame, 3).astype(np.int16)
        apart = np.abs(calm - np.median(calm, axis=(0, 1))).max(axis=-1) > self.contrast
        _, regions, about, _ = cv2.connectedComponentsWithStats(apart.astype(np.uint8))
        kinds = 1 + np.searchsorted(self.areas, about[:, cv2.CC_STAT_AREA], side="right")
        kinds[0] = 0
        return kinds[regions].astype(np.uint8)


def rows() -> list[Row]:
    """Each network against outlines."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        learned = write_vehicles(folder / "learned", LEARNED)
        unseen = write_vehicles(folder / "unseen", UNSEEN)
        kind = f"{Outlines.__module__}:{Outlines.__name__}"
        simple = figures({"kind": kind, "instances": "components"}, unseen)
        bundles = {
            f"{backbone}, {EPOCHS} epochs of {len(LEARNED)}": trained(learned, folder, backbone)
            for backbone in BACKBONES
        }
        bundles["shipped"] = str(files("segengine") / BUNDLE)
        found = []
        for network, bundle in bundles.items():
            seen = figures({"kind": "mask-rcnn", "weights": bundle}, unseen)
            for figure, ours in seen.items():
                what = f"vehicles, {network}: {figure} on {len(UNSEEN)} unseen, against outlines"
                wanted = network == "shipped" and figure == "mask AP50"
                target = f"ours > {TARGET}" if wanted else "-"
                found.append(Row(what, ours, simple[figure], "", ours / simple[figure], target))
        return found


def trained(learned: Path, folder: Path, backbone: str) -> str:
    """The bundle of a short training as shipped, but for the backbone."""
    from segengine.training.trainers import train

    changes = [f"source.paths=[{learned}]", f"out={folder / backbone}"]
    changes += [f"architecture.backbone={backbone}", f"epochs={EPOCHS}"]
    return train(load_train_job(JOB, changes)).bundle


def figures(segmenter: dict[str, Any], unseen: Path) -> dict[str, float]:
    """A job's figures by name."""
    with tempfile.TemporaryDirectory(dir=unseen.parent) as store:
        job = {
            "source": {"kind": "coco", "paths": [str(unseen)]},
            "segmenter": segmenter,
            "store": {"path": f"{store}/masks.zarr"},
            "evaluate": {"metrics": ["coco", "panoptic_quality"]},
        }
        segengine.run(job)
        overall: Any = segengine.open_store(f"{store}/masks.zarr").metrics["overall"]
    qualities = [overall["panoptic_quality"]["classes"][name]["pq"] for name in VEHICLES]
    return {
        "mask AP50": overall["coco"]["mask"]["ap50"],
        "box AP50": overall["coco"]["box"]["ap50"],
        "PQ": float(np.mean(qualities)),
    }


if __name__ == "__main__":
    show(rows())
