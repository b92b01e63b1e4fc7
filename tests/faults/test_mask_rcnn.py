"""COCO files, weights from a server, and one command: counts and figures of every class."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from harness import Job

import segengine
from segengine.models.maskrcnn import weights
from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.names import class_names
from segengine.models.maskrcnn.network import network
from tests.segengine.datasets import standins
from tests.segengine.models.maskrcnn import h5
from tests.segengine.models.maskrcnn.drawn import draw_matterport

pytestmark = pytest.mark.system

IMAGES = 3
CONFIG = preset("matterport", backbone="resnet14")
"""The published file's layout with fewer blocks."""
KINDS = ("person", "dog", "toothbrush")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the weights can be fetched, with their digest."""
    folder = tmp_path_factory.mktemp("public")
    file = folder / "mask_rcnn_coco.h5"
    slots = weights.slots(network(CONFIG), CONFIG)
    tensors = {s.key: draw_matterport(s.key, s.shape) for s in slots}
    # of all classes it is sure of those that the pictures have
    others = [i for i, name in enumerate(class_names(CONFIG)) if name not in KINDS]
    tensors["mrcnn_class_logits/bias"][others] = -50
    h5.write(file, tensors)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    serve = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{file.name}#sha256={digest}"
        server.shutdown()


def test_one_command_finds_measures_and_counts_objects(
    url: str, make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    root = tmp_path / "coco"
    standins.coco(root, standins.coco_document(3, IMAGES))
    store = tmp_path / "masks.zarr"
    spec: dict[str, Any] = {
        "name": "objects",
        "source": {"kind": "coco", "paths": [str(root)], "split": "val2017"},
        "segmenter": {
            "kind": "mask-rcnn",
            "weights": "coco",
            "weights_url": url,
            "backbone": CONFIG.backbone,
            "min_score": 0.3,
            "max_side": 128,
            "max_detections": 10,
        },
        "store": {"path": str(store), "shard": 64, "chunk": 64},
        "evaluate": {"metrics": ["coco", "panoptic_quality", "object_counts", "counting"]},
        "cluster": {"kind": "local", "workers": 1},
    }
    job = make_job(spec, SEGENGINE_CACHE=str(tmp_path / "cache"))
    run = job.start_command()
    assert run.wait() == 0, run.stderr
    assert [f.name for f in (tmp_path / "cache").iterdir()] == ["mask_rcnn_coco.h5"]

    found = segengine.open_store(str(store))
    rows = pq.read_table(store / "tables/instances.parquet").to_pylist()
    names = class_names(CONFIG)
    assert len(rows) > IMAGES
    assert {row["frame"] for row in rows} == set(range(IMAGES))
    (scene,) = found.scenes.values()
    ids = np.asarray(scene.instances[:])
    for row in rows:
        here = ids[row["frame"]] == row["id"]
        assert (np.asarray(scene.mask[row["frame"]])[here] == row["class"]).all()
    figures = json.loads((store / "metrics.json").read_text())["overall"]
    counts = Counter(names[row["class"]] for row in rows)
    assert {*counts} <= {*KINDS}
    assert len(counts) > 1
    document = standins.coco_document(3, IMAGES)
    numbers = {c["id"]: c["name"] for c in document["categories"]}
    true = Counter(
        numbers[each["category_id"]] for each in document["annotations"] if not each["iscrowd"]
    )
    for name in KINDS:
        assert figures["object_counts"]["classes"][name]["objects"] == counts[name]
        assert figures["coco"]["mask"]["classes"][name]["truths"] == true[name]
        quality = figures["panoptic_quality"]["classes"][name]
        assert quality["tp"] + quality["fp"] > 0 or not counts[name]
    assert figures["counting"]
    report = (store / "report/index.html").read_text()
    for name, number in counts.items():
        assert re.search(rf"{name}\W.*?\b{number}\b", report, re.DOTALL)
