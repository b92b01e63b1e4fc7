"""Listing: names, order, fingerprints, and what is left out."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segengine.sources.listing import Listing, list_entries
from segengine.types import Entry


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(listing: Listing) -> list[str]:
    return [entry.name for entry in listing.entries]


def listed(root: Path, *patterns: str, kind: str = "auto") -> list[str]:
    return names(list_entries([f"{root}/{pattern}" for pattern in patterns], kind))


def test_names_are_below_the_fixed_part(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "sub2/b.jpg", "d.png")
    assert listed(tmp_path, "*.jpg") == ["a.jpg"]
    assert listed(tmp_path, "sub/*.jpg") == ["b.jpg"]
    assert listed(tmp_path, "*/*.jpg") == ["sub/b.jpg", "sub2/b.jpg"]
    assert listed(tmp_path, "**/*.jpg") == ["a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "sub2/b.jpg"]
    assert listed(tmp_path, "sub/**") == ["b.jpg", "deep/c.jpg"]
    assert listed(tmp_path, "sub/deep/c.jpg") == ["c.jpg"]
    assert listed(tmp_path, "sub") == listed(tmp_path, "sub/") == ["b.jpg", "deep/c.jpg"]
    assert listed(tmp_path, "*") == ["a.jpg", "d.png"]
    assert listed(tmp_path, "s?b/[a-c].jpg") == ["sub/b.jpg"]
    entry = list_entries([f"{tmp_path}/sub/*.jpg"]).entries[0]
    assert entry.uri == f"{tmp_path}/sub/b.jpg"
    assert re.fullmatch("[0-9a-f]{16}", entry.fingerprint)


@given(st.lists(
    st.lists(st.text("ab.*?[]{}#% é😀\udcff", min_size=1, max_size=5).filter(
        lambda part: part.strip(".") and not part.startswith(".")
    ), min_size=1, max_size=3).map("/".join),
    min_size=1, max_size=6, unique=True))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_name_is_found_and_sorted_by_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    import glob

    root = tmp_path_factory.mktemp("any")
    for part in parts:
        path = root / f"{part}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = sorted((f"{part}.png" for part in parts), key=os.fsencode)
    assert listed(root, "**/*.png") == listed(root, "") == expected
    for name in expected:
        assert listed(root, glob.escape(name)) == [name.rpartition("/")[2]]


def test_a_bracketed_name_may_be_typed_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "a[1]/b[2].png", "a1/b2.png")
    assert listed(tmp_path, "a[1]/b[2].png") == ["b[2].png"]
    assert listed(tmp_path, "a[1]/*.png") == ["b[2].png"]
    assert listed(tmp_path, "a[1]") == ["b[2].png"]


def test_sidecars_and_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "a.tif.aux.xml", "a.tif.ovr", "a.tfw", ".hidden.tif", "notes.txt",
          "README.md", "labels.csv", "c.json", ".git/x.tif", "odd.dat")  # fmt: skip
    assert listed(tmp_path, "*") == ["a.tif", "odd.dat"]
    assert listed(tmp_path, "a*") == ["a.tif"]
    assert listed(tmp_path, "*.txt") == ["notes.txt"]
    assert listed(tmp_path, "") == listed(tmp_path, "**/*.tif") == ["a.tif"]
    assert listed(tmp_path, ".hidden*") == [".hidden.tif"]


def test_a_folder_of_one_kind(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.tif", "c.mp4", "D.JPG", "e.dat", "f.m2ts", "g.mts", "h.ts")
    videos = ["c.mp4", "f.m2ts", "g.mts", "h.ts"]
    assert listed(tmp_path, "") == ["D.JPG", "a.jpg", "b.tif", *videos]
    touch(tmp_path / "new", "a.mpo", "b.avif", "c.dib", "d.HEIC", "e.heif", "f.apng")
    assert len(listed(tmp_path, "new", kind="images")) == len(listed(tmp_path, "new")) == 6
    shutil.rmtree(tmp_path / "new")
    assert listed(tmp_path, "", kind="video") == videos
    assert listed(tmp_path, "", kind="images") == ["D.JPG", "a.jpg", "b.tif"]


def test_directories(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg/inner.png", "plain/b.png")
    assert listed(tmp_path, "*") == ["a.jpg"]
    assert listed(tmp_path, "*.jpg") == ["a.jpg"]


@pytest.mark.parametrize("mark", ["run.lock", "records/+layouts/a"])
def test_a_store_beside_its_images_is_no_input(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.guards import schemes

    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))
    touch(tmp_path, "b.png", "c.zarr/zarr.json", f"masks.zarr/{mark}", "masks.zarr/report/x.png")
    touch(tmp_path, f"stored/{mark}", "stored/zarr.json")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/beside", recursive=True)
    try:
        for root in (str(tmp_path), "memory://beside"):
            for pattern in (root, f"{root}/**"):
                assert names(list_entries([pattern])) == ["b.png", "c.zarr"], pattern
    finally:
        memory.rm("/beside", recursive=True)


def test_zarr_directories_are_one_entry(tmp_path: Path) -> None:
    for name in ("a.zarr", "sub/plain"):
        zarr.create_array(str(tmp_path / name), shape=(20, 30), chunks=(10, 10), dtype="u1")[:] = 1
    touch(tmp_path, "a.zarr/photo.png", "b.png")
    for pattern in ("", "**"):
        listing = list_entries([f"{tmp_path}/{pattern}"])
        assert names(listing) == ["a.zarr", "b.png", "sub/plain"]
        assert [listing.kind_of(entry) for entry in listing.entries] == ["zarr", "images", "zarr"]
    assert listed(tmp_path, "*.zarr") == listed(tmp_path, "a.zarr") == ["a.zarr"]
    assert listed(tmp_path, "", kind="images") == ["b.png"]
    before = list_entries([f"{tmp_path}/a.zarr"]).entries[0].fingerprint
    assert list_entries([f"{tmp_path}/*.zarr"]).entries[0].fingerprint == before
    zarr.open_array(str(tmp_path / "a.zarr"))[0, 0] = 2
    assert list_entries([f"{tmp_path}/a.zarr"]).entries[0].fingerprint != before


def test_fingerprints_follow_size_and_time_through_links(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "link.png").symlink_to("a.png")

    def marks() -> set[str]:
        return {entry.fingerprint for entry in list_entries([f"{tmp_path}/*.png"]).entries}

    first = marks()
    assert len(first) == 1
    os.utime(tmp_path / "a.png", ns=(5, 5))
    second = marks()
    assert len(second) == 1
    assert second != first
    (tmp_path / "a.png").write_text("longer than it was")
    os.utime(tmp_path / "a.png", ns=(5, 5))
    assert not marks() & (first | second)


def test_links_that_lead_nowhere_or_round(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    listing = list_entries([f"{tmp_path}/**/*.png"])
    assert names(listing) == ["sub/a.png"]
    reasons = {item.name: item.reason for item in listing.unlisted}
    assert reasons["dangling.png"] == "dangling symbolic link"
    assert "self.png" in reasons
    single = list_entries([f"{tmp_path}/dangling.png"])
    assert [item.name for item in single.unlisted] == ["dangling.png"]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.png"])
def test_links_count_no_image_twice(tmp_path: Path, pattern: str) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root, "a.png", "x/b.png", "y/c.png", ".hidden/d.png")
    touch(other, "p/e.png", "q/f.png")
    (root / "self").symlink_to(root)
    (root / "x" / "again").symlink_to("../y")
    (root / "y" / "again").symlink_to("../x")
    (root / "seen").symlink_to(".hidden")
    (root / "out").symlink_to(other)
    (other / "p" / "loop").symlink_to("../q")
    (other / "q" / "loop").symlink_to("../p")
    (tmp_path / "link").symlink_to(root)
    expected = ["a.png", "out/p/e.png", "out/q/f.png", "seen/d.png", "x/b.png", "y/c.png"]
    for start in ("root", "link"):
        assert names(list_entries([f"{tmp_path}/{start}/{pattern}"])) == expected
    assert names(list_entries([f"{root}/x/again/*.png"])) == ["c.png"]


def test_what_belongs_to_an_input_is_not_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "a.tfw", "a.tif.aux.xml", "b.raw", "c.tfw", "d.txt")
    assert list_entries([str(tmp_path)]).skipped == {".raw": 1, ".tfw": 1, ".txt": 1}


def test_what_is_skipped_is_counted_by_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.guards import schemes

    touch(tmp_path, "a.png", "b.txt", "sub/c.TXT", "sub/d.psd", "README", ".hidden", ".git/x.md",
          "e.zarr/zarr.json", "e.zarr/0.txt")  # fmt: skip
    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/skips", recursive=True)
    expected = {"": 1, ".psd": 1, ".txt": 2}
    try:
        for root in (str(tmp_path), "memory://skips"):
            assert list_entries([root]).skipped == expected
            # What another path names is an input.
            both = list_entries([root, f"{root}/sub/*.psd"])
            assert both.skipped == {"": 1, ".txt": 2}
            assert list_entries([f"{root}/*"]).skipped == {".txt": 1}
            assert list_entries([f"{root}/*.png"]).skipped == {}
            with pytest.raises(
                ValueError, match=r"names no input \(only what .*: 1 \.psd, 1 \.txt"
            ):
                list_entries([f"{root}/sub"])
    finally:
        memory.rm("/skips", recursive=True)


def test_a_folder_of_suffixes_that_a_plugin_reads_is_named_by_a_glob(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.ppm", "in/b.ppm", "in/c", "in/d", "in/e")
    with pytest.raises(ValueError, match=r"names no input \(.*\); name the files .*, as \*\.ppm$"):
        listed(tmp_path, "in", kind="mine.ppm:Ppm")
    assert listed(tmp_path, "in/*.ppm", kind="mine.ppm:Ppm") == ["a.ppm", "b.ppm"]
    with pytest.raises(ValueError, match=r"names no input \(.*\); check the path$"):
        listed(tmp_path, "in")


def test_a_folder_of_json_alone_is_told_of_stac(tmp_path: Path) -> None:
    touch(tmp_path, "in/catalog.json", "in/a/a.json")
    with pytest.raises(ValueError, match=r"set source\.kind: stac where these are STAC$"):
        listed(tmp_path, "in")


def test_a_folder_that_may_not_be_entered_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "closed/b.png")
    real = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", guarded)
    listing = list_entries([str(tmp_path)])
    assert names(listing) == ["a.png"]
    assert [(item.name, item.reason) for item in listing.unlisted] == [
        ("closed/", "permission denied")
    ]


def test_mistakes_name_the_path_and_the_option(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "y/a.png")
    with pytest.raises(ValueError, match=r"source\.paths: .*/\*\.jpg names no input"):
        listed(tmp_path, "*.jpg")
    with pytest.raises(ValueError, match=r"source\.paths: .*/missing\.jpg names no input"):
        listed(tmp_path, "missing.jpg")
    with pytest.raises(ValueError, match=r"x/a\.png and .*/y/a\.png would both be named a\.png"):
        listed(tmp_path, "x/*.png", "y/*.png")
    with pytest.raises(ValueError, match=r"source\.paths is empty"):
        list_entries([])
    # The same file twice is no collision.
    assert listed(tmp_path, "x/*.png", "x/a.png") == ["a.png"]


def test_kind_by_suffix(tmp_path: Path) -> None:
    files = {"a.jpg": "images", "b.MP4": "video", "c.jp2": "raster", "d.dat": "images",
             "e.webm": "video", "f.vrt": "raster", "g.zarr": "zarr", "h.ts": "video",
             "i.MTS": "video", "j.m2ts": "video", "k.wmv": "video", "l.3gp": "video"}  # fmt: skip
    touch(tmp_path, *files)
    listing = list_entries([f"{tmp_path}/*"])
    assert {entry.name: listing.kind_of(entry) for entry in listing.entries} == files
    forced = list_entries([f"{tmp_path}/*"], kind="images")
    assert {forced.kind_of(entry) for entry in forced.entries} == {"images"}


def test_kind_of_tiffs(tmp_path: Path) -> None:
    import rasterio
    import tifffile

    Image.new("RGB", (8, 8)).save(tmp_path / "photo.tif")
    Image.new("RGB", (8, 8)).save(tmp_path / "placed.tif")
    (tmp_path / "placed.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((8, 8), np.uint16))
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((8, 8), np.float32))
    tifffile.imwrite(
        tmp_path / "bands.tif", np.zeros((5, 8, 8), np.uint8), planarconfig="separate",
        photometric="minisblack",
    )  # fmt: skip
    tifffile.imwrite(
        tmp_path / "infrared.tif", np.zeros((8, 8, 4), np.uint8), photometric="rgb",
        extrasamples=["unspecified"],
    )  # fmt: skip
    Image.new("RGBA", (8, 8)).save(tmp_path / "alpha.tif")
    Image.new("L", (8, 8)).save(tmp_path / "large.tif")
    with tifffile.TiffFile(tmp_path / "large.tif", mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(20_000)  # type: ignore[union-attr]
    with rasterio.open(
        tmp_path / "geo.tif", "w", driver="GTiff", count=3, width=8, height=8, dtype="uint8",
        crs="EPSG:32613", transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((3, 8, 8), np.uint8))
    (tmp_path / "text.tif").write_text("hello")
    listing = list_entries([f"{tmp_path}/*.tif"])
    assert {entry.name: listing.kind_of(entry) for entry in listing.entries} == {
        "photo.tif": "images",
        "placed.tif": "raster",
        "deep.tif": "images",
        "float.tif": "raster",
        "bands.tif": "raster",
        "geo.tif": "raster",
        "large.tif": "raster",
        "infrared.tif": "raster",
        "alpha.tif": "images",
        "text.tif": "images",
    }


def test_the_images_source_is_not_given_what_it_would_read_without_its_mask() -> None:
    from segengine.errors import CorruptInputError

    uri = "https://host/a.tif"
    beside = {uri: (f"{uri}.msk",)}
    entry = Entry("a.tif", uri, "")
    listing = Listing((entry,), (), "images", frozenset(), beside)
    with pytest.raises(CorruptInputError, match=r"has a\.tif\.msk beside it.*source\.kind: raster"):
        listing.kind_of(entry)
    assert Listing((entry,), (), "auto", frozenset(), beside).kind_of(entry) == "raster"


def test_a_bucket_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from segengine.guards import schemes

    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))
    system = fsspec.filesystem("memory")
    for i in range(5):
        system.pipe(f"/listed-once/{i}.png", b"x")
    calls, find = [], type(system).find

    def counted(self: Any, path: str, *args: Any, **options: Any) -> Any:
        calls.append(path)
        return find(self, path, *args, **options)

    monkeypatch.setattr(type(system), "find", counted)
    for path in ("memory://listed-once", "memory://listed-once/*.png"):
        calls.clear()
        assert len(list_entries([path]).entries) == 5
        assert len(calls) == 1
