"""Archives that every reader reads alike pass, whoever packed them; all others are refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segengine.guards import zips


def packed(kind: int = zipfile.ZIP_DEFLATED, **options: bool) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", kind) as archive:
        for name in ("a/b.json", "ü.h5"):
            with archive.open(name, "w", **options) as file:
                file.write(name.encode() * 99)
    return made.getvalue()


class Pipe(io.RawIOBase):
    """What cannot seek: sizes then follow the data."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.parts.append(bytes(data))
        return len(data)


def streamed() -> bytes:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("a/", "")
        archive.writestr("a/b.json", "text" * 9)
    return b"".join(pipe.parts)


GOOD = [packed, lambda: packed(zipfile.ZIP_STORED), lambda: packed(force_zip64=True), streamed]


@pytest.mark.parametrize("made", GOOD)
def test_plain_archives_pass(made: Callable[[], bytes]) -> None:
    data = made()
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert [entry.filename for entry in zips.check(io.BytesIO(data))] == names


def encrypted() -> bytes:
    data = bytearray(packed())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def linked() -> bytes:
    made = io.BytesIO()
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    return made.getvalue()


def named(name: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "a")
    return made.getvalue()


def other_name_inside() -> bytes:
    data = bytearray(packed())
    data[30] = ord("z")
    return bytes(data)


def with_comment() -> bytes:
    return packed()[:-2] + struct.pack("<H", 5) + b"words"


def with_hole() -> bytes:
    """Bytes between the last entry and the directory."""
    data = packed()
    at = data.index(b"PK\x01\x02")
    (start,) = struct.unpack("<L", data[-6:-2])
    moved = data[:at] + b"hidden" + data[at:-6] + struct.pack("<L", start + 6) + data[-2:]
    assert zipfile.ZipFile(io.BytesIO(moved)).read("a/b.json")  # others read it
    return moved


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (encrypted, "encrypted"),
        (linked, "as a link"),
        (lambda: named("/etc/a"), "leads out of it"),
        (lambda: named("a/../../b"), "leads out of it"),
        (lambda: named("C:/a"), "leads out of it"),
        (lambda: named("a\\b"), "no name of a file"),
        (other_name_inside, "belong to no file"),
        (with_comment, "belong to no file"),
        (with_hole, "belong to no file"),
        (lambda: b"#!/bin/sh\n" + packed(), "belong to no file"),
        (lambda: packed() + b"behind", "belong to no file"),
        (lambda: packed(zipfile.ZIP_BZIP2), "packed in a way"),
        (lambda: packed()[:-30], "damaged"),
    ],
)
def test_others_are_refused(made: Callable[[], bytes], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        zips.check(io.BytesIO(made()))
    assert "\n" not in str(caught.value)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    data = packed()
    for end in range(len(data)):
        with pytest.raises(ValueError, match="zip"):
            zips.check(io.BytesIO(data[:end]))
