"""What the engine relies on in an export: it writes what it says, the same each time, and only that."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import segengine
from segengine import registry
from segengine.errors import SegengineError
from segengine.testing._laws import PluginTests, expected, name_of, require, said
from segengine.testing._pictures import picture

_SIZES = {"north.tif": (40, 52), "south.tif": (33, 47)}


class ExportTests(PluginTests):
    """The suite of an export: `make` returns its function (store_path, to, **options) -> files."""

    def store(self, folder: Path) -> str:
        """A finished store below `folder`: two scenes on the map, with two classes and instances."""
        for seed, (name, size) in enumerate(_SIZES.items()):
            _write_scene(folder / "scenes" / name, picture(seed, size))
        path = str(folder / "masks.zarr")
        segengine.run(
            {
                "source": {"kind": "raster", "paths": [str(folder / "scenes")]},
                "segmenter": {"kind": "threshold", "method": "otsu", "instances": "components"},
                "store": {"path": path, "chunk": 16, "shard": 32},
            }
        )
        return path

    def factory(self) -> Callable[..., Any]:
        """The function itself."""
        made: Callable[..., Any] = self.make()
        return made

    def test_it_writes_what_it_says(self) -> None:
        """The files named are there, below `to`, and there are no others."""
        name = name_of(self.make())
        with tempfile.TemporaryDirectory() as folder:
            to = Path(folder) / "out"
            written: Any = self._export(str(to))
            require(
                isinstance(written, list) and all(isinstance(path, str) for path in written),
                f"{name} returns {written!r}; return the paths of all files written, as a list",
            )
            require(written, f"{name} writes nothing of a store with two scenes; write its masks")
            named = {Path(path).resolve() for path in written}
            found = {path.resolve() for path in Path(folder).rglob("*") if path.is_file()}
            missing, more = sorted(map(str, named - found)), sorted(map(str, found - named))
            require(
                not missing,
                f"{name} names {', '.join(missing[:3])}, which is not there or not below `to`",
            )
            require(
                not more,
                f"{name} writes {', '.join(more[:3])} and does not name it; return all files",
            )

    def test_the_same_store_gives_the_same_bytes(self) -> None:
        """Twice, into two folders: nothing of the time, the host or the place is in a file."""
        name, trees = name_of(self.make()), []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                self._export(str(Path(folder) / "out"))
                trees.append(_tree(Path(folder)))
        require(
            trees[0].keys() == trees[1].keys(),
            f"{name} names its files otherwise the second time; name them after scenes and frames",
        )
        differ = [path for path in trees[0] if trees[0][path] != trees[1][path]]
        require(
            not differ,
            f"{name} writes other bytes to {', '.join(differ[:3])} the second time; leave out times, "
            "hosts and paths, and sort what has no order",
        )

    def test_the_store_stays_as_it_is(self) -> None:
        """An export only reads."""
        store = Path(self._store())
        before = _tree(store)
        with tempfile.TemporaryDirectory() as folder:
            self._export(str(Path(folder) / "out"))
        require(
            before == _tree(store),
            f"{name_of(self.make())} changes the store; write below `to`, and only read the store",
        )

    def test_what_is_no_store_is_refused(self) -> None:
        """With an error of one line, and nothing written."""
        name = name_of(self.make())
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "empty").mkdir()
            try:
                self.make()(str(Path(folder) / "empty"), to=str(Path(folder) / "out"))
            except (SegengineError, ValueError, OSError):
                pass
            except Exception as error:
                raise AssertionError(
                    f"{name} of a folder that is no store raises {said(error)}; open it with "
                    "segengine.open_store, whose errors say what to do"
                ) from error
            else:
                raise AssertionError(
                    f"{name} takes a folder that is no store without a word; open it with "
                    "segengine.open_store"
                )
            left = [path for path in Path(folder).rglob("*") if path.is_file()]
            require(not left, f"{name} of a folder that is no store writes {left}; look first")

    def _export(self, to: str) -> list[str]:
        __tracebackhide__ = True
        with expected(name_of(self.make()), "it has to write a store with scenes and instances"):
            written: list[str] = self.make()(self._store(), to=to, **self.options)
        return written

    def _store(self) -> str:
        """Made once for all laws of a class."""
        made = vars(type(self)).get("_made")
        if made is None:
            folder = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            made = type(self)._made = self.store(Path(folder))  # type: ignore[attr-defined]
        return str(made)

    def _build(self, options: dict[str, Any]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            export = partial(self.make(), self._store(), to=str(Path(folder) / "out"))
            return registry.build(export, name_of(self.make()), options)


def _tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _write_scene(path: Path, pixels: Any) -> None:
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = pixels.shape
    north = 5_400_000.0 if path.stem == "north" else 5_390_000.0
    about = {
        "driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": "uint8",
        "crs": "EPSG:32633", "transform": rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, north),
    }  # fmt: skip
    with rasterio.open(path, "w", **about) as file:
        file.write(np.moveaxis(pixels, -1, 0))
