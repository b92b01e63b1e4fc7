"""Which headers are read again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.sources.listing import list_entries
from segengine.store.layouts import Unplaced

CUT = Cut(16, 256)


@pytest.mark.parametrize(
    ("kind", "changed", "placed"),
    [
        ("error", False, True),
        ("error", True, True),
        ("corrupt", False, False),
        ("corrupt", True, True),
    ],
)
def test_a_header_that_could_not_be_read(
    kind: str, changed: bool, placed: bool, bench: Any
) -> None:
    """An error is tried again each time; `corrupt` is final until the input changes."""
    path = bench.put("a.png", np.zeros((40, 40), np.uint8))
    (entry,) = list_entries([str(bench.inputs)], "auto").entries
    mark = "another" if changed else entry.fingerprint
    before = Unplaced(entry.name, str(path), mark, kind, "damaged")
    found = scan({"paths": [str(bench.inputs)]}, {}, [before], CUT)
    assert bool(found.layouts) is placed
    assert found.probed == placed
    assert found.unplaced == (() if placed else (before,))
    other_options = scan({"paths": [str(bench.inputs)]}, {}, [before], CUT, unchanged_source=False)
    assert (len(other_options.layouts), other_options.unplaced) == (1, ())
