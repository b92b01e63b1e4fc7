"""What Prefect keeps of a run whose URLs carry credentials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.system
SERVER = Path(__file__).parents[1] / "segengine" / "_guarded.py"


def test_prefect_is_told_none_of_them(
    tmp_path: Path, photos: Path, start: Any, prefect_home: Path
) -> None:
    (photos / "torn.png").write_bytes((photos / "0.png").read_bytes()[:99])
    command = [sys.executable, str(SERVER), str(photos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        host = f"127.0.0.1:{server.stdout.readline().strip()}"
        job = {
            "name": "guarded",
            "source": {
                "paths": [
                    f"http://SECRETuser:SECRETword@{host}/0.png",
                    f"http://{host}/1.png?token=SECRETone%2F%2B%3D",
                    f"http://{host}/torn.png?token=SECRETone%2F%2B%3D",
                ]
            },
            "segmenter": {"kind": "kmeans", "clusters": 3},
            "store": {"path": "masks.zarr"},
            "cluster": {"workers": 1},
        }
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(job))
        process = start("run", str(file), "--prefect")
        out, err = process.communicate(timeout=240)
        server.kill()
    assert process.returncode == 3, err  # one is torn, the others were read
    assert "torn.png" in out
    assert "SECRET" not in out + err
    kept = b"".join(p.read_bytes() for p in prefect_home.rglob("*") if p.is_file())
    assert b"guarded-quarantine" in kept, "the run is there, with its artifacts"
    assert host.encode() in kept
    assert b"SECRET" not in kept
