"""Tracks of roads by TrackEval's own HOTA and identity figures.

    pytest -m real tests/segengine/stages/test_trackeval.py

segengine/instances/README.md states what these tests allow.
"""

import contextlib
import importlib
import io
import sys
from types import ModuleType

import numpy as np
import pytest

from tests.real import wheel
from tests.segengine.moving import idf1, road
from tests.segengine.stages.test_tracks import renumbered, tracked

pytestmark = pytest.mark.real
SEEDS = range(5)


@pytest.fixture(scope="module")
def trackeval(cache):
    """Its metrics (Luiten et al. 2020), without its data sets and plots, which ask for more packages."""
    place = wheel(cache, "trackeval", "1.3.0") / "trackeval"
    bare = ModuleType("trackeval")
    bare.__path__ = [str(place)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trackeval", bare)
        yield importlib.import_module(f"{bare.__name__}.metrics")
        for name in [name for name in sys.modules if name.startswith("trackeval.")]:
            patch.delitem(sys.modules, name)


def as_it_asks(truth, found):
    """Frames of {track: (class, mask)} as TrackEval's data sets give them: indices and IoU by frame."""
    sides = {"gt": truth, "tracker": found}
    told = {"similarity_scores": [overlaps(*pair) for pair in zip(truth, found, strict=True)]}
    for side, frames in sides.items():
        known = sorted({track for frame in frames for track in frame})
        ids = [np.array([known.index(track) for track in frame], int) for frame in frames]
        told |= {f"{side}_ids": ids, f"num_{side}_ids": len(known)}
        told[f"num_{side}_dets"] = sum(map(len, frames))
    return {**told, "num_timesteps": len(truth)}


def overlaps(real, seen):
    masks = [
        np.array([mask.ravel() for _, mask in side.values()], np.int64).reshape(len(side), -1)
        for side in (real, seen)
    ]
    both = masks[0] @ masks[1].T
    sizes = masks[0].sum(1)[:, None] + masks[1].sum(1)[None]
    return both / np.maximum(sizes - both, 1)


def figures(trackeval, truth, found):
    """HOTA, the mean over its thresholds, and IDF1."""
    with contextlib.redirect_stdout(io.StringIO()):
        hota = trackeval.HOTA().eval_sequence(as_it_asks(truth, found))
        identity = trackeval.Identity().eval_sequence(as_it_asks(truth, found))
    return float(hota["HOTA"].mean()), float(identity["IDF1"])


@pytest.mark.parametrize("seed", SEEDS)
def test_hota_and_idf1_of_a_road(bench, plain_report, trackeval, seed):
    pictures, truth = road(100, seed=seed)
    found = tracked(bench, pictures)
    hota, identity = figures(trackeval, truth, found)
    sys.stdout.write(f"road {seed}: HOTA {hota:.3f}, IDF1 {identity:.3f}\n")
    assert identity == pytest.approx(idf1(truth, found), abs=1e-9)
    assert 0.9 <= identity <= 1
    assert 0.9 <= hota <= 1
    torn = renumbered(found, gap=0)
    hota, identity = figures(trackeval, truth, torn)
    assert identity == pytest.approx(idf1(truth, torn), abs=1e-9)
    assert identity < 0.7
    assert hota < 0.8
