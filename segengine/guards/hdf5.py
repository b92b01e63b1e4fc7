"""HDF5 files that hold numbers and nothing that lies outside of them.

HDF5 can name other files in four ways: external links, datasets stored externally, virtual datasets,
and filters, which are libraries that it loads. Soft links lead anywhere within, and are not written
by Keras either. A dataset may also claim a shape far beyond what is stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAGIC = b"\x89HDF\r\n\x1a\n"
RATIO, SLACK = 64, 16 << 20
"""Most bytes that all datasets may unfold to: so many times the file's, and so many more."""
DEEPEST = 64
_FILTERS = frozenset((1, 2, 3, 4, 5, 6))
"""Those that are part of HDF5: deflate, shuffle, fletcher32, szip, nbit, scale-offset."""


def check(path: Path) -> None:
    """Raise ValueError where an HDF5 file is not one of plain numbers."""
    import h5py

    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it is not an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            _Walk(h5py, path.stat().st_size).group(file.id, "", 0)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"the HDF5 file is damaged: {str(error)[:200]}") from error


class _Walk:
    """Every object of a file once, by its address: hard links may form circles."""

    def __init__(self, h5py: Any, size: int) -> None:
        self._h5py = h5py
        self._most = RATIO * size + SLACK
        self._links = size // 16 + 64
        self._seen: set[Any] = set()

    def group(self, group: Any, name: str, depth: int) -> None:
        h5py = self._h5py
        if depth > DEEPEST:
            raise ValueError(f"HDF5: its groups lie deeper than {DEEPEST} and are refused")
        for key in list(group):
            self._links -= 1
            if self._links < 0:
                raise ValueError("HDF5: it has more links than bytes for them and is refused")
            own = f"{name}/{key.decode('utf-8', 'replace')}"
            kind = group.links.get_info(key).type
            if kind != h5py.h5l.TYPE_HARD:
                known = {
                    h5py.h5l.TYPE_SOFT: "a soft link",
                    h5py.h5l.TYPE_EXTERNAL: "an external link",
                }
                raise ValueError(
                    f"HDF5: {_shown(own)} is {known.get(kind, 'a link of another kind')}, which is "
                    "refused"
                )
            about = h5py.h5o.get_info(group, key)
            if (about.fileno, about.addr) in self._seen:
                continue
            self._seen.add((about.fileno, about.addr))
            if about.type == h5py.h5o.TYPE_GROUP:
                self.group(h5py.h5g.open(group, key), own, depth + 1)
            elif about.type == h5py.h5o.TYPE_DATASET:
                self._dataset(h5py.h5d.open(group, key), own)
            else:
                raise ValueError(f"HDF5: {_shown(own)} is a named type, which is refused")

    def _dataset(self, dataset: Any, name: str) -> None:
        h5py = self._h5py
        made = dataset.get_create_plist()
        if made.get_layout() == h5py.h5d.VIRTUAL:
            raise ValueError(f"HDF5: {_shown(name)} is a virtual dataset, which is refused")
        if made.get_external_count():
            raise ValueError(f"HDF5: {_shown(name)} lies in another file, which is refused")
        for i in range(made.get_nfilters()):
            code = made.get_filter(i)[0]
            if code not in _FILTERS:
                raise ValueError(f"HDF5: {_shown(name)} has the filter {code}, which is refused")
        kind = dataset.get_type()
        numbers = kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
        fixed = isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str()
        if not numbers and not fixed:
            raise ValueError(f"HDF5: {_shown(name)} holds no numbers, which is refused")
        count = 1
        for side in dataset.shape:
            count *= side
        self._most -= count * kind.get_size()
        if self._most < 0:
            raise ValueError(
                f"HDF5: its datasets claim more than {RATIO} times the file's size "
                f"({_shown(name)}: {dataset.shape}) and are refused"
            )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")[1:-1]
