"""`segengine plan`: a dry run that says what a run would stumble over."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segengine.commands.plan import plan
from segengine.errors import JobError
from segengine.job import parse_job


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root may write to")
def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9), np.uint8))

    def planned(store: Path | str) -> None:
        plan(
            parse_job(
                {
                    "name": "nowhere",
                    "source": {"paths": [str(tmp_path / "a.png")]},
                    "segmenter": {"kind": "threshold"},
                    "store": {"path": str(store)},
                }
            )
        )

    with pytest.raises(JobError, match=r"^store\.path: /proc cannot be written: "):
        planned("/proc/masks/a.zarr")
    (tmp_path / "there").mkdir()
    for store in (tmp_path / "there", tmp_path / "new/masks.zarr"):
        planned(store)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.png", "there"]
