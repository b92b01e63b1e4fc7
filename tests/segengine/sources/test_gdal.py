"""What a raster file may name: nothing that lies elsewhere, nothing that fetches or runs."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.vrt import WarpedVRT

import segengine
from segengine.errors import CorruptInputError
from segengine.job import parse_job
from segengine.planning.plan import make_plan
from segengine.sources.raster import RasterSource
from segengine.store.blobs import open_objects
from segengine.types import Entry, FrameRef, Tile, Unreadable

SECRET = b"a secret that nobody may segment" * 128
SIZE = 64


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A raster that is not the job's, with its pixels as they lie in the file."""
    path = tmp_path / "secret" / "a.tif"
    path.parent.mkdir()
    write(path, np.frombuffer(SECRET, np.uint8).reshape(SIZE, SIZE))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    write(folder / "a.tif", pixels(1))
    return folder


class Server:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.asked = asked = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, daemon=True)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()
    thread.join()


def pixels(seed: int, side: int = SIZE) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def write(path: Path, values: Any, driver: str = "GTiff", **tags: dict[str, str]) -> Path:
    with rasterio.open(
        path, "w", driver=driver, count=1, height=values.shape[0], width=values.shape[1],
        dtype=values.dtype, transform=Affine(2, 0, 5e5, 0, -2, 4e6), crs="EPSG:32613",
    ) as dataset:  # fmt: skip
        dataset.write(values[None])
        for domain, items in tags.items():
            dataset.update_tags(ns=domain, **items)
    return path


def source(name: str, relative: int = 1, x: int = 0) -> str:
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'
        f'<SourceBand>1</SourceBand><SrcRect xOff="0" yOff="0" xSize="{SIZE}" ySize="{SIZE}"/>'
        f'<DstRect xOff="{x}" yOff="0" xSize="{SIZE}" ySize="{SIZE}"/></SimpleSource>'
    )


def vrt(path: Path, *sources: str, band: str = "", more: str = "", width: int = SIZE) -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{SIZE}">{more}'
        f'<VRTRasterBand dataType="Byte" band="1"{band}>{"".join(sources)}</VRTRasterBand>'
        "</VRTDataset>"
    )
    return path


def raw(name: str) -> str:
    return (
        f'<SourceFilename relativeToVRT="1">{name}</SourceFilename><ImageOffset>0</ImageOffset>'
        f"<PixelOffset>1</PixelOffset><LineOffset>{SIZE}</LineOffset>"
    )


def wms(server: Server) -> str:
    corners = "".join(
        f"<{name}>{value}</{name}>"
        for name, value in (
            ("UpperLeftX", 0), ("UpperLeftY", 0), ("LowerRightX", SIZE), ("LowerRightY", SIZE),
            ("SizeX", SIZE), ("SizeY", SIZE),
        )
    )  # fmt: skip
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server.url}/${{z}}/${{x}}</ServerUrl></Service>'
        f"<DataWindow>{corners}</DataWindow><BlockSizeX>{SIZE}</BlockSizeX>"
        f"<BlockSizeY>{SIZE}</BlockSizeY><BandsCount>1</BandsCount></GDAL_WMS>"
    )


def read(path: Path, **options: Any) -> Any:
    """The pixels (y, x); CorruptInputError with the reason, as planning raises it."""
    reader = RasterSource(**options)
    found = reader.probe(Entry(path.name, str(path), ""))
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    (item,) = reader.read([ref], slice(0, found.height), slice(0, found.width))
    assert isinstance(item, Tile), item
    return item.pixels[..., 0]


def refused(path: Path, **options: Any) -> str:
    """The reason, the same from a plan and from a worker."""
    reader = RasterSource(**options)
    with pytest.raises(CorruptInputError) as error:
        reader.probe(Entry(path.name, str(path), ""))
    ref = FrameRef(0, path.name, str(path), "", SIZE, SIZE)
    (item,) = reader.read([ref], slice(0, SIZE), slice(0, SIZE))
    assert item == Unreadable("corrupt", str(error.value))
    assert "\n" not in item.reason
    return item.reason


