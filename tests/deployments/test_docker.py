"""The container file: what it says; an image of it by a real builder, which works on a read-only root."""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from dockerfile_parse import DockerfileParser

import segengine

from .conftest import until
from .container import FILE, ROOT, Builder

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION, EXTRAS = PROJECT["version"], PROJECT["optional-dependencies"]
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


@pytest.fixture(scope="module")
def steps() -> list[dict[str, str]]:
    """The instructions of the file: `instruction` and `value`."""
    parser = DockerfileParser(fileobj=io.BytesIO(FILE.read_bytes()))
    return [s for s in parser.structure if s["instruction"] != "COMMENT"]


def values(steps: list[dict[str, str]], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


# --------------------------------------------------------------------------------- what it says
def test_there_are_two_stages_and_the_second_has_only_the_environment(
    steps: list[dict[str, str]],
) -> None:
    assert values(steps, "FROM") == ["${BASE} AS build", "${BASE}"]
    second = steps[[s["instruction"] for s in steps].index("FROM") + 1 :]
    second = second[[s["instruction"] for s in second].index("FROM") :]
    assert values(second, "COPY") == ["--from=build /opt/segengine /opt/segengine"]
    assert "constraints.txt" in " ".join(values(steps, "RUN"))


def test_the_base_is_named_by_a_version_and_has_the_python_of_ci(
    steps: list[dict[str, str]],
) -> None:
    base = dict(value.partition("=")[::2] for value in values(steps, "ARG"))["BASE"]
    assert re.fullmatch(r"python:3\.11-slim-[a-z]+", base)


def test_the_user_is_a_number_and_not_root(steps: list[dict[str, str]]) -> None:
    assert values(steps, "USER") == ["10001:10001"]
    after = steps[[s["instruction"] for s in steps].index("USER") :]
    assert not values(after, "RUN")
    assert values(steps, "HEALTHCHECK")


def test_all_that_is_copied_is_let_through_and_nothing_else(steps: list[dict[str, str]]) -> None:
    copied = {
        word
        for value in values(steps, "COPY")
        if not value.startswith("--from")
        for word in value.split()[:-1]
    }
    let = [line for line in IGNORED if line and not line.startswith("#")]
    assert let[0] == "*"
    assert {line[1:] for line in let if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_what_can_be_written_lies_below_tmp(steps: list[dict[str, str]]) -> None:
    (text,) = values(steps, "ENV")
    environ = dict(word.split("=", 1) for word in shlex.split(text.replace("\\\n", " ")))
    for name in ("HOME", "PREFECT_HOME", "PREFECT_UI_STATIC_DIRECTORY", "SEGENGINE_METRICS_FILE"):
        assert Path(environ[name]).is_relative_to("/tmp"), name
    secret = re.compile("PASSWORD|SECRET|TOKEN|KEY|AUTH")
    assert not [name for name in environ if secret.search(name)]


def test_the_manual_names_extras_and_files_that_are_there() -> None:
    text = (FILE.parent / "README.md").read_text()
    named = [m for line in re.findall(r"EXTRAS=([\w,-]+)", text) for m in line.split(",")]
    assert named
    assert set(named) <= set(EXTRAS)
    assert "deployments/docker/Containerfile" in text
    assert f"segengine:{VERSION}" in text


# ------------------------------------------------------------------------------------- a real one
JOB: dict[str, Any] = {
    "source": {"paths": ["photos"]},
    "segmenter": {"kind": "threshold"},
    "store": {"path": "masks.zarr", "shard": 64, "chunk": 64},
    "cluster": {"workers": 2},
}


def write_photos(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), random.integers(0, 256, (90, 110), np.uint8))


def tree(store: Path) -> dict[str, bytes]:
    scenes = store / "scenes"
    return {str(p.relative_to(scenes)): p.read_bytes() for p in scenes.rglob("*") if p.is_file()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answer(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as found:
            return bytes(found.read())
    except OSError:
        return None


@pytest.mark.system
@pytest.mark.containers
def test_an_image_is_built_and_works_without_root_on_a_read_only_root(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    with pytest.raises(RuntimeError, match=r"EXTRAS: \['hpcc'\]: no such extra; there are"):
        builder.build("wrong", EXTRAS="hpc,hpcc")
    builder.build("segengine", EXTRAS="hpc,otel")
    data, tmp, other = (tmp_path / name for name in ("mine", "tmp", "other"))
    for folder in (data, tmp, other):
        folder.mkdir()
        folder.chmod(0o777)
    write_photos(data / "photos")
    (data / "job.yaml").write_text(yaml.safe_dump(JOB))
    with builder.container("segengine") as container:
        room: dict[str, Any] = {"data": data, "tmp": tmp}
        port = free_port()
        words = ("python", "-m", "prefect", "server", "start", "--port", str(port))
        server = container.start(*words, entrypoint=False, data=data, tmp=other)
        try:
            see = "id -u; touch /new /usr/new /opt/segengine/new; ls -d /build; grep Cap /proc/self/status"
            _, said = container.run("sh", "-c", see, entrypoint=False, **room)
            assert said.startswith("10001\n")
            assert said.count("Read-only file system") == 3
            assert said.count("No such file") == 1
            assert set(re.findall(r"Cap\w+:\s*(\w+)", said)) == {"0" * 16}
            assert container.run("--version", **room) == (0, f"{VERSION}\n")
            where = "import segengine; print(segengine.__file__, segengine.__cached__)"
            code, said = container.run("python", "-c", where, entrypoint=False, **room)
            file, cached = said.split()
            assert file.startswith("/opt/segengine/lib/python")
            assert (container.root / cached.lstrip("/")).is_file(), "nobody can compile it later"

            assert container.healthy(**room), "nothing runs"
            code, said = container.run("run", "job.yaml", **room)
            assert code == 0, said
            figures = tmp / "segengine.prom"
            text = figures.read_text()
            assert re.search(r"^segengine_run_active\S* 0$", text, re.MULTILINE)
            assert container.healthy(**room), "a run that has ended"
            figures.write_text(re.sub(r"(?m)^(segengine_run_active\S*) 0$", r"\1 1", text))
            assert container.healthy(**room), "a run that was heard of"
            os.utime(figures, (time.time() - 1500,) * 2)
            assert not container.healthy(**room), "a run that hangs"

            page = f"http://127.0.0.1:{port}/"
            until(lambda: answer(f"{page}api/health"), 60, "the server does not answer")
            assert b"<!DOCTYPE html>" in (answer(page) or b"")
        finally:
            code, said = container.stop(server)
    assert code == 0, said
    masks = data / "masks.zarr"
    owner = (masks / "zarr.json").stat()
    assert (owner.st_uid, owner.st_gid) == (10001, 10001)

    changes = [f"store.path={tmp_path / 'here.zarr'}", "cluster.workers=1"]
    here = segengine.load_job(data / "job.yaml", changes)
    segengine.run(here)
    assert tree(masks) == tree(tmp_path / "here.zarr")
    assert len(tree(masks)) >= 3
