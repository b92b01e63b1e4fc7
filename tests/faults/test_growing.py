"""The chapter from a laptop to Slurm, to Kubernetes: every command of it, in its order, on one store."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import differing, marked, tree, until, write_photos

import segengine
from tests.kube import IMAGE, Cluster
from tests.slurm import Account

pytestmark = [pytest.mark.system, pytest.mark.slurm]

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "deployments/growing/README.md"
NAMES = ("photos", "new", "newer")
"""Folders that photos come in, a step each."""
EACH = 2
"""Photos in each: a scene of one shard."""


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path / "kube", [str(Path(segengine.__file__).parents[1])])
    yield found
    found.end()
    until(lambda: not marked(found.mark), "the cluster leaves processes")


def written(text: str, folder: Path) -> None:
    """The chapter's files, each by the name in its first line."""
    files = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["job.yaml", "slurm.yaml", "kubernetes.yaml"]
    for name, block in files:
        (folder / name).write_text(block.replace("example.org/segengine:0.2.0", IMAGE))


def test_every_command_of_the_chapter_goes_on_with_what_the_one_before_left(
    slurm: Account, kube: Cluster, tmp_path: Path
) -> None:
    text = CHAPTER.read_text(encoding="utf-8")
    here, alone = tmp_path / "here", tmp_path / "alone"
    every = sorted(write_photos(tmp_path / "every", EACH * len(NAMES)).iterdir())
    for folder in (here, alone):
        for i, photo in enumerate(every):
            place = folder / NAMES[i // EACH]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(photo, place)
        written(text, folder)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        **slurm.environment,
        **kube.environment(),
    }

    def typed(command: str, folder: Path = here) -> str:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout + done.stderr

    steps = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    laptop, on_slurm, on_kubernetes, back = (
        {line: typed(line) for line in step.splitlines()} for step in steps
    )
    done = "2 frames in 1 scene; 1 shard computed, 0 done before"
    assert done in laptop["segengine run job.yaml"]
    assert "1 shard" in on_slurm["segengine plan job-slurm.yaml"]
    run = on_slurm["segengine run job-slurm.yaml"]
    assert "4 frames" in run
    assert ", 1 done before" in run
    assert len(on_slurm["squeue --me"].splitlines()) == 1, "its head alone"
    assert slurm.said("squeue", "--me", "--states=all", "--noheader"), "no job was there"
    run = on_kubernetes["segengine run job-kubernetes.yaml"]
    assert "6 frames" in run
    assert ", 2 done before" in run
    assert "; 0 shards computed, 3 done before" in back["segengine run job.yaml"]
    assert ("create", "daskclusters") in {(verb, name) for _, verb, name in kube.server.used}
    slurm.until_empty(20)
    kube.until_empty(90)
    for name in NAMES:
        typed(f"[ {name} = photos ] || cp {name}/* photos/; segengine run job.yaml", alone)
    assert differing(*(tree(str(folder / "masks.zarr")) for folder in (here, alone))) == []
