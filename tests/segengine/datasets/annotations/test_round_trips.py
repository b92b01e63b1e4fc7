"""What an export writes is the same truth again: no pixel of a mask changes, in any format."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from segengine.datasets.annotations import cvat, labelstudio

from .files import CLASSES, WRITERS, Object, masks_of, read

SIZE = (23, 31)


@st.composite
def scenes(draw: st.DrawFn) -> list[Object]:
    """Objects with holes, parts and corners that touch, some of them over others, some whole."""
    found = []
    for _ in range(draw(st.integers(0, 4))):
        coarse = draw(arrays(np.bool_, (draw(st.integers(1, 8)), draw(st.integers(1, 10)))))
        scale = draw(st.integers(1, 3))
        mask = np.kron(coarse, np.ones((scale, scale), bool))[: SIZE[0], : SIZE[1]]
        if draw(st.booleans()):
            mask = ndimage.binary_fill_holes(mask)
        y = draw(st.integers(0, SIZE[0] - mask.shape[0]))
        x = draw(st.integers(0, SIZE[1] - mask.shape[1]))
        whole = np.zeros(SIZE, bool)
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        if whole.any():
            found.append((draw(st.sampled_from(CLASSES[1:])), whole))
    return found


@pytest.mark.parametrize("name", WRITERS)
@given(objects=scenes())
@settings(deadline=None, max_examples=30)
def test_no_pixel_changes(name: str, objects: list[Object]) -> None:
    write, template = WRITERS[name]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, template.replace("{stem}", "a")), "sub/a.png", SIZE, objects)
        truth = read(f"{folder}/{template}", "sub/a.png", SIZE)
        part = read(f"{folder}/{template}", "sub/a.png", SIZE, window=(slice(3, 11), slice(5, 30)))
    found = masks_of(truth, SIZE)
    assert [CLASSES[kind] for kind, _ in found] == [kind for kind, _ in objects]
    for (_, mine), (_, theirs) in zip(found, objects, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert truth.instances is not None
    assert part.instances is not None
    covered = np.any([mask for _, mask in objects], axis=0) if objects else np.zeros(SIZE, bool)
    np.testing.assert_array_equal(truth.instances[0] > 0, covered)
    np.testing.assert_array_equal(truth.labels[0] > 0, covered)
    np.testing.assert_array_equal(part.instances[0], truth.instances[0, 3:11, 5:30])


@pytest.mark.parametrize("name", ["cvat", "label-studio", "labelme"])
def test_polygons_where_they_hold_the_pixels_else_masks(tmp_path: Path, name: str) -> None:
    square, ring = np.zeros((2, *SIZE), bool)
    square[4:12, 5:20] = ring[4:12, 5:20] = True
    ring[6:8, 8:10] = False
    write, template = WRITERS[name]
    path = tmp_path / template.replace("{stem}", "a")
    write(path, "a.png", SIZE, [("cell", square)])
    assert "polygon" in path.read_text()
    assert "rle" not in path.read_text()
    write(path, "a.png", SIZE, [("cell", ring)])
    assert "polygon" not in path.read_text()


@given(mask=arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
@settings(deadline=None, max_examples=40)
def test_a_brush_is_what_the_format_says(mask: np.ndarray) -> None:
    """Bit by bit, as the format's description has it."""
    bits = "".join(f"{code:08b}" for code in labelstudio.packed(mask))
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        same, size = take(1), sizes[take(2)]
        length = take(size) + 1
        values += [take(word)] * length if same else [take(word) for _ in range(length)]
    alpha = np.array(values, np.uint8).reshape(*mask.shape, 4)[..., 3]
    np.testing.assert_array_equal(alpha > 0, mask)
    np.testing.assert_array_equal(labelstudio.brushed(labelstudio.packed(mask), mask.shape), mask)


def test_a_run_longer_than_its_lengths_count_is_split() -> None:
    mask = np.ones((200, 300), bool)
    mask[150:, 10] = False
    np.testing.assert_array_equal(labelstudio.brushed(labelstudio.packed(mask), mask.shape), mask)


def test_texts_that_xml_cannot_hold_are_still_one_attribute() -> None:
    assert cvat.quoted('a"b<\x01&\n') == "'a\"b&lt;?&amp;&#10;'"
