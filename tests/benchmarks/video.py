"""Otsu's threshold of each frame of a video, against PyAV, cv2 and zarr."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import skimage.data
import zarr

from tests.benchmarks.table import Row, show
from tests.benchmarks.turns import medians, run_seconds, two_processes

FRAMES, HEIGHT, WIDTH = 795, 576, 768
KEYS = 12
"""Frames from one key frame to the next."""
TOGETHER = 48
"""Frames of a shard of the script."""


def rows() -> Iterator[Row]:
    """Frames a second."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        folder = Path(name)
        video = write_video(folder / "video.avi")
        ours, theirs = medians(lambda: run_ours(video, folder), lambda: run_plain(video, folder))
        what = f"video: Otsu a frame, {FRAMES} frames of {WIDTH} x {HEIGHT}, against PyAV and cv2"
        yield Row(what, FRAMES / ours, FRAMES / theirs, "/s", theirs / ours, ">= 0.9")


def write_video(path: Path) -> Path:
    """MPEG-4 in AVI: a camera that pans over a photo."""
    large = cv2.resize(skimage.data.coffee(), (1800, 1200), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = KEYS
        stream.bit_rate = 4_000_000
        for i in range(FRAMES):
            y, x = i * 3 % (1200 - HEIGHT), i * 5 % (1800 - WIDTH)
            sy, sx = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
            grain = noise[sy : sy + HEIGHT, sx : sx + WIDTH]
            picture = np.clip(large[y : y + HEIGHT, x : x + WIDTH] + grain, 0, 255)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def run_ours(video: Path, folder: Path) -> float:
    """Seconds of a run of two workers."""
    return run_seconds(folder / "ours.zarr", job_of(video))


def job_of(video: Path) -> dict[str, Any]:
    """What a user would ask for."""
    return {
        "source": {"paths": [str(video)]},
        "segmenter": {"kind": "threshold", "method": "otsu", "scope": "frame"},
    }


# -------------------------------------------------------------------------------- the plain script


def run_plain(video: Path, folder: Path) -> float:
    """Seconds of two processes, each with half of the shards."""
    store = folder / "plain.zarr"
    shutil.rmtree(store, ignore_errors=True)
    with two_processes() as pool:
        started = time.perf_counter()
        zarr.create_array(
            store, shape=(FRAMES, HEIGHT, WIDTH), dtype="u1", fill_value=255,
            chunks=(1, HEIGHT, WIDTH), shards=(TOGETHER, HEIGHT, WIDTH),
            compressors=zarr.codecs.ZstdCodec(level=1),
        )  # fmt: skip
        middle = FRAMES // TOGETHER // 2 * TOGETHER
        list(pool.map(threshold, [(video, store, 0, middle), (video, store, middle, FRAMES)]))
        return time.perf_counter() - started


def threshold(task: tuple[Path, Path, int, int]) -> None:
    """The masks of frames from one on to another, from the key frame before."""
    video, store, start, stop = task
    array = zarr.open_array(store)
    masks: list[Any] = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        container.seek(start, stream=stream)  # a time stamp of AVI is a frame's number
        for frame in container.decode(stream):
            place = int(frame.pts)
            if place < start:
                continue
            if place >= stop:
                break
            gray = cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY)
            masks.append(cv2.threshold(gray, 0, 1, cv2.THRESH_OTSU)[1])
            if len(masks) == TOGETHER or place == stop - 1:
                array[place + 1 - len(masks) : place + 1] = np.stack(masks)
                masks.clear()


if __name__ == "__main__":
    show(rows())
