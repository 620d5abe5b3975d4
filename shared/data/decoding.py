"""Read an image file of any supported type as one grey plane: JPEG, PNG, TIFF, PGM, BMP, DICOM, NumPy.

This is where a file becomes pixels. Every class and every source takes this path.
"""

import os
import warnings
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image

from shared.run import DataError, refuse_damage

MAX_PIXELS = 64_000_000  # more than any mammogram; what is larger is refused before it is decoded
MAX_BYTES = 8 * MAX_PIXELS  # of one array, and of one file
READERS = min(4, os.cpu_count() or 1)  # images that threads work on together: the memory that they take is bounded
DICOM = (".dcm", ".dicom")
FORMATS = ("JPEG", "PNG", "TIFF", "PPM", "BMP")  # that Pillow may take a file for, whatever its name says
REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH,
}  # fmt: skip
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says goes past Python


def inside(data_dir: Path, relative: str) -> Path:
    """Return the file that a table or manifest calls `relative`.

    Symbolic links below the data directory are followed: a folder may lie on another disk.
    Raises DataError: an absolute path, or one with `..`.
    """
    text = str(relative)
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise DataError(f"{relative!r}: not a path below the data directory; correct it where it is listed")
    return Path(data_dir) / text


def read_grey(path: Path | str, *, min_side: int | None = None) -> np.ndarray:
    """Read an image file of any supported type as one grey plane.

    It is JPEG, PNG, TIFF, PGM or BMP; DICOM (`.dcm`, `.dicom`); NumPy (`.npy`, `.npz` with one array). With `min_side`,
    pixels, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (the discrete cosine transform does it, antialiased) as
    long as its shorter side keeps at least this length.
    Returns uint8, uint16 or floating-point (H, W), as stored.
    Raises DataError: names the file and what is wrong with it.
    """
    path = Path(path)
    try:
        size = path.stat().st_size if path.is_file() else -1
        path.name.encode("utf-8")
    except (OSError, ValueError):  # a name that no file can have, or none that is text
        size = -1
    if size <= 0:
        raise DataError(f"{path.name}: " + ("no such file" if size < 0 else "an empty file; fetch it again"))
    if size > MAX_BYTES:
        raise DataError(f"{path.name}: a file of {size / 1e6:,.0f} MB, far larger than a mammogram")
    if path.suffix.lower() in DICOM:
        return read_dicom(path)
    if path.suffix.lower() in (".npz", ".npy"):
        return read_array(path)
    kind, height, width = read_header(path)
    check_whole(path, kind)
    needed = min_side if kind == "JPEG" and min_side else max(height, width)
    factor = next((factor for factor in (8, 4, 2) if min(height, width) // factor >= needed), 1)
    try:
        image = cv2.imread(str(path), REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f"{path.name}: cannot be decoded; fetch the file again")
    return as_grey(image, path.name)


def read_header(path: Path) -> tuple[str, int, int]:
    """Return (kind, height, width) of an image or DICOM file without decoding it; raises DataError."""
    try:
        if path.suffix.lower() in DICOM:
            header = open_dicom(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            return "DICOM", int(header.Rows), int(header.Columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large or damaged files; those that matter are named below
            with Image.open(path, formats=FORMATS) as image:
                kind, (width, height) = str(image.format), image.size
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except Exception:  # Pillow and pydicom raise many types on damaged files
        raise DataError(f"{path.name}: not an image that can be read; fetch the file again") from None
    if width * height > MAX_PIXELS:
        raise DataError(f"{path.name}: more than {MAX_PIXELS:,} pixels; no mammogram is that large")
    return kind, height, width


def check_whole(path: Path, kind: str) -> None:
    """Raise DataError where a JPEG or PNG was cut off: decoders fill the rest with grey and only mutter."""
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind, b"")
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        if end not in file.read():
            raise DataError(f"{path.name}: truncated {kind} (its end is missing); fetch the file again")


def read_array(path: Path) -> np.ndarray:
    """Read a `.npy` file, or the only array of a `.npz` file, as a grey plane; never unpickles.

    Raises DataError: more than one array, pickled objects, too many pixels, not a plane, NaN or infinity.
    """
    with refuse_damage(f"{path.name}: not a readable NumPy file", "save it again"), ExitStack() as stack:
        if path.suffix.lower() == ".npy":
            file: Any = stack.enter_context(open(path, "rb"))
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            if len(names) != 1:
                raise DataError(f"{path.name}: {len(names)} arrays where one is expected; keep one a file")
            file = stack.enter_context(archive.open(names[0]))
        check_array_header(file, path.name)
        file.seek(0)
        return as_grey(np.lib.format.read_array(file, allow_pickle=False), path.name)


def check_array_header(file: IO[bytes], name: str) -> None:
    """Raise DataError where the header of a `.npy` file says that unpacking it would be unsafe or useless."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{name}: holds pickled Python objects, which could run code; save a plain array")
    values = int(np.prod(shape, dtype=np.float64))
    channels = shape[-1] if len(shape) == 3 and shape[-1] in (3, 4) else 1
    if values > channels * MAX_PIXELS or values * dtype.itemsize > MAX_BYTES:
        raise DataError(f"{name}: an array of shape {shape}, far larger than a mammogram")
    if dtype.kind not in "buif":
        raise DataError(f"{name}: an array of type {dtype}; numbers are expected")


def as_grey(array: np.ndarray, name: str) -> np.ndarray:
    """Return `array` as a plane (H, W) of uint8, uint16 or float; `name` is for the error line.

    An axis of length 1 is dropped; of three or four channels, the first three are averaged.
    """
    if array.ndim == 3 and 1 in (array.shape[-1], array.shape[0]):
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    elif array.ndim == 3 and array.shape[-1] in (3, 4):
        array = array[..., :3].mean(axis=-1)
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"{name}: an array of shape {array.shape}; one grey plane (height, width) is expected")
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{name}: holds NaN, infinity or numbers beyond float32; repair or remove the file")
    return array


def open_dicom(path: Path, **options: Any) -> Any:
    """Open a DICOM file with `pydicom.dcmread`, unless its data set is compressed as a whole.

    Such a file (transfer syntax "deflated") is inflated in one go, however large it becomes; no mammogram has it.
    Raises DataError for it, and for whatever pydicom raises on a damaged file.
    """
    import pydicom

    with refuse_damage(f"{path.name}: not a readable DICOM image", "fetch it again"):
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            raise DataError(f"{path.name}: a DICOM data set compressed as a whole; save it without")
        return pydicom.dcmread(path, **options)


def check_decoder(path: Path, dataset: Any) -> None:
    """Raise DataError where the pixels of an open DICOM data set are compressed and no package here can decode them."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError:
        is_available = False
    if not is_available:
        way_out = "install pylibjpeg with pylibjpeg-openjpeg (JPEG 2000) or pylibjpeg-libjpeg (other JPEG)"
        raise DataError(f"{path.name}: no decoder for {syntax.name}; {way_out}")


def read_dicom(path: Path) -> np.ndarray:
    """Read a DICOM image: modality and VOI transforms applied, MONOCHROME1 inverted (pydicom; DICOM PS3.3 C.11).

    Brighter is denser; 9 to 16 bits fill the scale of uint16. Raises DataError where there is not one plane of pixels.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = open_dicom(path)
    with refuse_damage(f"{path.name}: not a readable DICOM image", "fetch it again"):
        pixels = int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0))
        if not 0 < pixels <= MAX_PIXELS:
            raise DataError(f"{path.name}: {pixels:,} pixels; a mammogram has up to {MAX_PIXELS:,}")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise DataError(f"{path.name}: {frames} frames; export the mammogram, not the tomosynthesis")
        check_decoder(path, dataset)
        image = as_grey(apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset), path.name)
        lookup = dataset.get("VOILUTSequence")
        bits = int(lookup[0].LUTDescriptor[2]) if lookup else int(dataset.BitsStored)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        image = (image.max() + image.min()) - image
    if 8 < bits <= 16 and image.min() >= 0 and image.max() < 2**bits:
        image = np.rint(image * np.float32(65535 / (2**bits - 1))).astype(np.uint16)
    return image
