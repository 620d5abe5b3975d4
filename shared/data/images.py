"""Read any supported image file, bring it to one grey 8-bit square, and keep all of them in one array on disk.

Every class and every source takes this one path, so that nothing of the file format can tell the classes apart.
"""

import hashlib
import json
import os
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from shared import __version__
from shared.run import DataError, UsageError, files

MAX_PIXELS = 89_000_000  # more than any mammogram; what is larger is refused before it is decoded
MAX_BYTES = 12 * MAX_PIXELS  # of one array: three channels of float32
CHUNK = 32  # images a thread prepares before it writes them


@dataclass(frozen=True)
class ImageSteps:
    """What is done to every image, in this order: breast crop, resize, window, pad."""

    size: int = 224  # pixels, height and width of the result
    window: str = "percentile"  # percentile | zscore | minmax | none
    keep_aspect: bool = True  # pad to a square, or stretch
    breast_crop: bool = False  # cut the dark background of full mammograms away


# ------------------------------------------------------------------- reading
def inside(data_dir, relative):
    """Return the absolute path of `relative` below `data_dir`; a `#fragment` at its end is kept out.

    Raises:
        DataError: an absolute path, one with `..`, or a symbolic link that leads out of `data_dir`.
    """
    base = Path(data_dir).resolve()
    text = str(relative).split("#")[0].replace("\\", "/")
    if not text or text.startswith("/") or ".." in text.split("/") or ":" in text.split("/")[0]:
        raise DataError(f"{relative!r}: not a path below the data directory; correct it where it is listed")
    try:
        path = (base / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a name too long, a zero byte
        raise DataError(f"{text[:80]}: no usable path ({error})") from None
    if not path.is_relative_to(base):
        raise DataError(f"{text}: a symbolic link that leads out of the data directory; put the file itself there")
    return path


def read_grey(path, *, min_side=None):
    """Read an image file of any supported type as one grey plane.

    Args:
        path: JPEG, PNG, TIFF, PGM or BMP; DICOM (`.dcm`); NumPy (`.npy`, `.npz` with one array).
        min_side: int, pixels. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size (the discrete cosine
            transform does it, antialiased) as long as its shorter side keeps at least this length.
    Returns:
        uint8, uint16 or floating-point (H, W), as stored.
    Raises:
        DataError: names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path.name}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: an empty file; fetch it again")
    suffix = path.suffix.lower()
    if suffix == ".dcm":
        return read_dicom(path)
    if suffix in (".npz", ".npy"):
        return read_array(path)
    kind, width, height = _image_header(path)
    _check_ends_well(path, kind)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    if kind == "JPEG" and min_side:
        flags = cv2.IMREAD_GRAYSCALE
        for factor, reduced in (
            (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
            (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
            (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
        ):
            if min(width, height) // factor >= min_side:
                flags = reduced
                break
    image = cv2.imread(str(path), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(f"{path.name}: cannot be decoded; fetch the file again")
    return as_grey(image, path.name)


def image_size(path):
    """Return (height, width) from a file's header, without decoding it; raises DataError."""
    _, width, height = _image_header(Path(path))
    return height, width


def _image_header(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as header:
                kind, (width, height) = header.format, header.size
    except Image.DecompressionBombError:
        raise DataError(f"{path.name}: more than {MAX_PIXELS:,} pixels; no mammogram is that large") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise DataError(f"{path.name}: not an image that can be read; fetch the file again") from None
    if width * height > MAX_PIXELS:
        raise DataError(f"{path.name}: {width} x {height} pixels, more than {MAX_PIXELS:,}; no mammogram is that large")
    return kind, width, height


def _check_ends_well(path, kind):
    """Refuse a JPEG or PNG that was cut off: decoders fill the rest with grey and only mutter."""
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind)
    if end is None:
        return
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        if end not in file.read():
            raise DataError(f"{path.name}: truncated {kind} (its end is missing); fetch the file again")


def read_array(path):
    """Read a `.npy` file, or the only array of a `.npz` file, as a grey plane; never unpickles.

    Sizes are checked in the header before anything is unpacked. A last axis of 1 is dropped, one of 3 or 4 is
    averaged over its first three.

    Returns:
        uint8, uint16 or floating-point (H, W), finite.
    Raises:
        DataError: more than one array, pickled objects, too many pixels, not a plane, NaN or infinity.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                shape, dtype = _array_header(file)
                _check_array_header(path, shape, dtype)
            array = np.load(path, allow_pickle=False)
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                if len(names) != 1:
                    raise DataError(f"{path.name}: {len(names)} arrays where one is expected; keep one a file")
                with archive.open(names[0]) as file:
                    shape, dtype = _array_header(file)
                    _check_array_header(path, shape, dtype)
                with archive.open(names[0]) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and the header parser raise many types on damaged files
        raise DataError(f"{path.name}: not a readable NumPy file ({str(error)[:80]}); save it again") from None
    return as_grey(array, path.name)


def _array_header(file):
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    return shape, dtype


def _check_array_header(path, shape, dtype):
    if dtype.hasobject:
        raise DataError(f"{path.name}: holds pickled Python objects, which could run code; save a plain array")
    values = int(np.prod(shape, dtype=np.float64))
    channels = shape[-1] if len(shape) == 3 and shape[-1] in (3, 4) else 1
    if values > channels * MAX_PIXELS or values * dtype.itemsize > MAX_BYTES:
        raise DataError(f"{path.name}: an array of shape {shape}, far larger than a mammogram")
    if dtype.kind not in "buif":
        raise DataError(f"{path.name}: an array of type {dtype}; numbers are expected")


def as_grey(array, name):
    """Return `array` as a plane (H, W) of uint8, uint16 or float; `name` is for the error line."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    elif array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
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


def open_dicom(path, **options):
    """Open a DICOM file with `pydicom.dcmread`, unless its data set is compressed as a whole.

    Such a file (transfer syntax "deflated") is inflated in one go, however large it becomes; no mammogram has it.

    Raises:
        DataError: a deflated data set.
        Exception: whatever pydicom raises on a damaged file.
    """
    import pydicom

    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
        raise DataError(f"{Path(path).name}: a DICOM data set compressed as a whole; save it without")
    return pydicom.dcmread(path, **options)


def read_dicom(path):
    """Read a DICOM image: modality and VOI transforms applied, MONOCHROME1 inverted (pydicom; DICOM PS3.3 C.11).

    Returns:
        uint16 or float32 (H, W), brighter = denser.
    Raises:
        DataError: not DICOM, no pixels, more than one plane.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    path = Path(path)
    try:
        dataset = open_dicom(path)
        pixels = int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0))
        if not 0 < pixels <= MAX_PIXELS:
            raise DataError(f"{path.name}: {pixels:,} pixels; a mammogram has up to {MAX_PIXELS:,}")
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise DataError(
                f"{path.name}: {dataset.NumberOfFrames} frames; export the mammogram, not the tomosynthesis"
            )
        image = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    except DataError:
        raise
    except Exception as error:  # pydicom and its decoders raise many types
        raise DataError(f"{path.name}: not a readable DICOM image ({str(error)[:80]}); fetch it again") from None
    image = as_grey(image, path.name)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        image = (image.max() + image.min()) - image
    return image


# ---------------------------------------------------------------- preparing
def to_uint8(image, window="percentile"):
    """Map intensities to 0–255.

    Args:
        image: (H, W) of any real dtype.
        window: `percentile` stretches the 0.5th to the 99.5th percentile of what is not background (zero);
            `zscore` maps mean ± 3 standard deviations; `minmax` the extremes; `none` keeps the scale of the file
            (16 bit is divided by 257, floats in [0, 1] are multiplied by 255).
    Returns:
        uint8 (H, W); a constant image becomes 0 (with `none`: stays what it is).
    """
    values = np.asarray(image, dtype=np.float32)
    if window == "none":
        scaled = values * raw_scale(image)
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    low, high = _window_limits(values, window)
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip((values - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)


def _window_limits(values, window):
    if window == "percentile":
        foreground = values[values > 0]
        return np.percentile(foreground if foreground.size > 16 else values, (0.5, 99.5))
    if window == "zscore":
        mean, spread = values.mean(), values.std()
        return mean - 3 * spread, mean + 3 * spread
    if window == "minmax":
        return values.min(), values.max()
    raise UsageError(f"WINDOW: {window!r} is not one of percentile, zscore, minmax, none")


def raw_scale(image):
    """Return the factor that brings the file's own scale to 0–255."""
    if image.dtype == np.uint8:
        return 1.0
    if image.dtype == np.uint16:
        return 1 / 257
    return 255.0 if image.size and image.max() <= 1.0 else 1.0


def resize(image, height, width):
    """Resize with antialiasing: area averaging where it shrinks, bilinear where it grows.

    Args:
        image: uint8, uint16 or float32 (H, W).
    Returns:
        same dtype (height, width)
    """
    shrinks = height < image.shape[0] or width < image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def breast_box(image):
    """Find the breast: the largest region brighter than Otsu's threshold on a small copy.

    Returns:
        (top, bottom, left, right) in pixels; the whole image where nothing stands out.
    """
    scale = max(1, max(image.shape) // 256)
    small = to_uint8(resize(image, max(1, image.shape[0] // scale), max(1, image.shape[1] // scale)), "minmax")
    threshold, _ = cv2.threshold(small, 0, 255, cv2.THRESH_OTSU)
    mask = (small > threshold * 0.5).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return 0, image.shape[0], 0, image.shape[1]
    left, top, width, height = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), :4] * scale
    return int(top), min(int(top + height), image.shape[0]), int(left), min(int(left + width), image.shape[1])


def fit_square(image, steps):
    """Crop to the breast (if asked), resize and return the picture and where it sits in the square.

    Returns:
        image (h, w) with h, w ≤ steps.size, and (top, left) of its place in the padded square.
    """
    if steps.breast_crop:
        top, bottom, left, right = breast_box(image)
        image = image[top:bottom, left:right]
    height = width = steps.size
    if steps.keep_aspect:
        ratio = steps.size / max(image.shape)
        height, width = (max(1, round(side * ratio)) for side in image.shape)
    return resize(image, height, width), ((steps.size - height) // 2, (steps.size - width) // 2)


def prepare_image(image, steps):
    """Take one image through all steps.

    Args:
        image: (H, W), any real dtype.
        steps: ImageSteps
    Returns:
        uint8 (steps.size, steps.size); what padding adds is 0.
    """
    small, place = fit_square(image, steps)
    return _pad(to_uint8(small, steps.window), place, steps.size)


def prepare_mask(mask, image, steps):
    """Take a lesion mask the way its image went: uint8 (size, size) of 0 and 1."""
    mask = resize((mask > 0).astype(np.float32), *image.shape) if mask.shape != image.shape else mask > 0
    if steps.breast_crop:
        top, bottom, left, right = breast_box(image)
        mask = mask[top:bottom, left:right]
    small, place = fit_square(mask.astype(np.float32), ImageSteps(steps.size, "none", steps.keep_aspect, False))
    return _pad((small >= 0.5).astype(np.uint8), place, steps.size)


def _pad(image, place, size):
    if image.shape == (size, size):
        return image
    square = np.zeros((size, size), image.dtype)
    square[place[0] : place[0] + image.shape[0], place[1] : place[1] + image.shape[1]] = image
    return square


# ------------------------------------------------------------- image store
STATISTICS_COLUMNS = (
    "height", "width", "mean", "std", "minimum", "maximum", "share_zero", "content", "problem", "mask_problem",
)  # fmt: skip


def store_bytes(count, size):
    """Return the bytes that a store of `count` images of `size` pixels needs."""
    return count * size * size + 128


def check_disk(folder, needed, what="the image store"):
    """Raise DataError where the disk that holds `folder` has less than `needed` bytes (and a margin) free."""
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + 50_000_000:
        raise DataError(
            f"not enough disk space for {what}: {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free; "
            "free some, choose a smaller IMAGE_SIZE, or put RUN_DIR on another disk"
        )


def store_key(dataset, steps):
    """Return what decides whether the store is built anew: sources, exclusions, steps, version (hexadecimal)."""
    digest = hashlib.sha256(json.dumps([__version__, dataset.name, asdict(steps)]).encode())
    seen = {}
    columns = dataset.manifest[["image_path", "mask_path", "split"]]  # split: rows that the reader rules out stay black
    for image_path, mask_path, split in columns.itertuples(index=False):
        digest.update(f"{image_path}|{mask_path}|{split}".encode())
        file = image_path.split("#")[0]
        if file not in seen:
            seen[file] = _file_state(dataset.data_dir / file)
            digest.update(seen[file].encode())
    return digest.hexdigest()[:32]


def _file_state(path):
    try:
        state = path.stat()
    except (OSError, ValueError):  # not there, or a name that no file can have
        return "none"
    return f"{state.st_size}-{state.st_mtime_ns}"


def build_image_store(dataset, folder, steps, *, n_jobs=None):
    """Build `images.npy` (and `masks.npy`) in `folder` unless a store with the same key is there.

    Images are prepared by threads and written in place, so memory does not grow with their number. Files that
    cannot be read leave a black image and their error line in the column `problem` of the statistics; a mask that
    cannot be read leaves an empty one and a line in `mask_problem`.

    Args:
        dataset: datasets.Dataset; row i of its manifest becomes image i.
        folder: pathlib.Path, usually `<run>/data`.
        steps: ImageSteps
        n_jobs: threads; default: the cores there are.
    Returns:
        (images, masks, statistics): uint8 memory maps (N, size, size), masks or None, and a DataFrame with
        `STATISTICS_COLUMNS` on the file's own pixels (intensities brought to 0–255).
    Raises:
        DataError: not enough disk space.
    """
    folder = Path(folder)
    note, key = folder / "images.json", store_key(dataset, steps)
    if _is_whole(folder, note, key):
        return open_image_store(folder)
    count = len(dataset.manifest)
    has_masks = dataset.read_mask is not None and dataset.manifest.mask_path.ne("").any()
    check_disk(folder, store_bytes(count, steps.size) * (2 if has_masks else 1))
    note.unlink(missing_ok=True)
    if not has_masks:
        (folder / "masks.npy").unlink(missing_ok=True)
    rows = list(dataset.manifest.itertuples(index=False))
    statistics = [None] * count

    def work(start, write_images, write_masks):
        chunk = rows[start : start + CHUNK]
        results = [_prepare_row(dataset, row, steps, has_masks) for row in chunk]
        write_images(start, np.stack([image for image, _, _ in results]))
        if has_masks:
            write_masks(start, np.stack([mask for _, mask, _ in results]))
        statistics[start : start + len(chunk)] = [numbers for _, _, numbers in results]
        return len(chunk)

    shape = (count, steps.size, steps.size)
    with (
        _array_writer(folder / "images.npy", shape) as write_images,
        _array_writer(folder / "masks.npy", shape if has_masks else None) as write_masks,
        ThreadPoolExecutor(n_jobs or os.cpu_count()) as pool,
        tqdm(total=count, desc="image store", unit="image", disable=None) as bar,
    ):
        for done in pool.map(lambda start: work(start, write_images, write_masks), range(0, count, CHUNK)):
            bar.update(done)
    frame = pd.DataFrame(statistics, columns=list(STATISTICS_COLUMNS))
    frame.insert(0, "image_id", dataset.manifest.image_id.to_numpy())
    files.write_csv(folder / "image_statistics.csv", frame)
    files.write_json(note, {"key": key, "shape": shape, "steps": asdict(steps), "masks": bool(has_masks)})
    return open_image_store(folder)


def _is_whole(folder, note, key):
    if not note.exists() or files.read_json(note).get("key") != key:
        return False
    names = ["images.npy", "image_statistics.csv"] + ["masks.npy"] * files.read_json(note)["masks"]
    return all((folder / name).exists() for name in names)


def open_image_store(folder):
    """Open a store that is there; see `build_image_store` for what is returned."""
    folder = Path(folder)
    masks = folder / "masks.npy"
    words = ("image_id", "content", "problem", "mask_problem")
    statistics = pd.read_csv(folder / "image_statistics.csv", dtype=dict.fromkeys(words, str))
    return (
        np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        np.load(masks, mmap_mode="r", allow_pickle=False) if masks.exists() else None,
        statistics.fillna({"content": "", "problem": "", "mask_problem": ""}),
    )


def _prepare_row(dataset, row, steps, has_masks):
    empty = np.zeros((steps.size, steps.size), np.uint8)
    try:
        if getattr(row, "split", "") == "excluded":
            raise DataError(row.exclusion_reason)
        raw = dataset.read_image(row.image_path, min_side=steps.size * (2 if steps.breast_crop else 1))
        if raw.min() == raw.max():
            raise DataError(f"{row.image_path}: one grey value in all {raw.size:,} pixels, no picture; remove the file")
        image = prepare_image(raw, steps)
    except DataError as error:
        return empty, empty, (0, 0, np.nan, np.nan, np.nan, np.nan, np.nan, "", str(error), "")
    mask, mask_problem = empty, ""
    if has_masks and row.mask_path:
        try:
            mask = prepare_mask(dataset.read_mask(row), raw, steps)
        except DataError as error:  # the picture is good: it stays, without a mask
            mask_problem = str(error)
    content = hashlib.sha256(image.tobytes()).hexdigest()[:24]
    return image, mask, (*_raw_statistics(raw), content, "", mask_problem)


def _raw_statistics(raw):
    scale = raw_scale(raw)
    mean, spread = (float(value.item()) * scale for value in cv2.meanStdDev(raw))
    low, high, _, _ = cv2.minMaxLoc(raw)
    return *raw.shape, mean, spread, low * scale, high * scale, 1 - cv2.countNonZero(raw) / raw.size


class _array_writer:
    """Write blocks of rows of a uint8 `.npy` file from several threads; the file appears whole, at the end.

    Blocks go to the file with `pwrite`, not through a memory map: dirty pages of a map count as the program's
    own memory, and would grow with the number of images.
    """

    def __init__(self, path, shape):
        self.path, self.shape = Path(path), shape

    def __enter__(self):
        if self.shape is None:
            return None
        self._whole = files.atomic_write(self.path)
        temporary = self._whole.__enter__()
        self._file = open(temporary, "wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()
        offset, row = self._file.tell(), self.shape[1] * self.shape[2]
        return lambda start, block: _write_at(self._file.fileno(), block.tobytes(), offset + start * row)

    def __exit__(self, *error):
        if self.shape is not None:
            self._file.close()
            self._whole.__exit__(*error)


def _write_at(handle, content, offset):
    """Write all of `content`: on a disk that fills up, one call may write a part and say so without an error."""
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written
