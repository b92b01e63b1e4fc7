"""Networks on a real scene in windows and shards: whether where it is cut can be seen in the mask.

A scene of three bands, scaled by its percentiles, labelled by each architecture of
`tests.benchmarks.training` in one shard and in shards of 128. Of the latter the seam score (label
changes across the lines where windows begin, against those elsewhere; 1: no seam), and beside it that
of the same network in windows without overlap.

`python -m tests.benchmarks.seams SCENE.tif [FOLDER]`; FOLDER keeps the networks and the masks.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

import segengine
from segengine.segmenters._network import Exact, Network
from segengine.types import Prediction
from tests.benchmarks import training
from tests.benchmarks.table import Row, show

BANDS = [5, 3, 2]
"""Red, green and blue of an eight-band WorldView-2 scene."""
WHOLE, SHARD = 2048, 128
LOSS = "cross-entropy"


def rows(scene: str | Path, folder: Path | None = None) -> list[Row]:
    """One line an architecture."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
            return rows(scene, Path(name))
    return [
        row_of(
            trial.name,
            training.trained(trial, folder).bundle,
            trial.side,
            scene,
            folder / trial.slug,
        )
        for trial in training.TRIALS
        if trial.loss == LOSS
    ]


def row_of(title: str, bundle: str, side: int, scene: str | Path, folder: Path) -> Row:
    """Ours, in windows that overlap, beside hard windows of `side`."""
    block = {"kind": "model", "path": bundle, "scale": {"range": spread(scene)}}
    ours = block | training.windows(bundle)
    hard = block | {"window": side, "overlap": 0}
    whole, cut, apart = (
        labels_of(segmenter, scene, shard, folder / f"{kind}.zarr")
        for kind, segmenter, shard in (
            ("whole", ours, WHOLE),
            ("cut", ours, SHARD),
            ("hard", hard, WHOLE),
        )
    )
    network = segengine.create_segmenter(ours)
    assert isinstance(network, Network)
    exact = isinstance(network.cut, Exact)
    step = SHARD if exact else network.stride
    score, of_hard = seam_score(cut, step), seam_score(apart, side)
    differ = float(np.mean(whole != cut))
    return Row(
        f"{title}, {'exact' if exact else 'blended'} windows: seam score every {step} px, against "
        f"hard windows of {side}; {differ:.4%} of labels differ between one shard and many",
        score, of_hard, "", of_hard / score, "> 1, 0 %",
    )  # fmt: skip


def labels_of(
    segmenter: dict[str, Any], scene: str | Path, shard: int, path: Path
) -> NDArray[np.uint8]:
    """(y, x) labels of the scene, as a run stores them."""
    store = {"path": str(path), "chunk": min(shard, 512), "shard": shard}
    source = {"kind": "raster", "paths": [str(Path(scene).absolute())], "bands": BANDS}
    segengine.run({"source": source, "segmenter": segmenter, "store": store})
    found = segengine.open_store(path)
    (name,) = found.scenes
    return np.asarray(found[name].mask[0])


def spread(scene: str | Path) -> list[float]:
    """The 2nd and 98th percentile of the bands' values."""
    with rasterio.open(scene) as data:
        low, high = np.percentile(data.read(BANDS), [2, 98])
    return [float(low), float(high)]


def seam_score(labels: NDArray[np.uint8], every: int) -> float:
    """Of a frame (y, x)."""
    names = [f"class {i}" for i in range(int(labels.max()) + 1)]
    metric = segengine.metrics.create("seams", classes=names, every=every)
    pairs = metric.update(metric.empty(), Prediction(labels[None]))
    return float(metric.compute(pairs)["seam_score"])


if __name__ == "__main__":
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    show(rows(sys.argv[1], where))
