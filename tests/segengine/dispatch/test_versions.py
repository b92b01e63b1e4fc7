"""What differs between driver, scheduler and workers is refused before the first shard, by name."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.versions import get_versions

from segengine.dispatch import versions
from segengine.errors import SegengineError


class Client:
    """Says what is installed where, as Dask's programs here do but for what is given."""

    def __init__(self, **changed: dict[str, str | None]) -> None:
        self.changed = changed

    def get_versions(self, packages: list[str]) -> dict[str, Any]:
        def told(name: str) -> dict[str, Any]:
            found = get_versions(packages)
            return {**found, "packages": {**found["packages"], **self.changed.get(name, {})}}

        workers = {name: told(name) for name in ("a", "b", "c")}
        return {"client": told("client"), "scheduler": told("scheduler"), "workers": workers}


def refused(**changed: dict[str, str | None]) -> str:
    with pytest.raises(SegengineError) as caught:
        versions.require_one_environment(Client(**changed), "here")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def installed(package: str) -> str:
    return str(get_versions([package])["packages"][package])


def test_one_environment_is_taken() -> None:
    versions.require_one_environment(Client(), "here")


@pytest.mark.parametrize(
    "package", ["segengine", "dask", "distributed", "numpy", "zarr", "numcodecs", "msgpack", "av"]
)
def test_a_worker_of_another_version_is_refused(package: str) -> None:
    assert refused(b={package: "0.0.1"}) == (
        f"here: worker b has {package} 0.0.1 (here {installed(package)}); install one version "
        "everywhere"
    )


def test_all_that_differs_is_named() -> None:
    said = refused(a={"numpy": "1.0", "tensorflow": "2.0"}, c={"zarr": "3.0"})
    assert said.startswith("here: worker a has numpy 1.0 (here ")
    assert "tensorflow 2.0 (here " in said
    assert said.endswith("), and 1 more differ; install one version everywhere")


def test_opencv_counts_by_what_it_brings() -> None:
    same = installed("opencv-python-headless")
    other = {"opencv-python-headless": None, "opencv-python": same}
    versions.require_one_environment(Client(a=other), "here")
    other["opencv-python"] = "4.0"
    assert f"worker a has cv2 4.0 (here {same});" in refused(a=other)


def test_what_is_missing_counts_where_all_need_it() -> None:
    assert "worker a has no numcodecs;" in refused(a={"numcodecs": None})
    versions.require_one_environment(Client(a={"tensorflow": None}), "here")


def test_pythons_releases_are_as_good_as_each_other() -> None:
    here = installed("numpy") and get_versions()["packages"]["python"]
    major, minor = str(here).split(".")[:2]
    versions.require_one_environment(Client(a={"python": f"{major}.{minor}.99.final.0"}), "here")
    said = refused(a={"python": f"{major}.99.0.final.0"})
    assert f"worker a has python {major}.99 (here {major}.{minor});" in said


def test_a_scheduler_counts_by_what_it_takes_part_in() -> None:
    versions.require_one_environment(Client(scheduler={"numpy": "1.0", "segengine": None}), "here")
    said = refused(scheduler={"distributed": "2025.4.0"})
    assert said.startswith("here: the scheduler has distributed 2025.4.0 (here ")
