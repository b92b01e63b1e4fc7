"""Jobs: what is refused, where and how it is said, and what a fingerprint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segengine.errors import JobError
from segengine.fingerprint import mask_keys
from segengine.job import Job, load_job, located, parse_job

GOOD = """\
name: good
source:
  paths: ["in/*.png"]
segmenter:
  kind: kmeans
  clusters: 3
store:
  path: out/masks.zarr
  chunk: 64
  shard: 128
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def save(text: str) -> Path:
        file = tmp_path / "job.yaml"
        file.write_text(text)
        return file

    return save


def test_a_good_job_becomes_absolute(write: Any, tmp_path: Path) -> None:
    job = load_job(write(GOOD))
    assert job.source.paths == [f"{tmp_path}/in/*.png"]
    assert job.store.path == f"{tmp_path}/out/masks.zarr"
    assert job.segmenter.options == {"clusters": 3}
    assert parse_job(job.as_json()) == job


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("shard: 128", "shrad: 128", 10, ["store.shrad", "unknown key", "did you mean shard?"]),
        ("name: good", "nam: good", 1, ["nam", "unknown key", "did you mean name?"]),
        ("chunk: 64", "chunk: big", 9, ["store.chunk", "integer", "'big'"]),
        ("chunk: 64", "chunk: 8", 9, ["store.chunk", "16", "got 8"]),
        ("shard: 128", "shard: 100", 10, ["store.shard", "no multiple of store.chunk 64", "128"]),
        ("clusters: 3", "clusters: 0", 6, ["segmenter.clusters", "from 1", "0"]),
        ("clusters: 3", "clusters: three", 6, ["segmenter.clusters", "'three'"]),
        ("clusters: 3", "cluster: 3", 6, ["segmenter.cluster", "did you mean clusters?"]),
        ("kind: kmeans", "kind: kmean", 5, ["segmenter.kind", "did you mean kmeans?"]),
        ("kind: kmeans", "kind: 'no.such:Thing'", 5, ["segmenter.kind", "cannot be imported"]),
        ("  clusters: 3\n", "", 5, ["segmenter.clusters: kmeans needs this option"]),
        (
            "kind: kmeans\n  clusters: 3",
            "kind: sam\n  encoder: e.onnx",
            5,
            [" segmenter.decoder: sam needs this option"],
        ),
        ('paths: ["in/*.png"]', "paths: []", 3, ["source.paths"]),
        ('paths: ["in/*.png"]', "paths: 7", 3, ["source.paths", "list", "7"]),
        ('paths: ["in/*.png"]', "path: x", 3, ["source.path: unknown key; did you mean paths?"]),
        ("name: good", "name: no", 1, ["name: must be text, got False", "put it in quotes"]),
        ("chunk: 64", "chunk: true", 9, ["store.chunk: must be a number, got True"]),
        ("name: good", "tracks: {gap: true}", 1, ["tracks.gap: must be a number, got True"]),
        ("name: good", "tracks: {lines: {a: [[0, true], [1, 2]]}}", 1, ["must be a number"]),
        ('paths: ["in/*.png"]', "paths: [a, no]", 3, ["source.paths: must be text, got False"]),
        (
            "  clusters: 3",
            "  clusters: 3\n  instances: {kind: components, min_area: true}",
            7,
            ["segmenter.instances.min_area: must be a number, got True"],
        ),
        (
            'paths: ["in/*.png"]',
            'paths: ["in/*.png"]\n  skip: {still: true}',
            4,
            ["source.skip.still: must be a number, got True"],
        ),
        ("name: good", "cluster: {kind: cloud}", 1, ["cluster.kind", "not installed", "local"]),
        ("name: good", "cluster: {workers: 0}", 1, ["cluster.workers", "at least 1"]),
        ("name: good", "cluster: {kind: address}", 1, ["cluster.address"]),
        (
            "name: good",
            "cluster: {address: 'tcp://a:1'}",
            1,
            ["cluster.address", "local takes none"],
        ),
        (
            "name: good",
            "cluster: {kind: address, address: 'tls://a:1', options: {key: 7}}",
            1,
            ["cluster.options: key:", "valid string", "7"],
        ),
        (
            "name: good",
            "cluster: {kind: jobqueue, options: {system: slurm, memory: 1GB}}",
            1,
            ["cluster.workers", "needs a number"],
        ),
        (
            "name: good",
            "cluster: {workers: {max: 3}}",
            1,
            ["cluster.workers", "local takes a number"],
        ),
        (
            "name: good",
            "cluster: {kind: jobqueue, workers: 2, options: {system: slurm}}",
            1,
            ["cluster.options", "memory: jobqueue needs this option"],
        ),
        ("name: good", "faults: {retries: -1}", 1, ["faults.retries"]),
        ("name: good", "name: good\nname: bad", 2, ["name", "written twice", "line 1"]),
        ("name: good", "truth: {paths: x, values: [1]}", 1, ["truth.values"]),
        ("store:\n", "stores:\n", 7, ["stores: unknown key; did you mean store?"]),
        ("  kind: kmeans", "\tkind: kmeans", 5, ["a tab indents this line"]),
        (
            "  clusters: 3",
            "   clusters: 3",
            6,
            ["clusters: begins in column 4", "kind on line 5", "3"],
        ),
        ("  clusters: 3", " clusters: 3", 6, ["clusters: begins in column 2", "kind on line 5"]),
        ("  shard: 128", "    shard: 128", 10, ["shard: begins in column 5", "chunk on line 9"]),
        ("clusters: 3", "clusters:3", 6, ["clusters:3 has no blank", "write clusters: 3"]),
        ("shard: 128", "shard:128", 10, ["shard:128 has no blank", "write shard: 128"]),
        (
            "  kind: kmeans\n  ",
            "kind: kmeans\n",
            5,
            ["kind: unknown key", "if it belongs to segmenter (line 4), indent it"],
        ),
        (
            "name: good",
            "alerts:\n  - figure: mean_iou\n  below: 0.7",
            3,
            ["below: begins in column 3", "item is on line 2", "begin it in column 5"],
        ),
        ("source:\n", "source: {\n", 2, ["the { on this line is not closed; write } at its end"]),
        (
            "name: good",
            "truth:{paths: x}",
            1,
            ["unknown key; write a blank after the colon of truth:"],
        ),
        (
            "store:\n  ",
            "  store:\n    ",
            0,
            ["store: this key is needed; on line 7 it stands inside segmenter: take"],
        ),
        (
            'paths: ["in/*.png"]\n',
            'paths: ["in/*.png"]\n  evaluate: {}\n',
            4,
            ["source.evaluate: unknown key; it is a key of the job itself: take the blanks"],
        ),
        (
            "name: good",
            "faults: {tracks: 1}",
            1,
            ["faults.tracks: unknown key; it is a key of the"],
        ),
        ("name: good", "tracks: 3", 1, ["tracks: must be a block of keys, got 3"]),
        ("name: good", "alerts: {below: 1}", 1, ["alerts: must be a list", "begin with -"]),
        ("name: good", "cluster: local", 1, ["a block of keys, as cluster: {kind: local}, got"]),
        *(
            (
                "name: good",
                f"cluster: {{workers: {wrong}}}",
                1,
                ["cluster.workers: must be a whole number, auto or {min: 2, max: 50}, got"],
            )
            for wrong in ("true", "many", "1.5", "[2]", "null", ".inf")
        ),
        (
            "name: good",
            "cluster: {workers: {min: 5, max: 2}}",
            1,
            ["cluster.workers.min: 5 is more than max, 2"],
        ),
        ("name: good", "cluster: {workers: {min: 2}}", 1, ["cluster.workers.max: this key is"]),
        (
            "name: good",
            "cluster: {workers: {min: 0, max: 0}}",
            1,
            ["cluster.workers.max: Input", "1"],
        ),
        ("name: good", "cluster: {workers: {min: true, max: 2}}", 1, ["cluster.workers.min: must"]),
        (
            "name: good",
            "cluster: {workers: {min: 1, mx: 2}}",
            1,
            ["cluster.workers.mx: unknown key; did you mean max?"],
        ),
        ("name: good", "cluster: {workers: many}", 1, ["cluster.workers: must", "'many'"]),
        ("source:\n", "source:\n  resolution: -5\n", 3, ["source.resolution: Input", "got -5"]),
        (
            "source:\n",
            "source:\n  kind: photo\n",
            3,
            ["source.kind: 'photo'", "raster, review, stac"],
        ),
        ("name: good", "truth: {paths: 'l/{step}.png'}", 1, ["truth.paths: {step}", "{stem}"]),
        ("kind: kmeans", "kind: ':'", 5, ["segmenter.kind", "cannot be imported"]),
        ("kind: kmeans", "kind: '.a:B'", 5, ["segmenter.kind", "cannot be imported"]),
        ("kind: kmeans", "kind: 'json:decoder'", 5, ["segmenter.kind", "not a class"]),
        ("kind: kmeans", "kind: 'builtins:dict'", 5, ["segmenter.kind", "cannot be told"]),
    ],
)
def test_mistakes_name_file_line_and_key(
    old: str, new: str, line: int, words: list[str], write: Any
) -> None:
    assert old in GOOD
    file = write(GOOD.replace(old, new))
    with pytest.raises(JobError) as error:
        load_job(file)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{file}:{line}: " if line else f"{file}: "), message
    for word in words:
        assert word in message, message
    assert error.value.exit_code == 2