# What is read as before


def test_a_mosaic_of_tiles_beside_it_equals_the_mosaic(inputs: Path) -> None:
    (inputs / "tiles").mkdir()
    write(inputs / "tiles" / "b:c.tif", pixels(2))
    name = str(inputs / "tiles" / "b:c.tif")
    path = vrt(inputs / "m.vrt", source("a.tif"), source(name, 0, SIZE), width=2 * SIZE)
    np.testing.assert_array_equal(read(path), np.hstack([pixels(1), pixels(2)]))


def test_a_vrt_as_gdal_writes_it_is_read(inputs: Path) -> None:
    rasterio.shutil.copy(inputs / "a.tif", inputs / "copy.vrt", driver="VRT")
    np.testing.assert_array_equal(read(inputs / "copy.vrt"), pixels(1))
    with rasterio.open(inputs / "a.tif") as dataset, WarpedVRT(dataset, crs="EPSG:4326") as warped:
        expected = warped.read(1)
        rasterio.shutil.copy(warped, inputs / "warped.vrt", driver="VRT")
    np.testing.assert_array_equal(read(inputs / "warped.vrt"), expected)
    vrt(inputs / "outer.vrt", source("copy.vrt"))
    np.testing.assert_array_equal(read(inputs / "outer.vrt"), pixels(1))


def test_comments_and_a_declaration_are_no_fault(inputs: Path) -> None:
    path = vrt(inputs / "a.vrt", source("a.tif"), more="<!-- made by hand - not by GDAL -->")
    path.write_text('<?xml version="1.0" encoding="UTF-8"?>\n' + path.read_text())
    np.testing.assert_array_equal(read(path), pixels(1))


@pytest.mark.parametrize("named", ["{0}", "{0}/*.tif", "{0}/a.tif", "{1}/**/a.tif", "file://{0}"])
def test_sources_among_the_paths_of_the_job_are_read(
    tmp_path: Path, inputs: Path, secret: Path, named: str
) -> None:
    path = vrt(inputs / "m.vrt", source(str(secret), 0))
    paths = (named.format(secret.parent, tmp_path),)
    expected = np.frombuffer(SECRET, np.uint8).reshape(SIZE, SIZE)
    np.testing.assert_array_equal(read(path, paths=paths), expected)


@pytest.mark.parametrize("named", ["{0}/*.png", "{0}/b", "{0}/a", "{0}x", "https://h{0}"])
def test_sources_among_other_paths_are_not(inputs: Path, secret: Path, named: str) -> None:
    path = vrt(inputs / "m.vrt", source(str(secret), 0))
    assert "nor among source.paths" in refused(path, paths=(named.format(secret.parent),))


@pytest.mark.parametrize(
    ("driver", "suffix"),
    [("GTiff", "tif"), ("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"),
     ("WEBP", "webp"), ("JP2OpenJPEG", "jp2"), ("HFA", "img"), ("netCDF", "nc"), ("AAIGrid", "asc"),
     ("ENVI", "bin"), ("EHdr", "bil"), ("DTED", "dt0"), ("SRTMHGT", "hgt")],
)  # fmt: skip
def test_formats_of_the_list_are_read_as_gdal_reads_them(
    tmp_path: Path, driver: str, suffix: str
) -> None:
    path = tmp_path / f"n40e010.{suffix}"
    values = pixels(3)
    profile: dict[str, Any] = {"count": 1, "dtype": "uint8"}
    transform = Affine(2, 0, 5e5, 0, -2, 4e6)
    if driver in ("DTED", "SRTMHGT"):
        side = 1201 if driver == "SRTMHGT" else 121
        values = pixels(3, side).astype(np.int16)
        step = 1 / (side - 1)
        transform = Affine(step, 0, 10 - step / 2, 0, -step, 41 + step / 2)
    if driver == "WEBP":
        values, profile = np.stack([values] * 3), {"count": 3, "dtype": "uint8"}
    base = tmp_path / "base.tif"
    profile |= {"dtype": values.dtype, "transform": transform, "crs": "EPSG:4326"}
    with rasterio.open(
        base, "w", driver="GTiff", height=values.shape[-2], width=values.shape[-1], **profile
    ) as dataset:
        dataset.write(values if values.ndim == 3 else values[None])
    rasterio.shutil.copy(base, path, driver=driver)
    with rasterio.open(path) as dataset:
        assert dataset.driver == driver
        expected = dataset.read(1)
    np.testing.assert_array_equal(read(path), expected)


