"""An asset that no item has is the job's mistake; one that some lack is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import segengine
from segengine.errors import JobError
from segengine.sources._stac_absent import Lacks, doubt
from tests.segengine.sources.stac_scenes import make_item, pixels, save


def job(folder: Path, path: str, assets: list[str]) -> dict[str, Any]:
    return {
        "source": {"kind": "stac", "paths": [path], "assets": assets},
        "segmenter": {"kind": "threshold"},
        "store": {"path": str(folder / "m.zarr"), "chunk": 32, "shard": 64},
        "faults": {"max_quarantined": 1.0},
    }


def catalog(folder: Path, *names: str) -> str:
    """Items of the bands red and nir."""
    items = [
        make_item(folder, name, {key: pixels(i) for key in ("red", "nir")})
        for i, name in enumerate(names)
    ]
    return save(folder, *items)


@pytest.mark.parametrize(
    ("assets", "said"),
    [
        (["red", "nri"], "source.assets: none of the items has nri; did you mean nir?"),
        (["Red"], "source.assets: none of the items has Red; did you mean red?"),
        (["reed:1", "nir"], "source.assets: none of the items has reed:1; did you mean red:1?"),
    ],
)
def test_a_misspelt_asset_ends_the_run_with_one_line(
    tmp_path: Path, assets: list[str], said: str
) -> None:
    path = catalog(tmp_path, "a", "b", "c")
    with pytest.raises(JobError) as raised:
        segengine.run(job(tmp_path, path, assets))
    assert str(raised.value) == said
    assert raised.value.exit_code == 2
    assert not (tmp_path / "m.zarr").exists(), "nothing was started"


def test_an_item_without_an_asset_that_others_have_is_corrupt(tmp_path: Path) -> None:
    items = [make_item(tmp_path, name, {key: pixels(1) for key in ("red", "nir")}) for name in "ab"]
    items[1].assets["nir2"] = items[1].assets.pop("nir")
    items[1].assets["nir2"].extra_fields.clear()
    found = segengine.run(job(tmp_path, save(tmp_path, *items), ["red", "nir"]))
    assert [f"{name} {reason}" for name, reason in _bad(tmp_path, found)] == [
        "b has no asset and no eo:common_name nir; its assets: red, nir2"
    ]


def test_what_is_like_nothing_is_corrupt_by_name(tmp_path: Path) -> None:
    found = segengine.run(job(tmp_path, catalog(tmp_path, "a", "b"), ["swir22"]))
    assert [name for name, _ in _bad(tmp_path, found)] == ["a", "b"]


def test_a_job_that_was_right_before_goes_on(tmp_path: Path) -> None:
    """A night whose only item lacks an asset is a bad night, and no misspelt job."""
    path = catalog(tmp_path, "a")
    wanted = job(tmp_path, path, ["red", "nir"])
    assert segengine.run(wanted).computed == 1
    item = make_item(tmp_path, "b", {key: pixels(5) for key in ("red", "nir2")})
    save(tmp_path, item)
    assert [name for name, _ in _bad(tmp_path, segengine.run(wanted))] == ["b"]


def test_only_a_name_that_none_has_is_doubted() -> None:
    lacks = Lacks(frozenset({"nri"}), frozenset({"nir", "x" * 500, "a\nb"}))
    assert doubt(["nri"], [lacks, None]) == "assets: the item has no nri; did you mean nir?"
    assert doubt(["nri"], [lacks, Lacks()]) == "", "one item has it"
    assert doubt(None, [lacks]) == doubt(["nri"], [None]) == doubt(["nri"], []) == ""
    assert doubt(["xxx"], [Lacks(frozenset({"xxx"}), frozenset({"x" * 500, "a\nb"}))]) == ""


def _bad(folder: Path, found: Any) -> list[tuple[str, str]]:
    """Name and reason of what has no place."""
    assert found.failed
    rows = segengine.open_store(folder / "m.zarr").frames.to_pylist()
    return sorted((row["name"], row["reason"]) for row in rows if row["status"] == "corrupt")
