"""The demo: real photographs that come with scikit-image, one real job for each kind of segmenter.

And a small U-Net that this project trained (`deployments/jobs/fields-unet.yaml`), on scenes it has not
seen, which are generated with their truth: so metrics and error maps have something to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from segengine.job import Job, parse_job

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
"""The network of the demo, below the package."""
SEEDS = range(7000, 7008)
"""Of the scenes it labels; those it was trained on have others."""
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
    """One job a segmenter, each with a store of its own below `out`; the network, slow to load, last."""
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


def _network_job(base: Path) -> Job:
    """The U-Net on generated scenes, against their truth."""
    from segengine.training.synthetic import CLASSES, write_scenes

    scenes = write_scenes(base / "scenes", SEEDS)
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


def write_own_job(out: str | Path) -> Path:
    """A job file to start from, for the user's own images; one that is there stays as it is."""
    file = Path(out).absolute() / "my-images.yaml"
    if not file.exists():
        file.write_text(OWN_JOB.format(file=file), encoding="utf-8")
    return file