# What is refused


def attacks(folder: Path, secret: Path, server: Server) -> dict[str, Path]:
    """Files that name, fetch or run something, each with all it needs."""
    outside = os.path.relpath(secret, folder)
    (folder / "link.tif").symlink_to(secret)
    vrt(folder / "inner.vrt", source(str(secret), 0))
    (folder / "wms.tif").write_text(wms(server))
    (folder / "wms.xml").write_text(wms(server))
    shutil.copy(folder / "a.tif", folder / "masked.tif")
    (folder / "masked.tif.msk").write_text(wms(server))
    shutil.copy(folder / "a.tif", folder / "upper.tif")
    vrt(folder / "upper.tif.MSK", source(str(secret), 0))
    shutil.copy(folder / "a.tif", folder / "overview.tif")
    (folder / "overview.tif.ovr").write_text(wms(server))
    shutil.copy(folder / "a.tif", folder / "pam.tif")
    (folder / "pam.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
        f"/vsicurl/{server.url}/o.tif</MDI></Metadata></PAMDataset>"
    )
    write(folder / "tag.tif", pixels(1), OVERVIEWS={"OVERVIEW_FILE": str(secret)})
    write(folder / "p.jpg", pixels(1), "JPEG")
    jpeg, text = (
        (folder / "p.jpg").read_bytes(),
        vrt(folder / "p.vrt", source("a.tif")).read_bytes(),
    )
    segment = (len(text) + 2).to_bytes(2, "big").replace(b"\0", b"\1") + text.ljust(256)
    (folder / "p.jpg").write_bytes(jpeg[:2] + b"\xff\xfe" + segment + jpeg[2:])
    with h5py.File(folder / "external.nc", "w") as file:
        parts = [(str(secret), 0, len(SECRET))]
        file.create_dataset("v", (SIZE, SIZE), "u1", external=parts)
    with h5py.File(folder / "linked.nc", "w") as file:
        file["v"] = h5py.ExternalLink(str(secret), "/v")
    layout = h5py.VirtualLayout((SIZE, SIZE), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "v", (SIZE, SIZE))
    with h5py.File(folder / "virtual.nc", "w") as file:
        file.create_virtual_dataset("v", layout)
    canary = folder / "canary"
    python = (
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python"
        "</PixelFunctionLanguage><PixelFunctionCode><![CDATA[\nimport pathlib\n"
        f"pathlib.Path({str(canary)!r}).touch()\ndef f(*a, **k):\n    pass\n]]></PixelFunctionCode>"
    )
    one = source("a.tif")
    return {
        "absolute": vrt(folder / "01.vrt", source(str(secret), 0)),
        "dots": vrt(folder / "02.vrt", source(outside)),
        "link": vrt(folder / "03.vrt", source("link.tif")),
        "nested": vrt(folder / "04.vrt", source("inner.vrt")),
        "raw": vrt(folder / "05.vrt", raw(outside), band=' subClass="VRTRawRasterBand"'),
        "raw, in another case": vrt(folder / "06.vrt", raw(outside), band=' SUBCLASS="VRTRawRasterBand"'),
        "own raw": vrt(folder / "07.vrt", raw("a.tif"), band=' subClass="VRTRawRasterBand"'),
        "vsicurl": vrt(folder / "08.vrt", source(f"/vsicurl/{server.url}/a.tif", 0)),
        "vsi in a zip": vrt(folder / "09.vrt", source(f"/vsizip//vsicurl/{server.url}/a.zip/a.tif", 0)),
        "vsisubfile": vrt(folder / "10.vrt", source(f"/vsisubfile/0,{secret}", 0)),
        "vsistdin": vrt(folder / "11.vrt", source("/vsistdin/", 0)),
        "http": vrt(folder / "12.vrt", source(f"{server.url}/a.tif", 0)),
        "vrt://": vrt(folder / "13.vrt", source(f"vrt://{secret}", 0)),
        "derived": vrt(folder / "14.vrt", source(f"DERIVED_SUBDATASET:LOGAMPLITUDE:{secret}", 0)),
        "page": vrt(folder / "15.vrt", source(f"GTIFF_DIR:1:{secret}", 0)),
        "xml as a name": vrt(folder / "16.vrt", source(f"<![CDATA[{wms(server)}]]>", 0)),
        "wms as a source": vrt(folder / "17.vrt", source("wms.tif")),
        "mask of a source": vrt(folder / "18.vrt", source("masked.tif")),
        "overview of a source": vrt(folder / "19.vrt", source("tag.tif")),
        "polyglot": vrt(folder / "20.vrt", source("p.jpg")),
        "python": vrt(folder / "21.vrt", python, one, band=' subClass="VRTDerivedRasterBand"'),
        "pixel function": vrt(
            folder / "22.vrt", "<PixelFunctionType>sum</PixelFunctionType>", one,
            band=' subClass="VRTDerivedRasterBand"',
        ),
        "url as a CRS": vrt(folder / "23.vrt", one, more=f"<SRS>{server.url}/crs</SRS>"),
        "overviews of a VRT": vrt(
            folder / "24.vrt", one,
            more='<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/x</MDI></Metadata>',
        ),
        "name in another case": vrt(
            folder / "25.vrt", one.replace("SourceFilename", "sourcefilename")
        ),
        "name as an attribute": vrt(
            folder / "26.vrt", one.replace("<SimpleSource", f'<SimpleSource SourceFilename="{secret}"')
        ),
        "doctype": vrt(folder / "27.vrt", source("&e;"), more=""),
        "option": vrt(
            folder / "28.vrt", one,
            more="<GDALWarpOptions><Option><Name>RPC_DEM</Name>x</Option></GDALWarpOptions>",
        ),
        "missing": vrt(folder / "29.vrt", source("nowhere.tif")),
        "itself": vrt(folder / "30.vrt", *(source(f"{i}.vrt") for i in range(30, 31))),
        "wms.tif": folder / "wms.tif",
        "wms.xml": folder / "wms.xml",
        "mask": folder / "masked.tif",
        "mask in capitals": folder / "upper.tif",
        "overview": folder / "overview.tif",
        "pam": folder / "pam.tif",
        "tag": folder / "tag.tif",
        "external parts": folder / "external.nc",
        "external link": folder / "linked.nc",
        "virtual parts": folder / "virtual.nc",
    }  # fmt: skip


