"""Segment Anything, as samexporter writes it to ONNX: an encoder, run once a window, and a decoder.

    encoder   (1, 3, 1024, 1024) normalised, or (y, x, 3) of 0 to 255     ->  image_embeddings
    decoder   image_embeddings, point_coords, point_labels, mask_input, has_mask_input, orig_im_size
                                                            ->  masks, iou_predictions, low_res_masks

A window's longer side becomes 1024 pixels. Each prompt is a point; of the masks that the decoder gives for
it each with a predicted IoU of `min_score` counts (of POINTS: the best alone), and of those whose boxes are
nearly the same the best. Source: Kirillov et al. 2023; segment_anything/utils/onnx.py and
automatic_mask_generator.py; samexporter/sam_onnx.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Engine
from segengine.engines.onnxruntime import Joint, OnnxEngine
from segengine.guards import texts
from segengine.instances.pasting import held, steps
from segengine.segmenters import _files
from segengine.segmenters._finder import Finder, Grid
from segengine.segmenters._found import Found
from segengine.segmenters._overlaps import without_duplicates
from segengine.types import Cell, Pixels

Floats = NDArray[np.float32]
SIDE = 1024
"""Of what the encoder sees, in pixels."""
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)
_TAKES = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
_LOW = 256
"""Side of the mask that a decoder takes and gives, in pixels."""
MOST, MOST_POINTS, MOST_BYTES = 1000, 1 << 14, 1 << 24
"""Objects a window; points and bytes of a file of points."""
MIN_SCORE, DUPLICATES, POINTS = 0.88, 0.7, 32


@dataclass(frozen=True, slots=True, eq=False)
class Sam:
    """The head of an encoder and its decoder."""

    encoder: Engine
    decoder: Joint
    points: NDArray[np.float64]
    """(n, 2) x and y of prompts: of a grid in parts of a window, else in pixels."""
    grid: bool
    """Then all masks of a prompt count, else the best alone."""
    min_score: float
    duplicates: float

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.encoder.provenance

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, 3) of bytes, the best first."""
        size = window.shape[0], window.shape[1]
        inside = resized_to(size)
        embedding = self._embed(window, inside)
        found: list[tuple[float, Cell, NDArray[np.bool_]]] = []
        points = self.points * np.array(size[::-1]) if self.grid else self.points
        for point in points[(points < size[::-1]).all(axis=1)]:
            found += self._masks(embedding, point, size, inside)
        order = np.argsort([-score for score, _, _ in found], kind="stable").tolist()
        boxes = np.array([_box(*found[i][1:]) for i in order], np.float64).reshape(-1, 4)
        labels = np.zeros(len(order), np.int64)
        kept = without_duplicates(boxes, labels, self.duplicates, MOST)
        return [_object(*found[order[k]]) for k in kept]

    def _embed(self, window: Pixels, inside: Cell) -> Floats:
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
        embedding: Floats = self.encoder.run(fed)[self.encoder.outputs[0]]
        return embedding

    def _masks(
        self, embedding: Floats, point: NDArray[np.float64], size: Cell, inside: Cell
    ) -> list[tuple[float, Cell, NDArray[np.bool_]]]:
        """Score, corner and mask of what the decoder gives for a point x, y of the window."""
        ratio = np.array([inside[1] / size[1], inside[0] / size[0]])
        fed = {
            "image_embeddings": embedding,
            "point_coords": np.array([[point * ratio, (0, 0)]], np.float32),
            "point_labels": np.array([[1, -1]], np.float32),
            "mask_input": np.zeros((1, 1, _LOW, _LOW), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(size, np.float32),
        }
        raw = self.decoder.run({name: fed[name] for name in self.decoder.inputs})
        scores, logits = raw["iou_predictions"].reshape(-1), raw["low_res_masks"][0]
        chosen = range(len(scores)) if self.grid else [int(np.nanargmax(scores))]
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


def _pixels(logits: Floats, size: Cell, inside: Cell) -> Floats:
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
    bands: Sequence[int] | None = None,
) -> Finder:
    """Segment Anything from the two ONNX files that samexporter writes, on pictures of 8 bits.

    encoder, decoder: their paths. prompts: grid, or a GeoJSON file of points in pixels (x, y) of each
    frame. points: along each side of the grid. window: side of the windows of large frames, in
    pixels; auto: whole frames. overlap: share of a window that neighbours repeat. min_score: least IoU
    that the decoder predicts of a mask. duplicates: IoU of boxes above which the worse goes. bands:
    1-based numbers of red, green and blue.
    """
    _check(points, window, overlap, min_score, duplicates)
    if bands is not None and len(bands) != 3:
        raise ValueError(f"bands: the model takes red, green and blue, not {len(bands)} bands")
    grid = prompts == "grid"
    if not grid and window != "auto":
        raise ValueError("window: points are those of whole frames; leave it out")
    made, first = _opened("encoder", encoder, OnnxEngine)
    _check_encoder(made)
    joint, second = _opened("decoder", decoder, Joint)
    lacking = [name for name in _TAKES if name not in joint.inputs]
    lacking += [n for n in ("iou_predictions", "low_res_masks") if n not in joint.outputs]
    if lacking:
        raise ValueError(f"decoder: {decoder}: has no {', '.join(lacking)}; is it an encoder?")
    places, third = (_grid(points), "") if grid else _points(prompts)
    head = Sam(
        encoder=made,
        decoder=joint,
        points=places,
        grid=grid,
        min_score=float(min_score),
        duplicates=float(duplicates),
    )
    return Finder(
        head=head,
        classes=("background", "object"),
        bands=3 if bands is None else tuple(bands),
        weights=_files.digest_of_texts(first, second, third),
        grid=None if window == "auto" else Grid(window, max(1, round(window * (1 - overlap)))),
        dtypes=("uint8",),
    )


def _grid(points: int) -> NDArray[np.float64]:
    """(n, 2) x and y of the middles of so many cells along each side, in parts."""
    middles = (np.arange(points) + 0.5) / points
    y, x = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _points(path: str) -> tuple[NDArray[np.float64], str]:
    """(n, 2) x and y of a GeoJSON file's points, and its digest. Raises ValueError."""
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"is larger than {MOST_BYTES >> 20} MiB and is refused")
        data = file.read_bytes()
        found = texts.parse(data, "it")
        shapes = found["features"] if isinstance(found, dict) else None
        points = [feature["geometry"]["coordinates"][:2] for feature in shapes or ()]
        places = np.array(points, np.float64).reshape(-1, 2)
    except OSError as error:
        raise ValueError(
            f"prompts: {path}: {error.strerror or error}; give grid, or a GeoJSON file of points"
        ) from error
    except (KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts: {path}: is no GeoJSON file of points in pixels") from error
    except ValueError as error:
        raise ValueError(f"prompts: {path}: {error}") from error
    good = np.isfinite(places).all() and (places >= 0).all()
    if not good or not 0 < len(places) <= MOST_POINTS:
        raise ValueError(
            f"prompts: {path}: has {len(places)} points; give 1 to {MOST_POINTS:,}, in pixels from 0 on"
        )
    return places, _files.digest_of_texts(data.hex())


def _opened(option: str, path: str, engine: type[Any]) -> tuple[Any, str]:
    """A session on one of the two files, and the digest of its bytes. Raises ValueError."""
    file = Path(path)
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
