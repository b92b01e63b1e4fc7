"""What a header claims is bounded before memory is taken; whatever GDAL raises is a reason."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from segengine.errors import CorruptInputError, JobError
from segengine.job import parse_job
from segengine.planning import scan as scanning
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Tile, Unreadable


def tiff(path: Path, *more: tuple[int, int], **tags: int) -> Path:
    """A TIFF of one strip and a header of a hundred bytes, which may claim anything."""
    given = {
        "width": (256, 64), "height": (257, 64), "bits": (258, 8), "packed": (259, 1),
        "photometric": (262, 1), "offset": (273, 8), "bands": (277, 1), "rows": (278, 64),
        "bytes": (279, 4), "planes": (284, 1),
    }  # fmt: skip
    entries = [(tag, tags.get(name, value)) for name, (tag, value) in given.items()] + [*more]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries))
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4))
    return path


def probe(path: Path, **options: Any) -> Any:
    return RasterSource(**options).probe(Entry(path.name, str(path), ""))


def test_a_small_header_is_read(tmp_path: Path) -> None:
    found = probe(tiff(tmp_path / "a.tif"))
    assert (found.height, found.width, found.bands) == (64, 64, 1)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"bands": 65_535}, r"has 65,535 bands; at most 4,096 are read: set source\.bands"),
        (
            {"width": 2**31 - 1, "height": 2**31 - 1, "rows": 1},
            r"is 2147483647 x .* at most 17,592",
        ),
        ({"width": 2**30, "height": 1024, "rows": 1}, "one block of it is 1073741824 x 1 pixels"),
        ({"height": 2**31 - 1, "rows": 1, "packed": 5}, "claims 2,147,483,647 blocks"),
        ({"height": 2000, "rows": 1, "bands": 4000, "planes": 2}, "claims 8,000,000 blocks"),
    ],
)
def test_what_no_worker_could_hold_is_refused(
    tmp_path: Path, claims: dict[str, int], reason: str
) -> None:
    with pytest.raises(CorruptInputError, match=reason):
        probe(tiff(tmp_path / "a.tif", **claims))


@pytest.mark.parametrize("kind", ["raster", "images"])
def test_a_subifd_without_its_length_is_no_end_of_a_run(tmp_path: Path, kind: str) -> None:
    """A directory inside of a directory, which says only how wide it is."""
    inner = struct.pack("<HHHIII", 1, 256, 4, 1, 64, 0)
    path = tiff(tmp_path / "a.tif", (330, 0))
    whole = path.read_bytes()
    path.write_bytes(
        whole.replace(
            struct.pack("<HHII", 330, 4, 1, 0), struct.pack("<HHII", 330, 4, 1, len(whole))
        )
        + inner
    )
    assert path.stat().st_size < 228
    found = scan({"paths": [str(path)], "kind": kind}, {}, (), Cut(64, 64))
    assert len(found.layouts) + len(found.unplaced) == 1
    for bad in found.unplaced:
        assert bad.kind == "corrupt"


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"PK\x03\x04", "ZIP"), (b"\x1f\x8b\x08", "gzip")],
)
@pytest.mark.parametrize("kind", ["raster", "images", "auto"])
def test_an_archive_says_that_it_is_one(tmp_path: Path, head: bytes, name: str, kind: str) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(head + bytes(600))
    (bad,) = scan({"paths": [str(path)], "kind": kind}, {}, (), Cut(64, 64)).unplaced
    assert bad.kind == "corrupt"
    assert bad.reason == (
        f"a {name} archive, which is not read as it stands; unpack it, and name what is in it in "
        "source.paths"
    )


@pytest.mark.parametrize(
    "path", ["/vsizip/{0}/a.zip/a.tif", "/vsigzip/{0}/a.tif.gz", "zip://a.tif"]
)
def test_gdals_own_names_are_refused_in_one_line(tmp_path: Path, path: str) -> None:
    block = {"source": {"paths": [path.format(tmp_path)], "kind": "raster"}}
    with pytest.raises(JobError, match=r"source\.paths.*is not served"):
        parse_job(block | {"segmenter": {"kind": "threshold"}, "store": {"path": str(tmp_path)}})


def test_a_few_of_many_bands_are_read(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", bands=65_535)
    assert probe(path, bands=(1, 65_535)).bands == 2


def test_a_vrt_of_nothing_may_not_be_endless(tmp_path: Path) -> None:
    side = 2_000_000_000
    (tmp_path / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">'
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(CorruptInputError, match="is 2000000000 x 2000000000 pixels"):
        probe(tmp_path / "a.vrt")


def test_what_gdal_raises_by_itself_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rasterio._err import CPLE_AppDefinedError

    def fails(*_: object) -> Any:
        raise CPLE_AppDefinedError(1, 1, "no ImageLength")

    assert not issubclass(CPLE_AppDefinedError, OSError | ValueError)
    path = tiff(tmp_path / "a.tif")
    monkeypatch.setattr("segengine.sources.raster._pages", fails)
    with pytest.raises(CorruptInputError, match=r"^damaged raster: .*no ImageLength"):
        probe(path)
    ref = FrameRef(0, "a.tif", str(path), "", 64, 64)
    (item,) = RasterSource().read([ref], slice(0, 64), slice(0, 64))
    assert isinstance(item, Unreadable)
    assert item.kind == "corrupt"


def test_whatever_a_reader_raises_ends_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange:
        def probe(self, entry: Entry) -> Any:
            raise ArithmeticError("of a library\nof its own")

    tiff(tmp_path / "a.tif")
    monkeypatch.setattr(scanning, "reader", lambda kind, spec: Strange())
    (bad,) = scan({"paths": [str(tmp_path)]}, {}, (), Cut(64, 64)).unplaced
    assert (bad.kind, bad.reason) == ("corrupt", "cannot be read: ArithmeticError: of a library")


def test_mutated_headers_are_read_or_a_reason(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.uint8).reshape(1, 64, 64)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8",
        crs="EPSG:32613", transform=rasterio.Affine(2, 0, 5e5, 0, -2, 4e6), nodata=3,
        tiled=True, blockxsize=16, blockysize=16, compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(values)
    whole, chance = (tmp_path / "a.tif").read_bytes(), random.Random(7)
    path, outcomes = tmp_path / "b.tif", set[str]()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 4))):
            data[chance.randrange(600)] = chance.randrange(256)
        path.write_bytes(data)
        try:
            found = probe(path)
        except CorruptInputError:
            outcomes.add("refused")
            continue
        ref = FrameRef(0, "b.tif", str(path), "", found.height, found.width)
        rows, cols = slice(0, min(64, found.height)), slice(0, min(64, found.width))
        (item,) = RasterSource().read([ref], rows, cols)
        assert isinstance(item, Tile | Unreadable)
        outcomes.add(type(item).__name__)
    assert outcomes == {"refused", "Tile", "Unreadable"}
