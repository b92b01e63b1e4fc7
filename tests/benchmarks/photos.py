"""Milliseconds to plan and to read a photo, by format, of whichever segengine is found first.

python tests/benchmarks/photos.py                            this one
PYTHONPATH=OTHER python tests/benchmarks/photos.py           the one in the folder OTHER
python tests/benchmarks/photos.py --beside OTHER             both in turns, and the ratios
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from PIL import Image

from segengine.sources.images import ImageSource
from segengine.types import Entry, FrameRef

TURNS = 9
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "png": ("PNG", {"compress_level": 3}),
    "webp": ("WEBP", {"quality": 80}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
}


def pictures(size: tuple[int, int]) -> dict[str, bytes]:
    """Smooth noise, as files."""
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 2))
    found = {}
    for name, (form, options) in FORMATS.items():
        file = io.BytesIO()
        image.save(file, form, **options)
        found[name] = file.getvalue()
    deep = np.asarray(image).astype(np.uint16) * 257
    found["png-deep"] = cv2.imencode(".png", deep)[1].tobytes()
    return found


def measure() -> dict[str, float]:
    """The least time of each, which other programs disturb least."""
    times: dict[str, float] = {}
    source = ImageSource()
    with tempfile.TemporaryDirectory() as folder:
        for size, repeats in (((256, 256), 60), ((800, 1200), 12)):
            for name, data in pictures(size).items():
                path = Path(folder) / name
                path.write_bytes(data)
                entry = Entry(name, str(path), "")
                ref = FrameRef(0, name, str(path), "", *size)
                for what, work in (
                    ("plan", lambda entry=entry: source.probe(entry)),
                    ("read", lambda ref=ref: list(source.read([ref], slice(None), slice(None)))),
                ):
                    spent = []
                    for _ in range(repeats):
                        start = time.process_time()
                        work()
                        spent.append(time.process_time() - start)
                    times[f"{what} {name} {size[1]}x{size[0]}"] = 1000 * min(spent)
    return times


def beside(other: str) -> None:
    """Turns of both; the ratio of a pair that runs one after the other, the middle one of all."""
    pairs = []
    for _ in range(TURNS):
        turn = []
        for folder in (other, str(Path(__file__).parents[2])):
            command = [sys.executable, str(Path(__file__).resolve())]
            environment = os.environ | {"PYTHONPATH": folder}
            out = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
            turn.append(json.loads(out))
        pairs.append(turn)
    for name in pairs[0][0]:
        before, after = (min(pair[i][name] for pair in pairs) for i in (0, 1))
        ratio = median(pair[1][name] / pair[0][name] for pair in pairs)
        print(
            f"{name:28} {before:8.3f} {after:8.3f} ms  least {after / before:5.3f}  middle {ratio:5.3f}"
        )
    for what in ("plan", "read"):
        sums = [
            sum(v for k, v in turn[1].items() if k.startswith(what))
            / sum(v for k, v in turn[0].items() if k.startswith(what))
            for turn in pairs
        ]
        print(f"{what}, all: {median(sums):5.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", metavar="FOLDER")
    options = parser.parse_args()
    if options.beside:
        beside(options.beside)
    else:
        print(json.dumps(measure()))


if __name__ == "__main__":
    main()
