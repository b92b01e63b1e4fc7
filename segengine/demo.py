"""The demo: real photographs that come with scikit-image, one real job for each kind of segmenter."""

from __future__ import annotations

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
OWN_JOB = """\
# Your own images: name a folder, a glob, a video or GeoTIFFs, then type
#   segengine run {file}
name: mine
source:
  paths: ["~/Pictures"]
segmenter: {{kind: kmeans, clusters: 4}}     # or threshold, edges; see `segengine segmenters`
store: {{path: mine.zarr}}
"""


def demo_jobs(out: str | Path) -> list[Job]:
    """One job a segmenter, each with a store of its own below `out`."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    pictures = [str(folder / name) for name in PICTURES if (folder / name).exists()]
    base = Path(out).absolute()
    return [
        parse_job(
            {
                "name": f"demo-{name}",
                "source": {"paths": pictures},
                "segmenter": segmenter,
                "store": {"path": str(base / f"{name}.zarr")},
            }
        )
        for name, segmenter in SEGMENTERS.items()
    ]


def write_own_job(out: str | Path) -> Path:
    """A job file to start from, for the user's own images; one that is there stays as it is."""
    file = Path(out).absolute() / "my-images.yaml"
    if not file.exists():
        file.write_text(OWN_JOB.format(file=file), encoding="utf-8")
    return file