def test_files_that_are_no_job(write: Any, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such job file"):
        load_job(tmp_path / "none.yaml")
    for text in ("", "- a\n- b\n", "just text"):
        with pytest.raises(JobError, match="a job file is a mapping"):
            load_job(write(text))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(JobError, match="cannot be read"):
        load_job(tmp_path / "binary.yaml")


def test_a_block_that_holds_itself(write: Any) -> None:
    with pytest.raises(JobError, match=r"aliases \(&, \*\) are not used"):
        load_job(write(GOOD.replace("name: good", "name: &a [*a]")))


def test_what_the_data_tells_is_located_too(write: Any) -> None:
    file = write(GOOD)
    found = located(file, JobError("source.paths: in/*.png names no input"))
    assert str(found) == f"{file}:3: source.paths: in/*.png names no input"
    other = JobError("s3://bucket/x: no segengine store is there")
    assert located(file, other) is other
    assert located(file.parent / "none.yaml", other) is other


@pytest.mark.parametrize("paths", [["/nowhere/at/all.png"], ["/nowhere/*.png"]])
def test_inputs_that_are_not_there(paths: list[str], bench: Any) -> None:
    with pytest.raises(JobError, match=r"source\.paths: /nowhere"):
        bench.run({"kind": "threshold"}, source={"paths": paths})
    assert not bench.store.exists()


def test_overrides(write: Any) -> None:
    job = load_job(write(GOOD), ["segmenter.clusters=5", "cluster.workers=2", "name=other"])
    assert (job.segmenter.options["clusters"], job.cluster.workers, job.name) == (5, 2, "other")
    for wrong in ("clusters", "=3", "a..b=1", "name.x=1", "name=[", "store.nothing=1"):
        with pytest.raises(JobError):
            load_job(write(GOOD), [wrong])
    with pytest.raises(
        JobError,
        match=r"^--set segmenter\.klusters=5: segmenter\.klusters: .* did you mean clusters\?",
    ):
        load_job(write(GOOD), ["segmenter.klusters=5"])


def test_the_files_of_sam_are_named_from_the_jobs_folder(tmp_path: Path) -> None:
    block = {"kind": "sam", "encoder": "e.onnx", "decoder": "m/d.onnx", "prompts": "grid"}
    data = {"source": {"paths": ["a"]}, "segmenter": block, "store": {"path": "o.zarr"}}
    made = Job.model_validate(data).absolute(tmp_path).segmenter.options
    paths = {"encoder": str(tmp_path / "e.onnx"), "decoder": str(tmp_path / "m/d.onnx")}
    assert made == {**paths, "prompts": "grid"}
    data["segmenter"] = {**block, "prompts": "masks.zarr"}
    made = Job.model_validate(data).absolute(tmp_path).segmenter.options
    assert made["prompts"] == str(tmp_path / "masks.zarr")


def test_a_flow_parameter_must_be_absolute(write: Any) -> None:
    job = load_job(write(GOOD)).as_json()
    assert parse_job(job).store.path == job["store"]["path"]
    job["store"]["path"] = "out.zarr"
    with pytest.raises(JobError, match=r"store\.path: out\.zarr: .* needs absolute paths"):
        parse_job(job)
    with pytest.raises(JobError, match="a file is read by load_job"):
        parse_job("job.yaml")  # type: ignore[arg-type]


def test_credentials_are_not_stored() -> None:
    job = parse_job(
        {
            "source": {"paths": ["https://me:secret@host/a.png?X-Amz-Signature=abc&v=1"]},
            "segmenter": {"kind": "threshold"},
            "store": {"path": "s3://key:secret@bucket/x"},
        }
    )
    text = json.dumps(job.as_json())
    assert "secret" not in text
    assert "?" not in text  # the rest of a query may be a token as well
    assert '"https://host/a.png"' in text
    assert '"s3://bucket/x"' in text


def keys(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "source": {"paths": ["/x"]},
        "segmenter": {"kind": "kmeans", "clusters": 3},
        "store": {"path": "/y"},
    }
    blocks = base | {name: base.get(name, {}) | block for name, block in changes.items()}
    job = Job.model_validate(blocks)
    return mask_keys(job, ("labels",))


@pytest.mark.parametrize(
    "changes",
    [
        {"segmenter": {"space": "rgb", "scope": "frame", "seed": 0, "attempts": 10}},
        {"source": {"every": 1, "bands": None, "color": None, "kind": "auto"}},
        {"source": {"paths": ["/other", "/x"]}},
        {"store": {"path": "/z", "chunk": 64, "shard": 128, "frames": 3}},
        {"cluster": {"workers": 3}},
        {"faults": {"retries": 9}},
        {"truth": {"paths": ["/t/{stem}.png"]}},
        {"evaluate": {"metrics": []}},
    ],
)
def test_what_cannot_change_a_mask_is_not_in_its_fingerprint(changes: dict[str, Any]) -> None:
    assert keys(**changes) == keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"segmenter": {"clusters": 4}},
        {"segmenter": {"seed": 1}},
        {"segmenter": {"space": "lab"}},
        {"segmenter": {"scope": "run"}},
        {"segmenter": {"attempts": 11}},
        {"source": {"every": 2}},
        {"source": {"bands": [1]}},
        {"source": {"color": "gray"}},
    ],
)
def test_what_can_change_a_mask_is_in_its_fingerprint(changes: dict[str, Any]) -> None:
    ((block, option),) = changes.items()
    (name,) = option
    assert keys(**changes) == {**keys(), f"{block}.{name}": option[name]}


def test_outputs_and_versions_are_in_the_fingerprint() -> None:
    job = Job.model_validate(
        {
            "source": {"paths": ["/x"]},
            "segmenter": {"kind": "threshold"},
            "store": {"path": "/y"},
        }
    )
    plain = mask_keys(job, ("labels",))
    assert mask_keys(job, ("labels", "probabilities")) != plain
    assert plain["segmenter version"] == 1
