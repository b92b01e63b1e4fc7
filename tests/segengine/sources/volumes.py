"""Small volumes for tests: DICOM series with a patient in every place that takes one, and NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = {
    "PatientName": "Quennelby^Ottoline",
    "PatientID": "MRN7391846",
    "PatientBirthDate": "19470923",
    "PatientAddress": "Larkspur Row 8",
    "ReferringPhysicianName": "Zwingmann^Ansgar",
    "InstitutionName": "Saint Wendreda",
    "AccessionNumber": "ACC55120937",
    "StudyDescription": "abdomen of Quennelby",
    "SeriesDescription": "axial, Mrs Quennelby",
    "StudyID": "STU40417",
    "OperatorsName": "Tregarthen^Piran",
    "PatientComments": "sister of Wilhelmina",
}
SECRETS = ("quennelby", "ottoline", "mrn7391846", "19470923", "larkspur", "zwingmann", "wendreda",
           "acc55120937", "stu40417", "tregarthen", "wilhelmina")  # fmt: skip
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def body(slices: int = 6, height: int = 24, width: int = 20, seed: int = 0) -> Any:
    """(frame, y, x) int16, Hounsfield units of something bright in something dark, with noise."""
    z, y, x = np.mgrid[:slices, :height, :width]
    inside = ((y - height / 2) / 8) ** 2 + ((x - width / 2) / 6) ** 2 + (
        (z - slices / 2) / 4
    ) ** 2 < 1
    noise = np.random.default_rng(seed).integers(-30, 30, inside.shape)
    return (np.where(inside, 180, -650) + noise).astype(np.int16)


def slice_of(
    values: Any,
    position: Any,
    *,
    number: int | None = 1,
    series: str = "1.2.826.0.1.99",
    rows: Any = AXIAL,
    spacing: Any = (0.75, 0.5),
    slope: float = 1,
    intercept: float = -1024,
    **more: Any,
) -> FileDataset:
    """A CT slice whose rescaled values are `values` (y, x), with all that says who it is of."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in PATIENT.items():
        setattr(data, name, value)
    data.add_new(0x00091001, "LO", "Quennelby, private")
    data.PatientSex, data.StudyDate, data.StudyTime = "F", "20240229", "101112"
    data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.826.0.1.77", "1.2.826.0.1.78"
    data.SOPClassUID, data.SeriesInstanceUID = CTImageStorage, series
    data.SeriesNumber, data.Modality, data.Manufacturer = 3, "CT", "Scanners"
    data.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(number), str(position)])
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.InstanceNumber = number
    data.ImagePositionPatient = [float(f"{p:.10g}") for p in position]
    data.ImageOrientationPatient = list(rows)
    data.PixelSpacing, data.SliceThickness = list(spacing), 2.5
    data.PositionReferenceIndicator = ""
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.WindowCenter, data.WindowWidth = 40, 400
    stored = np.rint((values.astype(np.float64) - intercept) / slope).astype(np.uint16)
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    for name, value in more.items():
        setattr(data, name, value)
    return data


def write_series(
    folder: Path,
    values: Any,
    positions: Any = None,
    *,
    name: str = "IM{:04d}.dcm",
    numbers: bool = True,
    **more: Any,
) -> list[Path]:
    """A file a slice of values (n, y, x), in an order of names that is not that of places."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(values)
    places = (
        [(-8.25, 4.125, -31.3 + 2.5 * i) for i in range(count)] if positions is None else positions
    )
    order = np.random.default_rng(1).permutation(count)
    paths = []
    for i, (one, place) in enumerate(zip(values, places, strict=True)):
        path = folder / name.format(int(order[i]))
        number = i + 1 if numbers else None
        slice_of(one, place, number=number, **more).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def datasets(paths: list[Path]) -> list[FileDataset]:
    """The files, read by pydicom."""
    return [pydicom.dcmread(path) for path in paths]


def write_nifti(path: Path, values: Any, affine: Any, **header: Any) -> Path:
    """values (x, y, z) or (x, y, z, t), with a patient in the texts of the header and an extension."""
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"], image.header["db_name"] = b"Quennelby^Ottoline", b"MRN7391846"
    image.header["aux_file"] = b"Wendreda"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"Larkspur Row 8"))
    for key, value in header.items():
        image.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
