"""What moves in a real video: by segments of a stated warm-up, against OpenCV's loop over all of it.

`VIDEO=vtest.avi python -m tests.benchmarks background` takes a file (Debian's opencv-doc has vtest.avi, of
a surveillance camera); else it is tree.avi beside the repository.
"""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

import segengine
from tests.benchmarks.table import Row, show

VIDEO = os.environ.get("VIDEO", str(Path(__file__).parents[3] / "shared/data/tree.avi"))
FRAMES = 400
WARMUPS = (100, 250)


def rows() -> Iterator[Row]:
    """Share of alike labels in the second half; processor seconds of both."""
    with av.open(VIDEO) as file:
        frames = itertools.islice(file.decode(video=0), FRAMES)
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    began = time.process_time()
    loop = cv2.createBackgroundSubtractorMOG2(history=500, varThreshold=16, detectShadows=False)
    theirs = np.stack([loop.apply(cv2.cvtColor(p, cv2.COLOR_RGB2BGR)) for p in pictures]) > 0
    alone = time.process_time() - began
    half = len(pictures) // 2
    for warmup in WARMUPS:
        began = time.process_time()
        ours = segengine.segment(pictures, {"kind": "background", "warmup": warmup}) > 0
        spent = time.process_time() - began
        alike = float((ours[half:] == theirs[half:]).mean())
        what = f"background of {Path(VIDEO).name}, {len(pictures)} frames, warm-up {warmup}"
        yield Row(f"{what}: labels as of OpenCV's whole loop", alike, 1, "", alike, "-")
        yield Row(f"{what}: processor time", spent, alone, "s", spent / alone, "-")


if __name__ == "__main__":
    show(rows())
