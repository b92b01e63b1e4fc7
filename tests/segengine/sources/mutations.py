"""Damaged headers through the readers, each file timed: `python -m tests.segengine.sources.mutations`.

    python -m tests.segengine.sources.mutations 2000 netcdf-4 jp2     so many files of each format
    python -m tests.segengine.sources.mutations 2000                  of every format

One line a format, as JSON; before each file its number on stderr, so that one that ends the process
is known. `--seed N` gives other files.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from segengine.errors import CorruptInputError
from segengine.sources.raster import RasterSource
from segengine.sources.zarr import ZarrSource
from segengine.types import Entry, FrameRef, Unreadable
from tests.segengine.sources import formats

_TEXTS = frozenset(("vrt", "aaigrid", "envi", "ehdr", *formats.ZARRS))
LETTERS = b'0123456789-.eE <>/"\n[]{},null'
_ODD = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def damaged(whole: bytes, chance: random.Random, letters: bytes = b"", near: int = 1024) -> bytes:
    """Some bytes changed, most of them `near` the beginning; one in ten is cut short.

    letters: what most bytes of a text become.
    """
    data = bytearray(whole)
    near = min(len(data), near)
    for _ in range(chance.choice((1, 2, 4, 8))):
        at = chance.randrange(near if chance.random() < 0.7 else len(data))
        how = chance.random()
        if letters and how < 0.8:
            data[at] = chance.choice(letters)
        elif how < 0.5:
            data[at] = chance.randrange(256)
        elif how < 0.75:
            size = min(chance.choice((2, 4, 8)), len(data) - at)
            data[at : at + size] = bytes([chance.choice(_ODD)]) * size
        else:
            data[at] = chance.choice(_ODD)
    if chance.random() < 0.1:
        del data[chance.randrange(1, len(data)) :]
    return bytes(data)


def with_stream(png: bytes, stream: bytes) -> bytes:
    """A PNG with another stream of pixels, in one chunk, whose checksum is right."""
    start = png.index(b"IDAT") - 4
    chunk = b"IDAT" + stream
    told = struct.pack(">I", len(stream)), chunk, struct.pack(">I", zlib.crc32(chunk))
    return b"".join((png[:start], *told, struct.pack(">I", 0), b"IEND\xaeB`\x82"))


def outcome(path: Path) -> str:
    """What planning and reading make of a file: refused, or read, corrupt and error."""
    source: Any = ZarrSource() if path.suffix == ".zarr" else RasterSource()
    try:
        found = source.probe(Entry(path.name, str(path), ""))
    except CorruptInputError:
        return "refused"
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    kinds = set[str]()
    for first in (True, False):
        spans = (
            (0, min(n, 300)) if first else (max(n - 300, 0), n) for n in (ref.height, ref.width)
        )
        (item,) = source.read([ref], *(slice(*span) for span in spans))
        kinds.add(item.kind if isinstance(item, Unreadable) else "read")
    return "+".join(sorted(kinds))


def spent() -> float:
    """Seconds of the processor, those of children that have ended among them."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def peak_megabytes() -> int:
    """The most memory that this process has held; `ru_maxrss` is inherited from the parent."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) >> 10  # type: ignore[index]


def run(name: str, count: int, seed: int) -> dict[str, Any]:
    """Outcomes of so many damaged files of a format; the longest took so many seconds of processor."""
    outcomes, longest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = formats.write(name, Path(folder))
        targets = [formats.header(name, path)]
        if name.startswith("zarr"):
            targets += sorted(p for p in path.rglob("*") if p.is_file() and p not in targets)[:4]
        wholes = [target.read_bytes() for target in targets]
        whole = outcome(path)
        for i in range(count):
            chance = random.Random(f"{seed} {name} {i}")
            which = 0 if chance.random() < 0.7 else chance.randrange(len(targets))
            letters = LETTERS if name in _TEXTS and which == 0 else b""
            targets[which].write_bytes(damaged(wholes[which], chance, letters))
            sys.stderr.write(f"{name} {i}\n")
            start = spent()
            outcomes[outcome(path)] += 1
            longest = max(longest, spent() - start)
            targets[which].write_bytes(wholes[which])
    return {
        "format": name, "files": count, "whole": whole, "outcomes": dict(outcomes),
        "seconds": round(longest, 2), "megabytes": peak_megabytes(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("formats", nargs="*", default=[*formats.RASTERS, *formats.ZARRS])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name in options.formats:
        sys.stdout.write(json.dumps(run(name, options.count, options.seed)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
