"""From paths to items: every catalog as pystac walks it, and catalogs that no one should walk."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pystac
import pytest

from segengine.errors import TransientInputError
from segengine.sources import _stac_documents
from segengine.sources._stac_documents import MOST_BYTES
from segengine.sources._stac_items import Item, read_item
from segengine.sources._stac_links import Reach
from segengine.sources._stac_walk import Walk
from segengine.sources.listing import Unlisted


def walk(*paths: Path | str, trust: bool = False) -> list[Item | Unlisted]:
    named = [str(path) for path in paths]
    reach = Reach.of(named, trust)
    return list(Walk(reach, partial(read_item, assets=None, reach=reach)).run(named))


def items(found: list[Item | Unlisted]) -> list[Item]:
    return [each for each in found if isinstance(each, Item)]


def bad(found: list[Item | Unlisted]) -> list[tuple[str, str, str]]:
    return [(each.name, each.kind, each.reason) for each in found if isinstance(each, Unlisted)]


def catalog(name: str, *links: tuple[str, str]) -> str:
    held = [{"rel": rel, "href": href} for rel, href in links]
    about = {"type": "Catalog", "stac_version": "1.0.0", "id": name, "description": "-"}
    return json.dumps({**about, "links": held})


def item(name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "bbox": [0, 0, 1, 1],
        "geometry": {"type": "Point", "coordinates": [0, 0]},
        "properties": {"datetime": "2026-05-01T00:00:00Z"},
        "assets": {"red": {"href": "red.tif"}}, "links": [], **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count"),
    [("landsat/catalog.json", 4), ("nested/catalog.json", 8), ("planet/collection.json", 5),
     ("deep/catalog.json", 1)],
)  # fmt: skip
def test_pystacs_catalogs_are_walked_as_pystac_walks_them(
    examples: Path, name: str, count: int
) -> None:
    ours = items(walk(examples / name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = pystac.read_file(str(examples / name))
        assert isinstance(root, pystac.Catalog)
        theirs = {each.id: each for each in root.get_items(recursive=True)}
    assert len(ours) == count
    assert {each.name: each.base for each in ours} == {
        name: each.get_self_href() for name, each in theirs.items()
    }
    compared = 0
    for each in ours:
        hrefs = {a.get_absolute_href() for a in theirs[each.name].assets.values()}
        for part in each.parts:
            assert part.uri in hrefs
            compared += 1
    assert compared or name.startswith("nested")


def test_a_folder_a_glob_an_item_and_a_list_name_the_same(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"i{i}.json").write_text(json.dumps(item(f"i{i}")))
    (tmp_path / "readme.txt").write_text("-")
    every = {"i0", "i1", "i2"}
    assert {each.name for each in items(walk(tmp_path))} == every
    assert {each.name for each in items(walk(tmp_path / "i*.json"))} == every
    assert {each.name for each in items(walk(tmp_path / "i1.json"))} == {"i1"}
    listed = {"type": "FeatureCollection", "features": [item(f"i{i}") for i in range(3)]}
    (tmp_path / "all.geojson").write_text(json.dumps(listed))
    found = items(walk(tmp_path / "all.geojson"))
    assert {each.name for each in found} == every
    assert found[0].parts[0].uri == str(tmp_path / "red.tif")
    (tmp_path / "catalog.json").write_text(catalog("c", ("item", "i0.json")))
    assert {each.name for each in items(walk(tmp_path))} == {"i0"}


def test_links_are_relative_or_absolute(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "i.json").write_text(json.dumps(item("i")))
    (tmp_path / "j.json").write_text(json.dumps(item("j")))
    (tmp_path / "k.json").write_text(json.dumps(item("k")))
    links = [("item", "./a/i.json"), ("item", f"{tmp_path}/j.json"),
             ("item", f"file://{tmp_path}/k.json"), ("item", "a/../a/i.json")]  # fmt: skip
    (tmp_path / "catalog.json").write_text(catalog("c", *links))
    assert sorted(each.name for each in items(walk(tmp_path / "catalog.json"))) == ["i", "j", "k"]


def test_an_item_of_a_list_is_relative_to_itself(tmp_path: Path) -> None:
    self_link = {"rel": "self", "href": "https://host/items/i.json"}
    listed = {"type": "FeatureCollection", "features": [item("i", links=[self_link])]}
    (tmp_path / "all.json").write_text(json.dumps(listed))
    (found,) = items(walk(tmp_path / "all.json"))
    assert found.parts[0].uri == "https://host/items/red.tif"


def test_a_loop_is_said_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text(catalog("top", ("child", "sub.json")))
    (tmp_path / "sub.json").write_text(
        catalog("sub", ("child", "./catalog.json"), ("child", "sub.json"), ("item", "i.json"))
    )
    (tmp_path / "i.json").write_text(json.dumps(item("i")))
    found = walk(tmp_path / "catalog.json")
    assert [each.name for each in items(found)] == ["i"]
    assert [(name, kind) for name, kind, _ in bad(found)] == [("sub", "corrupt")] * 2
    assert all("a loop, not followed" in reason for *_, reason in bad(found))


def test_catalogs_without_end_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(80):
        (tmp_path / f"{i}.json").write_text(catalog(f"c{i}", ("child", f"{i + 1}.json")))
    ((name, kind, reason),) = bad(walk(tmp_path / "0.json"))
    assert (name, kind) == ("c63", "corrupt")
    assert "more than 64 catalogs deep" in reason


@pytest.mark.parametrize(
    ("href", "reason"),
    [
        ("ftp://host/i.json", "ftp:// is not served"),
        ("https://elsewhere/i.json", "of no host or bucket that the job names"),
        ("/etc/hostname", "lies in no folder of source.paths"),
        ("../../../etc/hostname", "lies in no folder of source.paths"),
        ("/vsizip/a.zip/i.json", "GDAL's own way"),
        (None, "a link without an address"),
        ({}, "a link without an address"),
    ],
)
def test_links_out_of_the_job_are_not_followed(tmp_path: Path, href: Any, reason: str) -> None:
    links = [{"rel": "item", "href": href}, {"rel": "item", "href": "i.json"}, 7, {"rel": 3}]
    text = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(text))
    (tmp_path / "i.json").write_text(json.dumps(item("i")))
    found = walk(tmp_path / "catalog.json")
    assert [each.name for each in items(found)] == ["i"]
    ((name, kind, said),) = bad(found)
    assert (name, kind) == ("c", "corrupt")
    assert reason in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"<html><body>Sign in</body></html>", "an HTML page"),
        (b"", "is no JSON"),
        (b'{"type": "Feature"', "is no JSON"),
        (b"[1, 2]", "is no object"),
        (b'{"type": "Feature"}', "has no id"),
        (b'{"type": "Polygon"}', "is no STAC item, catalog or collection"),
        (b'{"type": "Catalog", "id": "c"}', "is a catalog without links"),
        (b'{"type": "FeatureCollection"}', "without items"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"a": ' * 50_000, "is no JSON"),
        (b"[" + b"[]," * 5_000_000 + b"[]]", "values; at most"),
        (b"\xff\xfe\x00\x01" * 10, "is no JSON"),
    ],
)
def test_what_is_no_document_is_left_out_by_name(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "night.json").write_bytes(text)
    (tmp_path / "good.json").write_text(json.dumps(item("good")))
    found = walk(tmp_path / "*.json")
    assert [each.name for each in items(found)] == ["good"]
    ((name, kind, said),) = bad(found)
    assert (name, kind) == ("night", "corrupt")
    assert reason in said
    assert "\n" not in said


def test_a_file_of_ten_gigabytes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "night.json", "wb") as file:
        file.truncate(10 * 10**9)
    tracemalloc.start()
    found = walk(tmp_path / "night.json")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ((name, kind, reason),) = bad(found)
    assert (name, kind) == ("night", "corrupt")
    assert "10,000,000,000 bytes" in reason
    assert most < 2**22


class _Endless(BaseHTTPRequestHandler):
    """Ten gigabytes, of which it says nothing; it is busy at first."""

    sent = 0
    busy = 0

    def do_GET(self) -> None:
        if type(self).busy:
            type(self).busy -= 1
            self.send_response(429)
            self.send_header("Retry-After", "0.01")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/denied.json":
            self.send_error(403)
            return
        body = json.dumps(item("i")).encode() if self.path == "/i.json" else None
        self.send_response(200)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.end_headers()
        piece = b" " * 2**20
        try:
            for _ in range(10_000):
                self.wfile.write(piece)
                type(self).sent += len(piece)
        except OSError:
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endless() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endless)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stream_without_end_is_cut(endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stac_documents, "MOST_BYTES", 2**22)
    _Endless.sent = 0
    ((name, kind, reason),) = bad(walk(f"{endless}/night.json"))
    assert (name, kind) == ("night", "corrupt")
    assert "more than 4,194,304 bytes" in reason
    assert _Endless.sent < 2**26 < MOST_BYTES * 2


def test_a_busy_server_is_asked_again(endless: str) -> None:
    _Endless.busy = 3
    assert [each.name for each in items(walk(f"{endless}/i.json"))] == ["i"]


def test_a_catalog_that_does_not_answer_stops_the_run(endless: str) -> None:
    """What it holds must not count as gone."""
    with pytest.raises(TransientInputError, match="access denied"):
        walk(f"{endless}/denied.json")


def test_what_lies_behind_a_url_names_no_file_of_this_machine(endless: str) -> None:
    reach = Reach.of([endless])
    for href in ("/etc/passwd", "file:///etc/passwd", "../../../etc/passwd"):
        held = {**item("i"), "assets": {"red": {"href": href}}}
        found = read_item(held, f"{endless}/i.json", ("red",), reach)
        if href.startswith("file:"):
            assert "a file of this machine" in found.problem
        else:
            assert found.parts[0].uri == f"{endless}/etc/passwd"


def test_a_path_that_is_not_there_is_a_mistake(tmp_path: Path, endless: str) -> None:
    with pytest.raises(ValueError, match=r"source\.paths: .*nothing.json names no input"):
        walk(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match=r"source\.paths: .* names no input"):
        walk(tmp_path / "*.json")


def test_a_collection_of_an_api_says_how_to_ask(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(catalog("c", ("items", "https://host/items")))
    ((_, _, reason),) = bad(walk(tmp_path / "c.json"))
    assert "source.search.url" in reason


def test_geoparquet_holds_the_items(tmp_path: Path) -> None:
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    held = [
        item("i", assets={"red": {"href": "https://host/i.tif", "roles": ["data"],
                                  "raster:bands": [{"scale": 0.1, "nodata": 0}]}}),
        item("j", assets={"red": {"href": "j.tif"}, "nir": {"href": "n.tif"}}),
    ]  # fmt: skip
    to_parquet(parse_stac_items_to_arrow(held), str(tmp_path / "items.parquet"))
    reach = Reach.of([str(tmp_path)])
    read = partial(read_item, assets=("red",), reach=reach)
    found = items(list(Walk(reach, read).run([str(tmp_path / "items.parquet")])))
    assert [each.name for each in found] == ["i", "j"]
    first, second = (each.parts[0] for each in found)
    assert (first.uri, first.scale, first.nodata) == ("https://host/i.tif", 0.1, 0)
    assert second.uri == str(tmp_path / "j.tif")
    assert not any(each.problem for each in found)


def test_damaged_geoparquet_is_left_out(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    pq.write_table(pa.table({"id": ["i"], "x": [1]}), tmp_path / "b.parquet")
    found = walk(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert not [each for each in items(found) if not each.problem]
    reasons = [reason for *_, reason in bad(found)] + [each.problem for each in items(found)]
    assert len(reasons) == 2
    assert "no GeoParquet of STAC items" in reasons[0]
