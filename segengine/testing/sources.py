"""What the engine relies on in a source: names, sizes and pixels, whole or in windows, bad inputs too."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import segengine
from segengine import registry
from segengine.errors import CorruptInputError, TransientInputError
from segengine.job import parse_job
from segengine.planning.layout import Cut
from segengine.planning.scan import Scan, scan
from segengine.store.keys import MASK
from segengine.store.layouts import Layout
from segengine.store.values import encode
from segengine.testing._laws import PluginTests, expected, name_of, require, said, sent
from segengine.testing._works import Sums
from segengine.types import (
    Entry,
    FindsTruth,
    FrameRef,
    Labels,
    Pixels,
    Source,
    Tile,
    TruthClasses,
    Unreadable,
)

_PROBING = f"{Sums.__module__}:{Sums.__qualname__}"
Frames = Mapping[str, Pixels]
"""Pixels (y, x, band) by frame name."""


class SourceTests(PluginTests):
    """The suite of a source: `make` writes small inputs and says what is in them."""

    damage: ClassVar[bool] = True
    """False for a format in which any bytes are a picture."""

    def make(self, folder: Path) -> tuple[dict[str, Any], Frames]:  # type: ignore[override]
        """Write small inputs below `folder`; the job's source block, and pixels by frame name."""
        raise NotImplementedError(
            "make: this suite needs it; write inputs below the folder, and return the job's source "
            "block and {frame name: pixels (y, x, band)}"
        )

    def factory(self) -> Callable[..., Any]:
        """The class behind the block's `kind`."""
        with tempfile.TemporaryDirectory() as folder:
            kind = str(self.make(Path(folder))[0].get("kind", "auto"))
        require(kind != "auto", "make returns a source block without kind; name the source there")
        return registry.load("sources", kind)

    def test_each_frame_is_planned_as_it_is(self) -> None:
        """Names, sizes, bands and dtype, from headers alone."""
        with self._made() as (spec, frames, found):
            name = str(spec["kind"])
            bad = ", ".join(f"{u.name} ({u.reason})" for u in found.unplaced)
            require(not bad, f"{name} cannot read the header of {bad}; probe returns a Probe")
            named = {ref.name: (layout, ref) for layout, ref in _refs(found)}
            lacking, more = sorted(frames.keys() - named), sorted(named.keys() - frames)
            require(
                not lacking and not more,
                f"{name} finds the frames {', '.join(sorted(named))}, and make says "
                f"{', '.join(sorted(frames))}; a frame is named by its path below the glob's fixed "
                "part, in a file of several with # and its index",
            )
            for frame, pixels in frames.items():
                layout, ref = named[frame]
                probed = (ref.height, ref.width, layout.bands), layout.dtype
                require(
                    probed == (pixels.shape, str(pixels.dtype)),
                    f"{name} probes {frame} as {probed}, and it is {pixels.shape}, {pixels.dtype}; "
                    "let probe say what read returns",
                )
            again = _scan(spec)
            require(
                [encode(layout.public) for layout in found.layouts.values()]
                == [encode(layout.public) for layout in again.layouts.values()],
                f"{name} probes the same inputs otherwise the second time; take all from the file",
            )

    def test_each_frame_is_read_as_it_is(self) -> None:
        """The pixels that make says."""
        with self._made() as (spec, frames, found):
            for source, _, refs in _sources(spec, found):
                for ref in refs:
                    rows, cols = slice(0, ref.height), slice(0, ref.width)
                    tile = _read(source, [ref], rows, cols)[0]
                    _require_pixels(tile, frames[ref.name], f"{spec['kind']}: {ref.name}")

    def test_windows_are_cut_from_the_frame(self) -> None:
        """Any rows and columns, frames in any order."""
        with self._made() as (spec, frames, found):
            for source, _, refs in _sources(spec, found):
                height, width = min(r.height for r in refs), min(r.width for r in refs)
                ys = slice(0, 1), slice(height // 3, height), slice(height - 1, height)
                xs = slice(width // 2, width), slice(0, max(1, width // 2))
                for rows in ys:
                    for cols in xs:
                        order = refs[::-1]
                        for ref, tile in zip(order, _read(source, order, rows, cols), strict=True):
                            where = (
                                f"{spec['kind']}: {ref.name}, rows {rows.start} to {rows.stop}, "
                                f"columns {cols.start} to {cols.stop}"
                            )
                            _require_pixels(tile, frames[ref.name][rows, cols], where)

    def test_it_reads_alike_on_a_worker(self) -> None:
        """A source holds options, never handles."""
        with self._made() as (spec, frames, found):
            for source, _, refs in _sources(spec, found):
                again = sent(source, name_of(source))
                ref = refs[0]
                rows, cols = slice(0, ref.height), slice(0, ref.width)
                _read(source, [ref], rows, cols)
                sent(source, f"{name_of(source)} after reading")
                tile = _read(again, [ref], rows, cols)[0]
                _require_pixels(tile, frames[ref.name], f"{spec['kind']} on a worker: {ref.name}")

    def test_a_bad_input_is_a_value(self) -> None:
        """What is cut off, overwritten or gone is named, and ends nothing."""
        for what in ("cut in half", "overwritten", "removed"):
            if what == "removed" or self.damage:
                with self._made() as (spec, _, found):
                    for source, layout, refs in _sources(spec, found):
                        _require_bad(source, layout, refs, what)

    def test_truth_is_that_of_the_frame(self) -> None:
        """Where it finds truth: one a frame, whose windows are cut from the whole."""
        with self._made() as (spec, _, found):
            for source, _, refs in _sources(spec, found):
                if isinstance(source, FindsTruth):
                    _require_truth(source, refs)

    def test_a_job_reads_it_whole(self) -> None:
        """A run cuts it into shards, and every pixel gets the label that it has by itself."""
        with self._made() as (spec, frames, _), tempfile.TemporaryDirectory() as folder:
            job = {
                "source": spec,
                "segmenter": {"kind": _PROBING},
                "store": {"path": f"{folder}/masks.zarr", "chunk": 16, "shard": 32},
            }
            with expected(f"a job on {spec['kind']}", "the reader has to follow the protocol"):
                summary = segengine.run(job)
            failed = ", ".join(f"{f.name} ({f.reason})" for f in summary.failed)
            require(not failed, f"{spec['kind']}: a job cannot read {failed}")
            masks = _masks(f"{folder}/masks.zarr")
            for name, pixels in frames.items():
                wanted = Sums().segment(pixels[None]).labels[0]
                mask = masks[name]
                seen = mask != np.iinfo(mask.dtype).max
                require(
                    seen.any() and np.array_equal(mask[seen], wanted[seen]),
                    f"{spec['kind']}: in shards, {name} has other pixels than as a whole; read exactly "
                    "the rows and columns that are asked",
                )

    @contextmanager
    def _made(self) -> Iterator[tuple[dict[str, Any], Frames, Scan]]:
        """The source's options as a run has them, what make wrote, and how it is planned."""
        __tracebackhide__ = True
        with tempfile.TemporaryDirectory() as folder:
            block, frames = self.make(Path(folder))
            rest = {"segmenter": {"kind": _PROBING}, "store": {"path": f"{folder}/-.zarr"}}
            job = {"source": block, **rest}
            with expected("the source block that make returns", "write it as in a job"):
                spec = parse_job(job, base=Path(folder)).source_options()
            with expected(f"planning {spec['kind']} inputs", "probe raises CorruptInputError"):
                found = _scan(spec)
            yield spec, frames, found


def _masks(store: str) -> dict[str, Labels]:
    """Of each frame, cropped to its size."""
    return {
        ref.name: scene.read(MASK, ref.index, slice(0, ref.height), slice(0, ref.width))
        for scene in segengine.open_store(store).scenes.values()
        for ref in scene.layout.frames()
    }


def _scan(spec: Mapping[str, Any]) -> Scan:
    return scan(spec, {}, (), Cut(16, 32, every=int(spec.get("every") or 1)))


def _refs(found: Scan) -> Iterator[tuple[Layout, FrameRef]]:
    for layout in found.layouts.values():
        for ref in layout.frames():
            yield layout, ref


def _sources(
    spec: Mapping[str, Any], found: Scan
) -> Iterator[tuple[Source, Layout, list[FrameRef]]]:
    for layout in found.layouts.values():
        yield registry.reader(layout.kind, spec), layout, list(layout.frames())


def _read(
    source: Source, refs: list[FrameRef], rows: slice, cols: slice
) -> list[Tile | Unreadable]:
    __tracebackhide__ = True
    name = name_of(source)
    with expected(f"{name}.read", "yield Unreadable(kind, reason) for a frame that cannot be read"):
        found = list(source.read(refs, rows, cols))
    require(
        len(found) == len(refs),
        f"{name}.read yields {len(found)} items of {len(refs)} frames; yield one a frame, in order",
    )
    for item in found:
        require(
            isinstance(item, Tile | Unreadable),
            f"{name}.read yields {type(item).__name__}; yield Tile or Unreadable",
        )
    return found


def _require_pixels(tile: Tile | Unreadable, wanted: NDArray[Any], where: str) -> None:
    __tracebackhide__ = True
    if isinstance(tile, Unreadable):
        raise AssertionError(f"{where}: is unreadable: {tile.reason}; read returns its pixels")
    found = tile.pixels
    require(
        found.shape == wanted.shape and found.dtype == wanted.dtype,
        f"{where}: read gives {found.shape} of {found.dtype}, and it is {wanted.shape} of {wanted.dtype}; "
        "give (y, x, band) of exactly the rows and columns asked, in the file's dtype",
    )
    require(
        tile.valid is None or (tile.valid.shape == found.shape[:2] and tile.valid.dtype == bool),
        f"{where}: valid has not the tile's (y, x) of bool; give it that, or None",
    )
    valid = np.ones(found.shape[:2], np.bool_) if tile.valid is None else tile.valid
    require(
        np.array_equal(found[valid], wanted[valid], equal_nan=found.dtype.kind == "f"),
        f"{where}: read gives other pixels than make says; colours are R, G, B, rows go down",
    )


def _require_truth(source: FindsTruth, refs: list[FrameRef]) -> None:
    __tracebackhide__ = True
    name = name_of(source)
    classes = source.truth_classes if isinstance(source, TruthClasses) else ()
    require(classes, f"{name} finds truth and has no truth_classes; name its labels 0, 1, 2 ...")
    with expected(f"{name}.find_truth", "a frame without truth has TruthRef('', '', looked)"):
        truths = source.find_truth(refs)
    require(
        len(truths) == len(refs),
        f"{name}.find_truth gives {len(truths)} of {len(refs)} frames; give one each, in order",
    )
    for ref, truth in zip(refs, truths, strict=True):
        if not truth.uri:
            continue
        rows, cols = slice(0, ref.height), slice(0, ref.width)
        with expected(f"{name}.load_truth of {ref.name}", "raise MissingTruthError with a reason"):
            whole = source.load_truth(ref, truth, rows, cols).labels
            part = slice(ref.height // 3, ref.height), slice(0, max(1, ref.width // 2))
            window = source.load_truth(ref, truth, *part).labels
        require(
            whole.shape == (1, ref.height, ref.width) and whole.dtype.kind == "u",
            f"{name}.load_truth of {ref.name} gives {whole.shape} of {whole.dtype}; labels are "
            f"{(1, ref.height, ref.width)}, unsigned",
        )
        known = whole[whole != np.iinfo(whole.dtype).max]
        require(
            not known.size or int(known.max()) < len(classes),
            f"{name}.load_truth of {ref.name} gives labels above its classes; what is none is void",
        )
        require(
            np.array_equal(window[0], whole[0][part]),
            f"{name}.load_truth of {ref.name} gives another window than of the whole; cut it at "
            "exactly the rows and columns that are asked",
        )


def _require_bad(source: Source, layout: Layout, refs: list[FrameRef], what: str) -> None:
    __tracebackhide__ = True
    for uri in sorted({uri for ref in refs for uri in _files(ref)}):
        path = Path(uri)
        if not path.exists() or (path.is_dir() and what != "removed"):
            continue
        _spoil(path, what)
        own = [ref for ref in refs if uri in _files(ref)]
        name, where = name_of(source), f"{own[0].name}, {what}"
        seen = ""
        try:
            source.probe(Entry(layout.names[0], own[0].uri, "another", own[0].parts))
        except (CorruptInputError, TransientInputError) as error:
            seen = str(error)
        except Exception as error:
            raise AssertionError(
                f"{name}.probe of {where}, raises {said(error)}; raise CorruptInputError with a reason"
            ) from error
        # Of a volume a file is a frame, and which one the source knows.
        tried = own if own[0].parts else own[-1:]
        tiles = _read(source, tried, slice(0, own[0].height), slice(0, own[0].width))
        tile = next((t for t in tiles if isinstance(t, Unreadable)), tiles[-1])
        require(
            seen or isinstance(tile, Unreadable),
            f"{name} takes {where}, for a picture; look at lengths and marks, and yield Unreadable",
        )
        require(
            isinstance(tile, Unreadable) and tile.reason,
            f"{name}.read of {where}, yields pixels; yield Unreadable('corrupt', reason)",
        )


def _files(ref: FrameRef) -> set[str]:
    """What a frame's pixels are read from."""
    return {part.uri for part in ref.parts} or {ref.uri}


def _spoil(path: Path, what: str) -> None:
    if what == "removed":
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return
    data = path.read_bytes()
    if what == "cut in half":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, len(data), np.uint8)))
