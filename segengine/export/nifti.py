"""NIfTI, one `.nii.gz` a volume: voxel values are the labels, in the place of the scanned volume.

Of a job with `solids` another, `.solids.nii.gz`, whose values are their numbers.

Column, row and frame are x, y and z, as they are stored, so that the affine is that of the source. It is
NIfTI-1 where its float32 hold the affine to 1e-6, else NIfTI-2 (float64). Void is the dtype's maximum.
Class names are in an extension of the kind comment, as JSON; the header holds no text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.export._volumes import Numbers, Volume, needed, volumes
from segengine.outputs import claimed
from segengine.reader import Store, open_store

CLOSE = 1e-6
"""How far the affine may be from the source's."""
_NEAR = 1e-3
"""How far a qform may be from it, whose rotation is rounded; what is sheared is farther."""
_LONGEST = 32767
"""Of a side in NIfTI-1."""
_COMMENT = 6
_LEVEL = 6


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write every volume of a store below the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError.
    """
    needed("nifti", "nibabel")
    store = open_store(store_path)
    found = volumes(store, to, "nifti", ".nii.gz")
    solids = _solids(store, found)
    paths = [*(volume.path for volume in found), *(path for path, _, _ in solids)]
    output = claimed(store, to, paths, overwrite=overwrite)
    for volume in found:
        with output.replacing(volume.path) as partial:
            _write(partial, volume, volume.scene.mask.dtype, store.classes, volume.labels())
    for path, volume, numbers in solids:
        with output.replacing(path) as partial:
            _write(partial, volume, numbers.dtype, (), volume.solids(numbers))
    output.close()
    return [str(path) for path in paths]


def _solids(store: Store, found: list[Volume]) -> list[tuple[Path, Volume, Numbers]]:
    """Files of solids, of the store's table of them, with which object is part of which."""
    if store.job.get("solids") is None:
        return []
    table = store.table("solids")
    made = []
    for volume in found:
        own = table.filter(np.asarray(table.column("scene")) == volume.scene.name)
        path = volume.path.with_name(f"{volume.scene.name}.solids.nii.gz")
        made.append((path, volume, Numbers.of_table(own)))
    return made


def _write(
    path: Path, volume: Volume, dtype: Any, classes: tuple[str, ...], frames: Iterator[NDArray[Any]]
) -> None:
    head = _head(volume, dtype, classes)
    # No name and no time of its own: the same bytes each time.
    with path.open("wb") as file, gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
        packed.write(head)
        for values in frames:
            # x is quickest in the file, as columns are here: a frame goes as it is.
            packed.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())


def _head(volume: Volume, dtype: Any, classes: tuple[str, ...]) -> bytes:
    """Header and extension, up to the first voxel."""
    import io

    import nibabel

    frames, height, width = volume.scene.layout.shape
    slices = volume.slices
    times = frames // slices
    shape = (width, height, slices, times) if times > 1 else (width, height, slices)
    affine = volume.affine
    small = max(shape) <= _LONGEST and (
        affine is None or _is_close(affine, affine.astype(np.float32))
    )
    kind: Any = nibabel.Nifti1Header if small else nibabel.Nifti2Header
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    if affine is not None:
        _place(header, volume, affine)
    if classes:
        about = {"segengine": {"classes": list(classes), "void": volume.scene.void}}
        text = json.dumps(about).encode()
        header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, text))
    written = io.BytesIO()
    header.write_to(written)
    return written.getvalue()


def _place(header: Any, volume: Volume, affine: NDArray[np.float64]) -> None:
    """The affine as sform, and as qform where that can say it: that has no shear."""
    qform, sform = volume.about.get("codes") or (1, 1)
    unit = str(volume.about.get("unit") or "mm")
    if not (qform or sform):
        # The source said nothing but sides; nibabel's own place for it is the same.
        header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    else:
        header.set_sform(affine, code=max(1, int(sform or qform)))
        header.set_qform(affine, code=max(1, int(qform or sform)), strip_shears=True)
        if not _is_close(affine, header.get_qform(), _NEAR):
            header.set_qform(None, code=0)
            header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_xyzt_units(unit if unit in ("meter", "mm", "micron") else None)


def _is_close(one: NDArray[Any], other: NDArray[Any], most: float = CLOSE) -> bool:
    return bool(np.abs(one - other.astype(np.float64)).max() <= most)
