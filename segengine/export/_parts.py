"""A file made of parts, so that an export that was killed goes on where it was.

    .segengine-parts/<format>-<stamp>/
        <file>/000000 000001 ...      parts written so far, each atomically
        <file>.done                   the file is whole: its parts are gone

The stamp stands for what is exported: parts of another are deleted. So is the folder in the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import xxhash

from segengine.outputs import Output, replacing

_FOLDER = ".segengine-parts"
T = TypeVar("T")


class Parts:
    """The parts of one export's files, below the folder it writes to."""

    def __init__(self, output: Output, kind: str, stamp: str) -> None:
        """`kind`: the format's name; `stamp`: digest of what is exported."""
        self._output, self._all = output, output.folder / _FOLDER
        name = f"{kind}-{stamp}"
        self._own = self._all / name
        for old in self._all.glob(f"{kind}-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def write(
        self,
        path: Path,
        pieces: Iterable[T],
        encode: Callable[[T], bytes],
        assemble: Callable[[Path, list[Path]], None],
        holds: Callable[[T], bool] = lambda _: True,
    ) -> str:
        """Write `path` from encoded pieces, of which those there already are left as they are.

        `assemble(out, parts)` writes the file from its parts in order. `holds`: whether what encoding
        a piece wrote besides its part is there still. Returns the path.
        """
        key = xxhash.xxh3_64_hexdigest(str(path.resolve()).encode("utf-8", "surrogateescape"))
        folder, done = self._own / key, self._own / f"{key}.done"
        if not (done.exists() and self._output.is_own(path)):
            parts = []
            for number, piece in enumerate(pieces):
                part = folder / f"{number:06d}"
                if not (part.exists() and holds(piece)):
                    with replacing(part) as partial:
                        partial.write_bytes(encode(piece))
                parts.append(part)
            with self._output.replacing(path) as partial:
                assemble(partial, parts)
            with replacing(done) as partial:
                partial.touch()
            shutil.rmtree(folder, ignore_errors=True)
        return str(path)

    def close(self) -> None:
        """Every file is whole: leave nothing but them."""
        self._output.close()
        shutil.rmtree(self._own, ignore_errors=True)
        if self._all.is_dir() and not any(self._all.iterdir()):
            self._all.rmdir()


def joined(out: Path, head: bytes, parts: Iterable[Path], tail: bytes) -> None:
    """A JSON list from parts that hold its items, separated by commas; an empty part holds none."""
    with out.open("wb") as file:
        file.write(head)
        between = b"\n"
        for part in parts:
            if part.stat().st_size:
                file.write(between)
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file)
                between = b",\n"
        file.write(tail)
