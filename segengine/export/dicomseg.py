"""DICOM segmentations, one a volume of DICOM: a segment a class, slice by slice on the scanned images.

The files of the source are read again for what a segmentation must say of its patient and study: that is in
the export, where it belongs, and never in the store. Background and void are no segment. A volume that has
several times, or no place, is left to other formats. A volume's labels are in memory as a whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine import asked
from segengine.errors import CorruptInputError, JobError, SegengineError, TransientInputError
from segengine.export._volumes import Volume, needed, volumes
from segengine.outputs import claimed
from segengine.reader import SceneStore, Store, open_store
from segengine.sources._files import open_input
from segengine.sources._series import Slice, read_series
from segengine.sources.volume import VolumeSource
from segengine.types import Entry

FORM = "dicom-seg"
_LONGEST = 64
"""Characters of a segment's label (LO)."""
_MOST = 65535
"""Segments of a file."""
_FAMILIES = {
    "threshold": "HistogramAnalysis",
    "kmeans": "ClusterAnalysis",
    "edges": "EdgeDetection",
}
"""Of algorithms, by segmenter (DICOM PS3.16, CID 7162)."""


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write every volume of DICOM in a store below the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError, and SegengineError where a
    source has changed or cannot be read.
    """
    needed(FORM, "highdicom")
    store = open_store(store_path)
    found = [volume for volume in volumes(store, to, FORM, ".dcm") if _is_placed(volume)]
    if not found:
        raise JobError(
            f"--to {FORM}: the store holds no volume of DICOM that has a place and one time; "
            "--to nifti takes any volume"
        )
    output = claimed(store, to, (volume.path for volume in found), overwrite=overwrite)
    for volume in found:
        segmentation = _segmentation(store, volume)
        with output.replacing(volume.path) as partial, _quiet():
            segmentation.save_as(partial)
    output.close()
    return [str(volume.path) for volume in found]


def _is_placed(volume: Volume) -> bool:
    frames = volume.scene.layout.shape[0]
    dicom = volume.about.get("format") == "dicom"
    return dicom and volume.affine is not None and volume.slices == frames


def _segmentation(store: Store, volume: Volume) -> Any:
    import highdicom
    from pydicom.uid import generate_uid

    frames = _frames(volume.scene)
    sources = _headers(volume.scene, frames)
    labels, numbers = _numbered(store, volume)
    many = len(frames[0].header.planes) > 1
    if many:  # a file's frames stand in an order of their own
        labels = labels[np.argsort([frame.frame for frame in frames])]
    seed = [volume.scene.name, *(str(d.SOPInstanceUID) for d in sources)]
    seed.append(xxhash.xxh3_128_hexdigest(labels.tobytes()))
    try:
        with _quiet():
            found = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=labels,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_descriptions(store, volume.scene, numbers),
                series_instance_uid=generate_uid(entropy_srcs=[*seed, "series"]),
                series_number=100,
                sop_instance_uid=generate_uid(entropy_srcs=seed),
                instance_number=1,
                manufacturer="segengine",
                manufacturer_model_name="segengine",
                software_versions=version("segengine"),
                device_serial_number="1",
                content_label="SEGMENTATION",
            )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # What the source lacks for it, as a frame of reference.
        raise SegengineError(
            f"--to {FORM}: {volume.scene.name}: {str(error).splitlines()[0]}"
        ) from error
    _date(found, volume.scene, generate_uid(entropy_srcs=[*seed, "dimensions"]))
    return found


def _frames(scene: SceneStore) -> tuple[Slice, ...]:
    """The slices of a volume as it was segmented. Raises SegengineError where it is another now."""
    layout, ref = scene.layout, scene.layout.frame(0)
    try:
        if VolumeSource().mark(ref) != ref.fingerprint:
            raise SegengineError(
                f"{layout.names[0]}: has changed since it was segmented; run again"
            )
        frames = read_series(Entry(layout.names[0], ref.uri, ref.fingerprint, layout.parts)).frames
    except (CorruptInputError, TransientInputError) as error:
        raise SegengineError(f"{layout.names[0]}: {error}") from error
    if len(frames) != layout.shape[0]:
        raise SegengineError(f"{layout.names[0]}: has changed since it was segmented; run again")
    return frames


def _headers(scene: SceneStore, frames: tuple[Slice, ...]) -> list[Any]:
    """Data sets without pixels: one a slice, or the one of all frames."""
    import pydicom

    found = []
    for uri in dict.fromkeys(frame.uri for frame in frames):
        try:
            with _quiet(), open_input(uri) as file:
                found.append(pydicom.dcmread(file, stop_before_pixels=True))
        except Exception as error:
            raise SegengineError(f"{scene.layout.names[0]}: cannot be read again") from error
    return found


def _numbered(store: Store, volume: Volume) -> tuple[NDArray[Any], dict[int, int]]:
    """(frame, y, x) numbers of segments, 0 = none; and the number of each label."""
    classes = store.classes
    none = set(asked.background(classes))
    kept = [label for label in range(len(classes)) if label not in none]
    if not kept or len(kept) > _MOST:
        raise JobError(f"--to {FORM}: {len(kept)} classes are no background; 1 to {_MOST:,} fit")
    numbers = {label: number for number, label in enumerate(kept, 1)}
    dtype = np.uint8 if len(kept) < 256 else np.uint16
    table = np.zeros(max(volume.scene.void, len(classes)) + 1, dtype)
    for label, number in numbers.items():
        table[label] = number
    return np.stack([table[labels] for labels in volume.labels()]), numbers


def _descriptions(store: Store, scene: SceneStore, numbers: dict[int, int]) -> list[Any]:
    import highdicom
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    kind = str(store.job.get("segmenter", {}).get("kind", "segmenter"))
    family = getattr(codes.cid7162, _FAMILIES.get(kind, "ArtificialIntelligence"))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        kind[:_LONGEST], family, version("segengine")
    )
    colors = scene.colors()
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_label(store.classes[label], number),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=CIELabColor.from_rgb(*(int(v) for v in colors[label])),
        )
        for label, number in numbers.items()
    ]


def _label(name: str, number: int) -> str:
    """A class name as text of DICOM (LO): no backslash, no control characters."""
    plain = "".join(c if c.isprintable() and c != "\\" else "_" for c in name)[:_LONGEST].strip()
    return plain or f"class {number}"


def _date(segmentation: Any, scene: SceneStore, dimensions: str) -> None:
    """When the mask was made, and a name of its dimensions: the same bytes each time."""
    stamp = max((record.finished for record in scene.store.records(scene.name)), default=0.0)
    made = datetime.fromtimestamp(stamp, UTC)
    for name, form in (("Date", "%Y%m%d"), ("Time", "%H%M%S")):
        for kind in ("Content", "InstanceCreation", "Series"):
            if f"{kind}{name}" in segmentation:
                setattr(segmentation, f"{kind}{name}", made.strftime(form))
    for item in segmentation.get("ContributingEquipmentSequence") or ():
        if "ContributionDateTime" in item:
            item.ContributionDateTime = made.strftime("%Y%m%d%H%M%S")
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in segmentation.get(sequence) or ():
            item.DimensionOrganizationUID = dimensions


@contextmanager
def _quiet() -> Iterator[None]:
    """What highdicom and pydicom say of files that stray from the standard is nothing to a user here."""
    import logging

    logger = logging.getLogger("highdicom")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