def test_nothing_is_read_fetched_or_run(
    inputs: Path, secret: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    reasons = {name: refused(path) for name, path in attacks(inputs, secret, server).items()}
    assert server.asked == []
    assert not (inputs / "canary").exists()
    for name in ("absolute", "dots", "link", "nested"):
        assert reasons[name].endswith(
            "lies neither below its own folder nor among source.paths; "
            "if that is as it should be, set `trust: true` in the job"
        )
    assert "class VRTRawRasterBand" in reasons["raw"]
    assert "attribute SUBCLASS" in reasons["raw, in another case"]
    assert "is not there" in reasons["missing"]
    assert "not recognized" in reasons["wms.tif"]
    assert "lies in another file" in reasons["external parts"]
    for name, reason in reasons.items():
        assert "trust: true" in reason or name in ("missing", "itself", "doctype"), (name, reason)


def test_the_attacks_are_real(inputs: Path, secret: Path, server: Server) -> None:
    """With trust, GDAL gives the secret away, and asks the server."""
    found = attacks(inputs, secret, server)
    expected = np.frombuffer(SECRET, np.uint8).reshape(SIZE, SIZE)
    for name in ("absolute", "dots", "link", "nested"):
        np.testing.assert_array_equal(read(found[name], trust=True), expected)
    assert SECRET[:256] in read(found["raw"], trust=True).tobytes()
    for name in ("vsicurl", "wms.tif", "wms as a source"):
        server.asked.clear()
        with pytest.raises((CorruptInputError, AssertionError)):
            read(found[name], trust=True)
        assert server.asked, name


def test_a_chain_of_vrts_and_a_crowd_of_sources_end(inputs: Path) -> None:
    vrt(inputs / "0.vrt", source("a.tif"))
    for i in range(1, 12):
        vrt(inputs / f"{i}.vrt", source(f"{i - 1}.vrt"))
    np.testing.assert_array_equal(read(inputs / "5.vrt"), pixels(1))
    assert "deep" in refused(inputs / "11.vrt")


def test_a_vrt_that_changes_after_the_plan_is_refused_by_the_worker(
    inputs: Path, secret: Path
) -> None:
    path = vrt(inputs / "m.vrt", source("a.tif"))
    np.testing.assert_array_equal(read(path), pixels(1))
    vrt(path, source(str(secret), 0))
    assert "nor among source.paths" in refused(path)
    vrt(path, source("tile.tif"))
    shutil.copy(inputs / "a.tif", inputs / "tile.tif")
    np.testing.assert_array_equal(read(path), pixels(1))
    (inputs / "tile.tif").unlink()
    (inputs / "tile.tif").symlink_to(secret)
    assert "nor among source.paths" in refused(path)


def test_a_vrt_behind_a_url_is_refused(inputs: Path) -> None:
    from segengine.sources import _gdal

    with pytest.raises(CorruptInputError, match="not read behind a URL"):
        _gdal.require_remote("VRT")
    _gdal.require_remote("GTiff")


# The job


def job(folder: Path, *paths: str, **more: Any) -> dict[str, Any]:
    return {
        "source": {"paths": list(paths)},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": 100},
        "store": {"path": str(folder / "masks.zarr"), "chunk": 64, "shard": 64},
        "cluster": {"workers": 1},
        **more,
    }


def test_a_job_says_what_it_trusts(tmp_path: Path, inputs: Path, secret: Path) -> None:
    path = vrt(inputs / "m.vrt", source(str(secret), 0))
    block = job(tmp_path, str(path), str(inputs / "a.tif"))
    summary = segengine.run(block)
    (bad,) = summary.failed
    assert (bad.name, bad.kind) == ("m.vrt", "corrupt")
    assert "trust: true" in bad.reason
    before = make_plan(parse_job(block), open_objects(block["store"]["path"]))
    trusted = parse_job(block | {"trust": True})
    after = make_plan(trusted, open_objects(block["store"]["path"]))
    assert before.fingerprint == after.fingerprint
    assert (before.pending, after.pending) == (0, 1)
    assert segengine.run(trusted).failed == ()
    mask = segengine.open_store(block["store"]["path"])["m"].mask[0]
    np.testing.assert_array_equal(mask, np.frombuffer(SECRET, np.uint8).reshape(SIZE, SIZE) > 100)


def test_paths_of_the_job_reach_the_workers(tmp_path: Path, inputs: Path, secret: Path) -> None:
    vrt(inputs / "m.vrt", source(str(secret), 0))
    block = job(tmp_path, str(inputs / "*.vrt"))
    assert len(segengine.run(block).failed) == 1
    block["source"]["paths"].append(str(secret))
    assert segengine.run(block).failed == ()


def test_a_source_block_cannot_trust_itself(tmp_path: Path, inputs: Path) -> None:
    block = job(tmp_path, str(inputs))
    block["source"] |= {"kind": "raster", "trust": True}
    with pytest.raises(segengine.errors.JobError, match=r"source\.trust: unknown key"):
        parse_job(block)
