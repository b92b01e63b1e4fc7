"""URLs that are served, and all others, refused by name wherever one can be typed."""

from __future__ import annotations

import json
import re
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fsspec.registry import known_implementations

from segengine.errors import JobError, TransientInputError
from segengine.guards.schemes import SERVED, filesystem, refusal
from segengine.job import load_job, parse_job
from segengine.sources._files import read_bytes
from segengine.sources.listing import list_entries
from segengine.store.blobs import open_objects
from segengine_flows.cli import main

SERVED_URLS = (
    "https://host/a.tif", "http://127.0.0.1:8000/a.tif?x=1", "s3://bucket/*.tif", "gs://b/a", "gcs://b",
    "file:///a/b.tif", "/data/a::b.tif", "/a b/c.tif", "relative/a.tif", "2020-01-01T10:00.tif",
    "s3a://bucket/a b.tif", "scene:1.tif", "a::b.tif", "{path}.png",
    "http://[::1]:80/a.tif", "https://me:x@[fe80::1]/a.tif?x=1",
)  # fmt: skip
REFUSED = {
    "zip://*.tif::https://host/a.zip": "zip://",
    "zip://a.tif::/data/a.zip": "zip://",
    "simplecache::s3://bucket/a.tif": "simplecache::",
    "filecache::https://host/a.tif": "filecache::",
    "blockcache::/data/a.tif": "blockcache::",
    "https://host/a::zip://b.tif": "https://...::",
    "s3://bucket/a.zip::zip://b": "s3://...::",
    "reference://": "reference://",
    "data:image/png;base64,iVBORw0KGgo=": "data:",
    "memory://a": "memory://",
    "github://org:repo@main/a.tif": "github://",
    "ftp://host/a.tif": "ftp://",
    "sftp://host/a.tif": "sftp://",
    "hdfs://host/a": "hdfs://",
    "jar:/a.jar": "jar://",
    "tar://a.tif::b.tar": "tar://",
    "dask://a": "dask://",
    "S3://bucket/a.tif": "write s3://",
    "HTTPS://host/a.tif": "write https://",
    " s3://bucket/a.tif": "white space",
    "https://host/a.tif\n": "white space",
    "s3:/bucket/a.tif": "two slashes",
    "s3:\\\\bucket\\a.tif": "two slashes",
    "https://host\\@other/a.tif": "two slashes",
    "C:\\data\\a.tif": "C://",
    "http://[::1]/a.zip::zip://b": "http://...::",
    "https://h/[::1]/a.tif": "https://...::",
    "/data/a\0.tif": "NUL",
    "/data/\ud800.tif": "half a character",
    f"/data/{'a' * 256}": "256 in one name",
    "/a" * 2048: "4,096 bytes",
    "/vsicurl/https://host/a.tif": "/vsicurl",
    "/vsizip//data/a.zip/a.tif": "/vsizip",
    "/vsicurl?url=x": "/vsicurl",
}


@pytest.mark.parametrize("path", SERVED_URLS)
def test_what_is_served(path: str) -> None:
    assert refusal(path) is None


@pytest.mark.parametrize("path", REFUSED)
def test_all_else_is_refused_by_name(path: str) -> None:
    reason = refusal(path)
    assert reason is not None
    assert REFUSED[path] in reason
    assert "\n" not in reason
    with pytest.raises(ValueError, match=r"serve|write|NUL|half|too long|two slashes|white space"):
        filesystem(path if "://" in path else f"zip://{path}")


@pytest.mark.parametrize("scheme", sorted({*known_implementations} - {*SERVED}))
def test_every_other_scheme_of_fsspec_is_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match=f"^{scheme}:// is not served"):
        filesystem(f"{scheme}://a/b")


def test_a_reason_names_no_credentials() -> None:
    for url in (
        "ftp://me:secret@host/a",
        "simplecache::https://me:secret@host/a",
        "S3://k:secret@b",
    ):
        assert "secret" not in str(refusal(url))


def job(**blocks: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "source": {"paths": ["/data/*.tif"]},
        "segmenter": {"kind": "threshold"},
        "store": {"path": "/out/masks.zarr"},
    }
    return {name: {**plain.get(name, {}), **blocks.get(name, {})} for name in {*plain, *blocks}}


