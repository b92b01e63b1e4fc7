"""Provisional maps come back as they were written, with what their borders tell."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segengine.instances.pieces import Pieces, find_pieces
from segengine.store.blobs import open_objects
from segengine.store.keys import draft_key
from segengine.store.kinds import DraftRecord
from segengine.store.values import decode
from segengine.types import FrameRef, Window
from segengine.worker.drafts import INVALID, read_summary, window_objects, write_draft

BOX = (0, 0, 0, 1, 9, 11)
MAPS = hnp.arrays(np.uint8, (1, 9, 11), elements=st.sampled_from([0, 1, 3, INVALID, INVALID | 2]))


@given(MAPS)
def test_a_linkers_draft_and_its_pieces(tmp_path_factory: object, labels: np.ndarray) -> None:
    folder: Path = tmp_path_factory.mktemp("draft")  # type: ignore[attr-defined]
    objects = open_objects(str(folder))
    text = write_draft(objects, "s", (0, 0, 0), labels)
    data = objects.get(draft_key("s", (0, 0, 0)))
    assert data is not None
    np.testing.assert_array_equal(decode(data), labels)
    record = DraftRecord(scene="s", shard=(0, 0, 0), box=BOX, inputs="", job="", summary=text)
    pieces, wanted = read_summary(record), find_pieces(labels[0] & ~np.uint8(INVALID))[0]
    assert isinstance(pieces, Pieces)
    np.testing.assert_array_equal(pieces.strength, wanted.strength)
    base64.b64decode(text, validate=True)


@given(
    hnp.arrays(np.uint32, (14, 16), elements=st.sampled_from([0, 4, 9, 2])),
    st.integers(0, 3),
)
def test_a_windows_objects_have_one_number_each_from_1_on(ids: np.ndarray, halo: int) -> None:
    inner = slice(halo, 14 - halo), slice(halo, 16 - halo)
    window = Window((0, 20, 30), (1, 20 + 14 - 2 * halo, 30 + 16 - 2 * halo))
    ref = FrameRef(0, "a.png", "/a.png", "print", 100, 100)
    labels = (ids > 0).astype(np.uint8)
    found = window_objects(window, ref, (14, 16), ids, labels, None, inner, halo)
    core = ids[inner]
    assert found.rows == {}
    assert found.ids.max() <= len(set(np.unique(ids)) - {0})
    # One number an object, and one object a number.
    pairs = {(int(a), int(b)) for a, b in zip(core.ravel(), found.ids.ravel(), strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    np.testing.assert_array_equal(found.ids == 0, core == 0)
