"""Segment Anything, as samexporter writes it to ONNX: an encoder, run once a window, and a decoder.

    encoder   (1, 3, 1024, 1024) normalised, or (y, x, 3) of 0 to 255     ->  image_embeddings
    decoder   image_embeddings, point_coords, point_labels, mask_input, has_mask_input, orig_im_size
                                                            ->  masks, iou_predictions, low_res_masks

A window's longer side becomes 1024 pixels. Each prompt is a point, or a box by two corners of the labels
2 and 3; a point is padded with one of label -1, as the decoder expects where there is no box. Of the masks
that it gives for a prompt each with a predicted IoU of `min_score` counts (of a file's and a store's the
best alone), and of those whose boxes are nearly the same the best. Source: Kirillov et al. 2023;
segment_anything/utils/onnx.py, notebooks/onnx_model_example.ipynb, automatic_mask_generator.py;
samexporter/sam_onnx.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Engine
from segengine.engines.onnxruntime import Joint, OnnxEngine
from segengine.instances.pasting import held, steps
from segengine.segmenters import _files
from segengine.segmenters._drawn import Coordinates, drawn
from segengine.segmenters._finder import Finder, Grid
from segengine.segmenters._found import Found
from segengine.segmenters._network import require_bands
from segengine.segmenters._overlaps import without_duplicates
from segengine.segmenters._prompts import Ask, Floats, Prompting, Prompts
from segengine.segmenters._stored import stored
from segengine.types import Cell, Frames, Pixels, Site

SIDE = 1024
"""Of what the encoder sees, in pixels."""
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)
_TAKES = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
_LOW = 256
"""Side of the mask that a decoder takes and gives, in pixels."""
MOST = 1000
"""Objects a window, of a grid."""
MIN_SCORE, DUPLICATES, POINTS = 0.88, 0.7, 32


@dataclass(frozen=True, slots=True, eq=False)
class Sam:
    """The head of an encoder and its decoder."""

    encoder: Engine
    decoder: Joint
    points: Floats
    """(n, 2) x and y of the grid, in parts of a window."""
    prompting: Prompting | None
    """Where other prompts come from, of whose masks the best alone counts; None: the grid."""
    min_score: float
    duplicates: float
    prompts: Prompts | None = None
    """Of the frame, in its pixels; None: not told yet."""
    corner: Cell = (0, 0)
    """First pixel of the window in the frame."""

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.encoder.provenance

    @property
    def by_name(self) -> bool:
        """Whether frames have their own prompts by their names."""
        return self.prompting is not None and self.prompting.by_name

    def of_frame(self, frames: Frames | None, frame: int, size: Cell) -> Sam:
        """It, with the prompts of one frame of a call, of a size."""
        asked = None if self.prompting is None else self.prompting.of(frames, frame, size)
        return replace(self, prompts=asked)

    def at(self, corner: Cell) -> Sam:
        """It, for the window with that first pixel in the frame."""
        return replace(self, corner=corner)

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """What may not be meant of its prompts, of all scenes that they are asked of."""
        if self.prompting is not None:
            yield from self.prompting.remarks(sites)

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, 3) of bytes, the best first."""
        size = window.shape[0], window.shape[1]
        prompts = self._asked(size)
        if not len(prompts):
            return []
        inside = resized_to(size)
        embedding = self._embed(window, inside)
        found: list[tuple[float, Cell, NDArray[np.bool_]]] = []
        for corners, boxed in zip(prompts.corners, prompts.boxed.tolist(), strict=True):
            found += self._masks(embedding, corners, boxed, size, inside)
        order = np.argsort([-score for score, _, _ in found], kind="stable").tolist()
        boxes = np.array([_box(*found[i][1:]) for i in order], np.float64).reshape(-1, 4)
        labels = np.zeros(len(order), np.int64)
        # of a file or a store nothing that was asked for is left out
        most = MOST if self.prompting is None else len(prompts)
        kept = without_duplicates(boxes, labels, self.duplicates, most)
        return [_object(*found[order[k]]) for k in kept]

    def _asked(self, size: Cell) -> Prompts:
        """The prompts of a window of a size, in its pixels."""
        if self.prompting is None:
            corners = np.repeat((self.points * np.array(size[::-1]))[:, None], 2, axis=1)
            return Prompts(corners, np.zeros(len(corners), np.bool_))
        prompts = self.prompts
        if prompts is None:
            prompts = self.prompting.of(None, 0, size)
        return prompts.of_window(self.corner, size)

    def _embed(self, window: Pixels, inside: Cell) -> NDArray[np.float32]:
        """The encoder's only output for a window that is resized and padded."""
        from PIL import Image

        image = np.asarray(
            Image.fromarray(window).resize(inside[::-1], Image.Resampling.BILINEAR), np.float32
        )
        if len(self.encoder.input_shape) == 4:
            image = (image - _MEAN) / _STD
            spare = [(0, SIDE - n) for n in inside]
            image = np.pad(image, (*spare, (0, 0))).transpose(2, 0, 1)[None]
        fed = np.ascontiguousarray(image, self.encoder.dtype)
        embedding: NDArray[np.float32] = self.encoder.run(fed)[self.encoder.outputs[0]]
        return embedding

    def _masks(
        self,
        embedding: NDArray[np.float32],
        corners: Floats,
        boxed: bool,
        size: Cell,
        inside: Cell,
    ) -> list[tuple[float, Cell, NDArray[np.bool_]]]:
        """Score, corner and mask of what the decoder gives for a box, or a point, of the window."""
        places = corners * np.array([inside[1] / size[1], inside[0] / size[0]])
        # a box needs no padding: segment_anything adds it where there is none
        given = (places, (2, 3)) if boxed else (np.stack([places[0], np.zeros(2)]), (1, -1))
        fed = {
            "image_embeddings": embedding,
            "point_coords": given[0][None].astype(np.float32),
            "point_labels": np.array([given[1]], np.float32),
            "mask_input": np.zeros((1, 1, _LOW, _LOW), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(size, np.float32),
        }
        raw = self.decoder.run({name: fed[name] for name in self.decoder.inputs})
        scores, logits = raw["iou_predictions"].reshape(-1), raw["low_res_masks"][0]
        chosen = range(len(scores)) if self.prompting is None else [int(np.nanargmax(scores))]
        found = []
        for i in chosen:
            if scores[i] >= self.min_score:
                mask = _pixels(logits[i], size, inside) > 0
                rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                if len(rows):
                    cut = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
                    found.append((float(scores[i]), (int(rows[0]), int(cols[0])), cut))
        return found


def resized_to(size: Cell) -> Cell:
    """(height, width) of a window whose longer side becomes 1024 pixels."""
    scale = SIDE / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def _pixels(logits: NDArray[np.float32], size: Cell, inside: Cell) -> NDArray[np.float32]:
    """Logits (256, 256) in pixels of a window: to 1024, without the padding, to the window's size."""
    side = logits.shape[0]
    rows = held(logits, *(steps(side, SIDE, 0, n) for n in inside))
    return held(rows, *(steps(a, b, 0, b) for a, b in zip(inside, size, strict=True)))


def _box(corner: Cell, mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    return corner[1], corner[0], corner[1] + mask.shape[1], corner[0] + mask.shape[0]


def _object(score: float, corner: Cell, mask: NDArray[np.bool_]) -> Found:
    box = float(corner[1]), float(corner[0]), float(mask.shape[1]), float(mask.shape[0])
    return Found(1, score, box, corner, mask)


def create(
    encoder: str,
    decoder: str,
    prompts: str = "grid",
    points: int = POINTS,
    window: int | Literal["auto"] = "auto",
    overlap: float = 0.25,
    min_score: float = MIN_SCORE,
    duplicates: float = DUPLICATES,
    bands: Sequence[int] | int | None = None,
    coordinates: Coordinates = "auto",
    ask: Ask = "boxes",
) -> Finder:
    """Segment Anything from the two ONNX files that samexporter writes, on pictures of 8 bits.

    encoder, decoder: their paths. prompts: grid, a GeoJSON file of points and polygons, or a store whose
    objects are asked for in the frames of their names. points: along each side of the grid. window: side
    of the windows of large frames, in pixels; auto: whole frames. overlap: share of a window that
    neighbours repeat. min_score: least IoU that the decoder predicts of a mask. duplicates: IoU of boxes
    above which the worse goes. bands: 1-based numbers of red, green and blue, or
    their count, 3. coordinates: of a GeoJSON
    file, pixels (x, y) of each frame, or map, degrees of longitude and latitude or what its member `crs`
    names; auto: map where it has that member. ask: boxes or centroids, what polygons and the objects of a
    store become.
    """
    _check(points, window, overlap, min_score, duplicates)
    if bands is not None:
        require_bands(bands)
        count = bands if isinstance(bands, int) else len(bands)
        if count != 3:
            raise ValueError(f"bands: the model takes red, green and blue, not {count} bands")
    made, first = _opened("encoder", encoder, OnnxEngine)
    _check_encoder(made)
    joint, second = _opened("decoder", decoder, Joint)
    lacking = [name for name in _TAKES if name not in joint.inputs]
    lacking += [n for n in ("iou_predictions", "low_res_masks") if n not in joint.outputs]
    if lacking:
        raise ValueError(f"decoder: {decoder}: has no {', '.join(lacking)}; is it an encoder?")
    prompting = _prompting(prompts, coordinates, ask)
    head = Sam(
        encoder=made,
        decoder=joint,
        points=_grid(points),
        prompting=prompting,
        min_score=float(min_score),
        duplicates=float(duplicates),
    )
    asked = "" if prompting is None else prompting.digest
    return Finder(
        head=head,
        classes=("background", "object"),
        bands=3 if bands is None or isinstance(bands, int) else tuple(bands),
        weights=_files.digest_of_texts(first, second, asked),
        grid=None if window == "auto" else Grid(window, max(1, round(window * (1 - overlap)))),
        dtypes=("uint8",),
    )


def _prompting(prompts: str, coordinates: Coordinates, ask: Ask) -> Prompting | None:
    """What the option stands for; None: the grid. Raises ValueError naming it."""
    _files.check_choice("coordinates", coordinates, Coordinates)
    _files.check_choice("ask", ask, Ask)
    given: object = prompts
    if not isinstance(given, str):
        raise ValueError(f"prompts: must be grid, or name a file or store, not {given!r}")
    is_store = prompts.rstrip("/").endswith(".zarr") or (
        prompts != "grid" and Path(prompts).is_dir()
    )
    if coordinates != "auto" and (is_store or prompts == "grid"):
        raise ValueError("coordinates: are those of a GeoJSON file; leave the option out")
    if prompts == "grid":
        return None
    if is_store:
        return stored(prompts, ask)
    return drawn(prompts, coordinates, ask)


def _grid(points: int) -> NDArray[np.float64]:
    """(n, 2) x and y of the middles of so many cells along each side, in parts."""
    middles = (np.arange(points) + 0.5) / points
    y, x = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _opened(option: str, path: str, engine: type[Any]) -> tuple[Any, str]:
    """A session on one of the two files, and the digest of its bytes. Raises ValueError."""
    file = _files.path_of(option, path)
    try:
        if file.suffix.lower() != ".onnx" or not file.is_file():
            raise ValueError("there is no such .onnx file; samexporter writes both")
        _files.needs("onnxruntime")
        with _files.private(file) as copy:
            return engine(copy), _files.digest(copy)
    except OSError as error:
        raise ValueError(f"{option}: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{option}: {path}: {error}") from error


def _check_encoder(engine: Engine) -> None:
    """Raise ValueError for what takes no pictures as samexporter's encoders do."""
    shape = engine.input_shape
    fits = len(shape) == 3 or (len(shape) == 4 and shape[1] == 3 and shape[2] in (None, SIDE))
    if not fits or len(engine.outputs) != 1:
        raise ValueError(
            f"encoder: takes {shape} and gives {', '.join(engine.outputs)}; SAM's takes "
            f"(1, 3, {SIDE}, {SIDE}) or (y, x, 3), and gives image_embeddings"
        )


def _check(
    points: object, window: object, overlap: object, min_score: object, duplicates: object
) -> None:
    """Raise ValueError naming an option that is of no use."""
    for name, value, least, most in (("points", points, 1, 128), ("window", window, 16, 1 << 15)):
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        if not whole and not (name == "window" and value == "auto"):
            raise ValueError(
                f"{name}: must be a whole number from {least} to {most}, not {value!r}"
            )
    shares = (("overlap", overlap), ("min_score", min_score), ("duplicates", duplicates))
    for name, value in shares:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= (0.95 if name == "overlap" else 1):  # type: ignore[operator]
            raise ValueError(f"{name}: must be a number from 0 to 1, not {value!r}")
