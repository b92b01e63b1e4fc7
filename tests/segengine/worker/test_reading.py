"""What is read ahead is what would have been read, and nothing else is used."""

from __future__ import annotations

from pathlib import Path
from threading import current_thread
from typing import Any

import cv2
import numpy as np
import pytest

from segengine.planning.plan import Plan
from segengine.store.layouts import Layout
from segengine.worker import reading

pytestmark = pytest.mark.usefixtures("plain_report")
SPEC = {"kind": "edges", "operator": "sobel", "threshold": 20}


def test_a_hinted_shard_is_read_by_another_thread_and_gives_the_same_bytes(
    new_bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = []
    for ahead in (False, True):
        bench = new_bench()
        bench.put("a.zarr", noise(3, (150, 170, 3)))
        readers: list[str] = []
        real = reading._read

        def read(*args: Any, real: Any = real, readers: list[str] = readers) -> Any:
            readers.append(current_thread().name)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(reading, "_read", read)
            patch.setattr(Plan, "overlaps", lambda self, layout, on=ahead: on)
            bench.run(SPEC, store={"shard": 32})
        others = [name for name in readers if name.startswith("segengine-read-ahead")]
        assert len(readers) == 30
        assert len(others) == (29 if ahead else 0)  # all but the first
        trees.append(bench.tree())
    assert trees[0] == trees[1]


@pytest.mark.parametrize("frames", [1, 2, 6])
@pytest.mark.parametrize("name", ["film.mp4", "pages.tif"])
def test_each_frame_of_a_file_keeps_its_own_pixels_where_frames_are_cut(
    name: str, frames: int, bench: Any
) -> None:
    """A square that moves by 4 rows a frame, over four shards."""
    films = np.full((6, 48, 48), 20, np.uint8)
    for i, film in enumerate(films):
        film[4 + 4 * i : 14 + 4 * i, 20:40] = 230
    bench.inputs.mkdir()
    if name == "film.mp4":
        write_film(bench.inputs / name, films)
    else:
        assert cv2.imwritemulti(str(bench.inputs / name), list(films))
    segmenter = {"kind": "threshold", "method": "fixed", "levels": 100}
    bench.run(segmenter, store={"shard": 32, "frames": frames})
    masks = [np.asarray(scene.mask[:, :48, :48]) for scene in bench.open().scenes.values()]
    np.testing.assert_array_equal(np.concatenate(masks), films > 100)


def write_film(path: Path, films: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = 48, 48, "yuv420p"
        stream.bit_rate = 4_000_000
        for film in films:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(film, format="gray8")))
        file.mux(stream.encode())


def test_a_scenes_fit_of_a_video_lasts(bench: Any) -> None:
    bench.inputs.mkdir()
    write_film(
        bench.inputs / "film.mp4", np.arange(3 * 48 * 48).reshape(3, 48, 48).astype(np.uint8)
    )
    segmenter = {"kind": "threshold", "method": "mean", "scope": "scene"}
    first = bench.run(segmenter, store={"shard": 32})
    assert first.computed == first.shards > 0
    again = bench.run(segmenter, store={"shard": 32})
    assert (again.computed, again.messages) == (0, ())


def test_what_an_earlier_release_read_in_another_frames_place_is_made_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.inputs.mkdir()
    films = np.arange(3 * 48 * 48).reshape(3, 48, 48).astype(np.uint8)
    write_film(bench.inputs / "film.mp4", films)
    segmenter = {"kind": "threshold", "method": "fixed", "levels": 100}
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "inputs", lambda self, *_: self.fingerprints[0])
        first = bench.run(segmenter, store={"shard": 32})
    assert bench.run(segmenter, store={"shard": 32}).computed == first.shards == 12
    assert bench.run(segmenter, store={"shard": 32}).computed == 0
