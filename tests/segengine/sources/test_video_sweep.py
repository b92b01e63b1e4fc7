"""Some pairs of a codec and a container through `video_sweep`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PAIRS = [
    "libx264/mp4",
    "libx264-open/matroska",
    "libx265/mpegts",
    "mpeg4/avi",
    "mpeg2video/mpeg",
    "wmv2/asf",
    "libx264-open/asf",
    "libsvtav1/ivf",
    "flv/flv",
    "mjpeg/avi",
    "ffv1/nut",
    "rawvideo/mov",
    "exr/mov",
    "speedhq/avi",
    "cinepak/film_cpk",
]


@pytest.mark.system
def test_no_pair_is_wrong_or_depends_on_how_many_frames_are_read_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.segengine.sources.video_sweep", *PAIRS],
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert ["/".join(line.split()[:2]) for line in lines[1:-1]] == PAIRS
    equal, _, wrong, depends, _ = map(int, lines[-1].split(";")[1].split())
    assert equal > 300
    assert (wrong, depends) == (0, 0)
