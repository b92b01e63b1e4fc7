"""Suffixes of inputs by the kind of source that reads them, and of what lies beside inputs."""

from __future__ import annotations

from segengine.sources._volumes import DICOM, NIFTI, SLIDE
from segengine.store.keys import LAYOUTS, LOCK

IMAGES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif",
     ".tiff", ".avif", ".heic", ".heif", ".hif")
)  # fmt: skip
RASTER = frozenset((".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".nc"))
VIDEO = frozenset((".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts",
                    ".m2ts", ".m2t", ".m1v", ".m2v", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".ogv",
                    ".3gp", ".3g2", ".mxf", ".dv", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf",
                    ".nut", ".divx", ".rm", ".rmvb", ".y4m", ".mjpg", ".mjpeg", ".qt",
                    ".dav"))  # fmt: skip
ZARR = frozenset((".zarr",))
TIFF = frozenset((".tif", ".tiff"))
VOLUME = NIFTI | DICOM | SLIDE
SUFFIXES = {
    "images": IMAGES, "raster": RASTER, "video": VIDEO, "zarr": ZARR, "volume": VOLUME
}  # fmt: skip
KNOWN = frozenset().union(*SUFFIXES.values())
SIDECARS = frozenset((".xml", ".ovr", ".msk", ".tfw", ".tifw", ".wld", ".jgw", ".pgw", ".prj",
                       ".json", ".txt", ".md", ".csv", ".yaml", ".yml"))  # fmt: skip
ZARR_METADATA = frozenset(("zarr.json", ".zarray", ".zgroup"))
STORE = frozenset((LOCK, LAYOUTS))
"""What only a segengine store holds: the first before, the second as long as there are scenes."""
