"""DeepMask and SharpMask on generated vehicles: how many of those it never saw a few proposals find.

Average recall of masks with 10 and 100 proposals a picture, over IoU 0.5 to 0.95 (Hosang et al. 2016,
"What makes for effective detection proposals?"), and recall at IoU 0.5, whatever the class; beside

    outlines   connected regions that differ from the asphalt, which need no learning

The networks are those of the shipped jobs. `python -m tests.benchmarks.proposals FOLDER` keeps what
was trained, and trains only what is not there.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import segengine
from segengine.training.bundle import load_bundle
from segengine.training.job import load_train_job
from segengine.training.synthetic import write_vehicles
from segengine.training.trainers import train
from tests.benchmarks.table import Row, show
from tests.benchmarks.vehicles import UNSEEN, Outlines

JOBS = Path(__file__).parents[2] / "deployments/jobs"
LEARNED = range(900)
FIGURES = {"AR with 10 proposals": "ar_10", "AR with 100": "ar_100", "AP50": "ap50"}
PROPOSED = {"min_score": 0.0, "duplicates": 0.7}
"""All that the figures count, but for near copies."""


def rows(folder: Path | None = None) -> list[Row]:
    """Each network against outlines."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
            return rows(Path(name))
    learned, unseen = (folder / part for part in ("vehicles", "unseen"))
    for place, seeds in ((learned, LEARNED), (unseen, UNSEEN)):
        if not place.exists():
            write_vehicles(place, seeds)
    kind = f"{Outlines.__module__}:{Outlines.__name__}"
    simple = figures({"kind": kind, "instances": "components"}, unseen)
    found = []
    for name in ("deepmask", "sharpmask"):
        began = time.process_time()
        changes = [f"source.paths=[{learned}]", f"out={folder / name}"]
        changes += [f"from={folder}/deepmask/bundle"] if name == "sharpmask" else []
        bundle = train(load_train_job(JOBS / f"vehicles-{name}.yaml", changes)).bundle
        minutes = (time.process_time() - began) / 60
        parameters = load_bundle(bundle)[1].count_params() / 1e6
        seen = figures({"kind": name, "weights": bundle, **PROPOSED}, unseen)
        for figure, ours in seen.items():
            what = f"{name}, {parameters:.1f} M parameters, {minutes:.1f} CPU minutes: {figure} of "
            what += f"vehicles on {len(UNSEEN)} unseen, against outlines"
            found.append(Row(what, ours, simple[figure], "", ours / simple[figure], "-"))
    return found


def figures(segmenter: dict[str, Any], unseen: Path) -> dict[str, float]:
    """A job's figures by name."""
    with tempfile.TemporaryDirectory(dir=unseen.parent) as store:
        job = {
            "source": {"kind": "coco", "paths": [str(unseen)]},
            "segmenter": segmenter,
            "store": {"path": f"{store}/masks.zarr"},
            "evaluate": {
                "metrics": [{"metric": "coco", "class_agnostic": True, "kinds": ["mask"]}]
            },
        }
        segengine.run(job)
        overall: Any = segengine.open_store(f"{store}/masks.zarr").metrics["overall"]
    (key,) = [key for key in overall if key.startswith("coco")]
    return {name: overall[key]["mask"][figure] for name, figure in FIGURES.items()}


if __name__ == "__main__":
    show(rows(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
