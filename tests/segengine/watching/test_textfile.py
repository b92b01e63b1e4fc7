"""The text file for Prometheus: read as Prometheus' own parser reads it, at any moment."""

import stat
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import segengine
from segengine.errors import JobError
from segengine.job import Job
from segengine.progress import Piece, Progress
from segengine.watching.textfile import TextFile
from segengine_flows.cli import main
from segengine_tasks.session import STAGES, Session


def figures(path: Path) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by name, then by labels other than the job's."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            labels = tuple((k, v) for k, v in sample.labels.items() if k != "name")
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def by(found: dict[str, Any], name: str) -> dict[str, float]:
    """Values by the one label they have."""
    return {labels[0][1]: value for labels, value in found[name].items()}


def test_what_is_counted_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    watcher = TextFile(str(path), 'a "name"\\')
    assert figures(path)["segengine_run_active"] == {(): 1}
    watcher.begin("plan")
    watcher.update(Progress("plan", 2, 10))
    watcher.end("plan")
    watcher.begin("segment")
    pieces = (
        Piece(scene="s", bytes=100),
        Piece(scene="s", bytes=50, attempts=3),
        Piece(scene="s", status="crash", attempts=2, failed=1),
        Piece(scene="s", bytes=7, final=False),
    )
    for done, piece in enumerate(pieces, 1):
        watcher.update(Progress("segment", done, 8, failed=1, pixels=done * 1000, piece=piece))
    watcher.begin("stitch")
    found = figures(path)
    assert by(found, "segengine_shards") == {"done": 4, "quarantined": 1, "queued": 5}
    assert found["segengine_shards_total"][()] == 10
    assert found["segengine_computed_shards"][()] == 2
    assert found["segengine_retries"][()] == 3
    assert found["segengine_stored_bytes"][()] == 157
    assert found["segengine_pixels"][()] == 4000
    assert found["segengine_quarantined_frames"][()] == 1
    assert by(found, "segengine_stage_seconds").keys() == {"plan", "segment", "stitch"}
    assert "segengine_run_success" not in found
    (name,) = {
        sample.labels["name"]
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert name == 'a "name"\\'
    watcher.finish(None)
    found = figures(path)
    assert found["segengine_run_success"][()] == found["segengine_run_active"][()] == 0
    assert found["segengine_run_exit_code"][()] == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["a.prom"]


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--metrics-file: .*no/a.prom: No such file"):
        TextFile(str(tmp_path / "no/a.prom"), "name")


def test_a_file_that_cannot_be_written_any_more_costs_the_run_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    watcher = TextFile(str(folder / "a.prom"), "name")
    (folder / "a.prom").unlink()
    folder.rmdir()
    watcher.begin("plan")
    watcher.finish(None)
    assert not folder.exists()


def job_of(folder: Path) -> Job:
    """Four photos, one of them junk."""
    (folder / "photos").mkdir()
    for index in range(3):
        pixels = np.full((40, 50, 3), index * 60, np.uint8)
        cv2.imwrite(str(folder / "photos" / f"{index}.png"), pixels)
    (folder / "photos" / "junk.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 10)
    return Job.model_validate(
        {
            "name": "photos",
            "source": {"paths": [str(folder / "photos")]},
            "segmenter": {"kind": "threshold"},
            "store": {"path": str(folder / "m.zarr"), "chunk": 256, "shard": 256, "frames": 1},
        }
    )


def test_a_run_keeps_it_whole_and_leaves_the_sums(tmp_path: Path) -> None:
    path, job = tmp_path / "a.prom", job_of(tmp_path)
    ended = threading.Event()
    torn: list[str] = []

    def read_on() -> None:
        while not ended.is_set():
            if path.exists() and "segengine_run_update_timestamp_seconds{" not in path.read_text():
                torn.append(path.read_text())

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        summary = Session(job, in_process=True, metrics_file=str(path)).drive()
    finally:
        ended.set()
        reader.join()
    assert torn == []
    found = figures(path)
    assert by(found, "segengine_shards") == {"done": 3, "quarantined": 0, "queued": 0}
    assert found["segengine_computed_shards"][()] == summary.computed == 3
    assert found["segengine_pixels"][()] == summary.pixels > 0
    records = segengine.open_store(tmp_path / "m.zarr").records()
    stored = sum(o.bytes for record in records if record.kind == "mask" for o in record.objects)
    assert found["segengine_stored_bytes"][()] == stored > 0
    assert found["segengine_quarantined_frames"][()] == 1
    assert by(found, "segengine_stage_seconds").keys() == set(STAGES)
    assert found["segengine_run_success"][()] == 1
    assert found["segengine_run_exit_code"][()] == 3
    begun = found["segengine_run_start_timestamp_seconds"][()]
    assert 0 < begun <= found["segengine_run_end_timestamp_seconds"][()]
    again = Session(job, in_process=True, metrics_file=str(path)).drive()
    assert again.computed == figures(path)["segengine_computed_shards"][()] == 0
    assert by(figures(path), "segengine_shards")["done"] == 3


def test_a_worker_of_a_deployment_names_it_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGENGINE_METRICS_FILE", str(tmp_path / "a.prom"))
    Session(job_of(tmp_path), in_process=True).drive()
    assert figures(tmp_path / "a.prom")["segengine_run_success"][()] == 1


def test_the_command_refuses_a_folder_that_is_not_there_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job_of(tmp_path).as_json()))
    code = main(["run", str(file), "--metrics-file", str(tmp_path / "no/a.prom")])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("segengine: ")
    assert "--metrics-file: " in line
    assert not (tmp_path / "m.zarr/run.lock").exists()