@pytest.mark.parametrize("path", [p for p in REFUSED if p != "jar:/a.jar"])
@pytest.mark.parametrize(
    ("key", "blocks"),
    [
        ("source.paths", lambda p: {"source": {"paths": ["/data/a.tif", p]}}),
        ("truth.paths", lambda p: {"truth": {"paths": [p]}}),
        ("store.path", lambda p: {"store": {"path": p}}),
        ("source.annotations", lambda p: {"source": {"kind": "coco", "annotations": p}}),
        ("segmenter.path", lambda p: {"segmenter": {"kind": "model", "path": p + "/m.onnx"}}),
    ],
)
def test_a_job_names_the_key(key: str, blocks: Any, path: str) -> None:
    if path.endswith("\n") and key == "segmenter.path":
        return  # it is white space inside, then
    with pytest.raises(JobError) as error:
        parse_job(job(**blocks(path)))
    assert f"{key}: " in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_a_store_is_not_written_to_a_web_server() -> None:
    with pytest.raises(JobError, match=r"store\.path: https:// is not served; .* s3://"):
        parse_job(job(store={"path": "https://host/masks.zarr"}))


def test_the_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "source: {paths: a.tif}\nsegmenter: {kind: threshold}\nstore:\n  path: memory://a\n"
    )
    with pytest.raises(JobError, match=r"job\.yaml:4: store\.path: memory:// is not served"):
        load_job(file)


@pytest.mark.parametrize("command", ["status", "verify", "report", "evaluate", "show", "export"])
@pytest.mark.parametrize("store", ["zip://a::https://h/b.zip", "simplecache::s3://b/m", "S3://b/m"])
def test_commands_refuse_such_stores(command: str, store: str, capfd: Any) -> None:
    more = {"show": ["--scene", "a"], "export": ["--to", "png"]}.get(command, [])
    assert main([command, store, *more]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert "STORE: " in said[0]


def test_truth_of_the_command_line(tmp_path: Path, capfd: Any) -> None:
    assert main(["evaluate", str(tmp_path), "--truth", "github://org:repo@main/{stem}.png"]) == 2
    assert "--truth: github:// is not served" in capfd.readouterr().err


def test_the_library_refuses_them_too() -> None:
    with pytest.raises(ValueError, match=r"ftp://.* is not served|ftp:// cannot be read"):
        list_entries(["ftp://host/a.tif"])
    with pytest.raises(Exception, match=r"ftp:// is not served"):
        open_objects("ftp://host/masks.zarr").get("zarr.json")


def _job_of(folder: Path, source: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(json.dumps(job(source={"paths": [source]}, store={"path": "m.zarr"})))
    return file


class _V6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def test_an_address_of_ipv6_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("here")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with _V6(("::1", 0), handler) as server:
        monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://[::1]:{server.server_port}/a.txt"
        assert read_bytes(url) == b"here"
        assert [entry.name for entry in list_entries([url]).entries] == ["a.txt"]
        server.shutdown()


def test_a_listing_that_fails_names_its_path(tmp_path: Path, capfd: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/nights/*.tif"
        with pytest.raises(TransientInputError) as error:
            list_entries([url])
    assert str(error.value).startswith(f"{url}: cannot be read: ")
    assert main(["plan", str(_job_of(tmp_path, url))]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"segengine: source.paths: {url}: cannot be read: ")


@pytest.mark.parametrize("path", ["a\0b", "a" * 256, "\ud800"], ids=["NUL", "long", "half"])
@pytest.mark.parametrize(
    "command",
    ["run {}", "plan {}", "train {}", "status {}", "demo --out {}", "export s --to png --out {}",
     "show s --scene a --out {}", "evaluate s --truth {}"],
)  # fmt: skip
def test_no_command_takes_what_is_no_path(command: str, path: str, capfd: Any) -> None:
    with pytest.raises(SystemExit) as left:
        main([part.format(path) for part in command.split(" ")])
    assert left.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"argument \S+: (holds|is too long)", line)
