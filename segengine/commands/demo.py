"""The demo: real photographs that come with scikit-image, one real job for each kind of segmenter.

And two small networks that this project trained (`deployments/jobs/fields-unet.yaml` and
`vehicles-mask-rcnn.yaml`), on pictures they have not seen, which are generated with their truth: so
metrics and error maps have something to show.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from segengine.job import Job, parse_job
from segengine.outputs import placed

PICTURES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "rocket.jpg",
)
SEGMENTERS: dict[str, dict[str, object]] = {
    "threshold": {"kind": "threshold", "method": "mean"},
    "edges": {"kind": "edges", "operator": "canny"},
    "kmeans": {"kind": "kmeans", "clusters": 4},
}
BUNDLE = "data/fields-unet"
"""The U-Net of the demo, below the package."""
SEEDS = range(7000, 7008)
"""Of the scenes it labels; those it was trained on have others."""
VEHICLES = "data/vehicles-mask-rcnn"
"""The Mask R-CNN of the demo."""
ROADS = range(7000, 7006)
"""Of the pictures whose vehicles it finds; neither was it trained on these."""
OWN_JOB = """\
# Your own images: name a folder, a glob, a video or GeoTIFFs, then type
#   segengine run {file}
name: mine
source:
  paths: ["~/Pictures"]
segmenter: {{kind: kmeans, clusters: 4}}     # or threshold, edges; see `segengine segmenters`
store: {{path: mine.zarr}}
"""


def demo_jobs(out: str | Path) -> Iterator[Job]:
    """One job a segmenter, each with a store of its own below `out`; networks, slow to load, last."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    pictures = [str(folder / name) for name in PICTURES if (folder / name).exists()]
    base = Path(out).absolute()
    for name, segmenter in SEGMENTERS.items():
        yield parse_job(
            {
                "name": f"demo-{name}",
                "source": {"paths": pictures},
                "segmenter": segmenter,
                "store": {"path": str(base / f"{name}.zarr")},
            }
        )
    yield _network_job(base)
    yield _instances_job(base)


def write_inputs(out: str | Path, *, overwrite: bool) -> None:
    """The generated pictures and their truth, below `out`.

    Raises JobError, before anything is written, without `overwrite` for a file that no demo wrote.
    """
    from segengine.training.synthetic import write_scenes, write_vehicles

    with tempfile.TemporaryDirectory() as made:
        write_scenes(Path(made, "scenes"), SEEDS)
        write_vehicles(Path(made, "roads"), ROADS)
        placed(Path(out), Path(made), overwrite=overwrite)


def _network_job(base: Path) -> Job:
    """The U-Net on generated scenes, against their truth."""
    from segengine.training.synthetic import CLASSES

    scenes = base / "scenes"
    return parse_job(
        {
            "name": "demo-unet",
            "source": {"paths": [str(scenes / "images")]},
            "truth": {"paths": [str(scenes / "labels/{stem}.png")], "classes": list(CLASSES)},
            "segmenter": {"kind": "model", "path": str(files("segengine") / BUNDLE)},
            "store": {"path": str(base / "unet.zarr"), "probabilities": True},
            "evaluate": {
                "metrics": ["confusion", "calibration", "boundary_f1"],
                "losses": ["categorical_ce", "dice"],
            },
        }
    )


def _instances_job(base: Path) -> Job:
    """Mask R-CNN on generated vehicles that overlap, against their truth."""
    return parse_job(
        {
            "name": "demo-mask-rcnn",
            "source": {"kind": "coco", "paths": [str(base / "roads")]},
            "segmenter": {
                "kind": "mask-rcnn",
                "weights": str(files("segengine") / VEHICLES),
                "min_score": 0.5,
            },
            "store": {"path": str(base / "mask-rcnn.zarr")},
            "evaluate": {"metrics": ["coco", "panoptic_quality", "counting"]},
        }
    )


def write_own_job(out: str | Path) -> Path:
    """A job file to start from, for the user's own images; one that is there stays as it is."""
    file = Path(out).absolute() / "my-images.yaml"
    if not file.exists():
        file.write_text(OWN_JOB.format(file=file), encoding="utf-8")
    return file
