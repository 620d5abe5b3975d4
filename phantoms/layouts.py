"""Write phantom patients in the layouts in which real mammogram data sets are stored, quirks included.

Every writer gets an empty folder and a list of planned patients. Patients are drawn by joblib in parallel; a file
depends on the seed and on its patient alone, never on the number of processes.
"""

import csv
import hashlib
import io
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from phantoms import phantom
from phantoms.phantom import CALC, MASS, TEST, TRAIN
from shared.run import DataError, UsageError, files

LAYOUTS = ("cbis-ddsm", "cbis-ddsm-dicom", "ddsm-tfrecord", "png-npz", "npz", "mini-mias")
DEFAULT_PATIENTS = {
    "cbis-ddsm": 360, "cbis-ddsm-dicom": 40, "ddsm-tfrecord": 40, "png-npz": 240, "npz": 240, "mini-mias": 40,
}  # fmt: skip
UID_ROOT = "1.2.826.0.1.3680043.10.543."  # not the root of any archive of mammograms
ORACLE_FILE = "oracle.csv"


def write_demo_data(out, *, layout="cbis-ddsm", patients=None, seed=0, acquisition="A", n_jobs=-1, progress=True):
    """Write the embedded data set: phantom mammograms in the layout of a real data set.

    The same `seed`, `patients` and `acquisition` give the same bytes, whatever `n_jobs` is. Beside the data lies
    `oracle.csv`: for each lesion image the parameters that drew it and `oracle_score`, the probability of malignancy
    given the drawn shape and margins. No classifier can be expected to rank better than that.

    Args:
        out: folder to make; must not exist, or be empty.
        layout: one of LAYOUTS.
        patients: int, how many patients; None takes the layout's default (360 for cbis-ddsm).
        seed: int >= 0.
        acquisition: "A", or "B" for other patients of a second hospital with another film curve, grain, blur, labels
            and share of cancers (for external validation).
        n_jobs: int, processes; -1 uses all cores.
        progress: bool, show a progress bar.
    Returns:
        pathlib.Path: the folder.
    Raises:
        DataError: `out` is a file or holds something already, or cannot be written.
        UsageError: an unknown layout or acquisition, or less than one patient.
    """
    out = Path(out)
    patients = DEFAULT_PATIENTS.get(layout) if patients is None else patients
    _check_options(layout, patients, seed, acquisition)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not an empty folder; name a new one, or delete it first")
    plans = phantom.plan_patients(patients, seed=seed, acquisition=acquisition)
    run = partial(_map_patients, n_jobs=n_jobs, progress=progress)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=out.parent))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        WRITERS[layout](temporary, plans, run)
        temporary.chmod(0o755)
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); free space or choose another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def provide_demo_data(out, **options):
    """Draw the data unless they lie in `out` already, drawn by this version of the generator with these options.

    Args:
        out: folder, written anew where the generator has changed; what was drawn is noted in `<out>.json` beside it.
        options: as for `write_demo_data`.
    Returns:
        pathlib.Path: the folder.
    """
    out = Path(out)
    note, drawn = out.with_suffix(".json"), {"generator": _fingerprint(), **options}
    if not (out.is_dir() and note.exists() and files.read_json(note) == drawn):
        note.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        write_demo_data(out, **options)
        files.write_json(note, drawn)
    return out


def _fingerprint():
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _check_options(layout, patients, seed, acquisition):
    if layout not in LAYOUTS:
        raise UsageError(f"layout: {layout!r} is not one of {', '.join(LAYOUTS)}")
    if acquisition not in phantom.ACQUISITIONS:
        raise UsageError(f"acquisition: {acquisition!r} is not one of {', '.join(phantom.ACQUISITIONS)}")
    if patients < 1:
        raise UsageError(f"patients: {patients} is less than 1")
    if seed < 0:
        raise UsageError(f"seed: {seed} is negative")


def _map_patients(task, plans, *, n_jobs, progress, title="phantom patients"):
    """Return [task(patient)] in order, drawn in parallel."""
    bar = tqdm(plans, desc=title, unit="patient", disable=not progress)
    jobs = (delayed(_one_thread)(task, patient) for patient in bar)
    return Parallel(n_jobs=n_jobs, batch_size=4)(jobs)


def _one_thread(task, patient):
    """Run a task with OpenCV on one thread: the processes share the cores already."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return task(patient)
    finally:
        cv2.setNumThreads(threads)


# -------------------------------------------------------------- small helpers
def _uid(*key):
    """Return a DICOM UID that depends on `key` alone; at most 64 characters."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=15).digest()
    return UID_ROOT + str(int.from_bytes(digest, "big"))


def _stream(patient, *key):
    """Return a random Generator for what a writer decides about one patient."""
    return np.random.default_rng((*patient.seed, 200, *key))


def _to_uint8(image):
    return np.round(image * 255).astype(np.uint8)


def _write_image(path, image, *options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, list(options)):
        raise OSError(0, f"OpenCV could not write {path.name}")


def _views(patient, sides=None):
    """Yield (side, view, drawn View) of the sides with findings, or of those named."""
    for side in sides or patient.sides():
        for view in phantom.VIEWS:
            yield side, view, phantom.render_view(patient, side, view)


def _crop(drawn, position):
    """Return the crop of the lesion at `position`, float 0 ... 1."""
    top, bottom, left, right = drawn.boxes[position]
    return drawn.image[top:bottom, left:right]


def _image_id(patient, lesion, view):
    kind = "Mass" if lesion.kind == MASS else "Calc"
    official = "Training" if patient.split[lesion.kind] == TRAIN else "Test"
    return f"{kind}-{official}_{patient.patient_id}_{lesion.side}_{view}_{lesion.number}"


def _oracle_row(patient, lesion, view):
    return {
        "image_id": _image_id(patient, lesion, view),
        "patient_id": patient.patient_id,
        "official_split": patient.split[lesion.kind],
        "label": int(lesion.malignant),
        "oracle_score": round(lesion.oracle_score, 6),
        "abnormality_type": lesion.kind,
        "shape_or_type": lesion.shape,
        "margins_or_distribution": lesion.margins,
        "diameter_px": round(lesion.diameter, 2),
        "contrast": round(lesion.contrast, 4),
        "softness": round(lesion.edge, 4),
        "breast_density": patient.density,
    }


def _write_rows(path, rows, *, line_end="\n"):
    """Write dicts as csv in UTF-8; `line_end` ends rows, line breaks inside fields stay as they are."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode())


def _write_oracle(out, plans):
    rows = [_oracle_row(p, lesion, view) for p in plans for lesion in p.lesions for view in phantom.VIEWS]
    _write_rows(out / ORACLE_FILE, rows)


# ------------------------------------------------------------------ CBIS-DDSM
DICOM_COLUMNS = (
    "file_path", "image_path", "AccessionNumber", "BitsAllocated", "BitsStored", "BodyPartExamined", "Columns",
    "ContentDate", "ContentTime", "ConversionType", "HighBit", "InstanceNumber", "LargestImagePixelValue",
    "Laterality", "Modality", "PatientBirthDate", "PatientID", "PatientName", "PatientOrientation", "PatientSex",
    "PhotometricInterpretation", "PixelRepresentation", "ReferringPhysicianName", "Rows", "SOPClassUID",
    "SOPInstanceUID", "SamplesPerPixel", "SecondaryCaptureDeviceManufacturer",
    "SecondaryCaptureDeviceManufacturerModelName", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber",
    "SmallestImagePixelValue", "SpecificCharacterSet", "StudyDate", "StudyID", "StudyInstanceUID", "StudyTime",
)  # fmt: skip
FULL, CROP, ROI = "full mammogram images", "cropped images", "ROI mask images"
CASE_FILES = {
    (MASS, TRAIN): "mass_case_description_train_set.csv",
    (MASS, TEST): "mass_case_description_test_set.csv",
    (CALC, TRAIN): "calc_case_description_train_set.csv",
    (CALC, TEST): "calc_case_description_test_set.csv",
}


def _write_cbis(out, plans, run, *, dicom=False):
    """Write the JPEG repack of CBIS-DDSM (csv/, jpeg/<series uid>/), or the archive's DICOM tree."""
    _write_oracle(out, plans)
    results = run(partial(_write_cbis_patient, out=out, dicom=dicom), plans)
    rows = [row for result in results for row in result["rows"]]
    files = [file for result in results for file in result["files"]]
    for (kind, split), name in CASE_FILES.items():
        table = [row["fields"] for row in rows if (row["kind"], row["split"]) == (kind, split)]
        if table:
            _write_rows(out / "csv" / name, table, line_end="\r\n")
    if not dicom:
        _drop_one_series(out, rows, files)
        _write_rows(out / "csv/dicom_info.csv", [file for file in files if file is not None])


def _drop_one_series(out, rows, files):
    """Remove one crop-and-mask series: CBIS-DDSM's repack lacks one (a calc row of train, second abnormality)."""
    candidates = [row for row in rows if row["kind"] == CALC and row["split"] == TRAIN]
    numbered = [row for row in candidates if row["number"] > 1]
    if len(candidates) < 20:  # a handful of patients is for trying out: leave all
        return
    series = (numbered or candidates)[0]["crop_series"]
    shutil.rmtree(out / "jpeg" / series)
    for position, file in enumerate(files):
        if file["SeriesInstanceUID"] == series:
            files[position] = None


def _write_cbis_patient(patient, *, out, dicom):
    """Draw one patient, write the images, and return the csv rows: {"rows": [...], "files": [...]}."""
    result = {"rows": [], "files": []}
    for side, view, drawn in _views(patient):
        for kind in (MASS, CALC):
            positions = [i for i, lesion in enumerate(drawn.lesions) if lesion.kind == kind]
            if positions:  # each kind has its own copy of the full image, as in CBIS-DDSM
                _write_cbis_film(out, patient, kind, side, view, drawn, positions, result, dicom)
    return result


def _write_cbis_film(out, patient, kind, side, view, drawn, positions, result, dicom):
    lesion = drawn.lesions[positions[0]]
    film = _image_id(patient, lesion, view).rsplit("_", 1)[0]
    rng = _stream(patient, side == "RIGHT", phantom.VIEWS.index(view), kind == CALC)
    write = _write_dicom if dicom else _write_jpeg
    base = {"out": out, "patient": patient, "side": side, "view": view, "rng": rng, "result": result}
    full_path = write(**base, folder=film, series=(film,), role=FULL, image=drawn.image, number=0)
    for position in positions:
        lesion = drawn.lesions[position]
        folder = f"{film}_{lesion.number}"
        crop, mask = _crop(drawn, position), drawn.masks[position].astype(np.float32)
        # mass: crop 000000, mask 000001; calc the other way round; some rows give each a series of its own
        own_series = rng.random() < 0.03 and kind == MASS
        crop_number = 0 if kind == MASS or own_series else 1
        mask_series = (folder, "mask") if own_series else (folder,)
        mask_number = 0 if own_series else 1 - crop_number
        mask_first = rng.random() < 0.5  # the names 1-NNN and 2-NNN do not tell crop from mask
        paths = {}
        for role in (CROP, ROI):
            image, number, series = (crop, crop_number, (folder,)) if role == CROP else (mask, mask_number, mask_series)
            first = own_series or (role == ROI) == mask_first
            place = {"folder": folder, "series": series, "number": number, "first": first}
            paths[role] = write(**base, **place, role=role, image=image)
        fields = _case_fields(patient, lesion, view, full_path, paths)
        row = {"kind": kind, "split": patient.split[kind], "fields": fields, "number": lesion.number}
        result["rows"].append({**row, "crop_series": paths[CROP].split("/")[2]})


def _case_fields(patient, lesion, view, full_path, paths):
    """Return one row of a case description file, with its line breaks inside the path fields."""
    mass = lesion.kind == MASS
    shape, margins = ("mass shape", "mass margins") if mass else ("calc type", "calc distribution")
    words = {shape: lesion.shape_words, margins: lesion.margins_words}
    if mass and (lesion.shape, lesion.margins) == ("IRREGULAR", "SPICULATED") and lesion.subtlety > 3:
        words[shape] = "IRREGULAR-ARCHITECTURAL_DISTORTION"
    if not mass and not words[margins]:
        words[margins] = "N/A"
    return {
        "patient_id": patient.patient_id,
        "breast_density" if mass else "breast density": patient.density,
        "left or right breast": lesion.side,
        "image view": view,
        "abnormality id": lesion.number,
        "abnormality type": lesion.kind,
        **words,
        "assessment": lesion.assessment,
        "pathology": lesion.pathology,
        "subtlety": lesion.subtlety,
        "image file path": full_path,
        "cropped image file path": paths[CROP] + ("" if mass else "\n"),
        "ROI mask file path": paths[ROI] + ("\n" if mass else ""),
    }


def _write_jpeg(*, out, patient, side, view, rng, result, folder, series, role, image, number, first=True):
    """Write one image of the repack, note its row of dicom_info.csv, and return its path in the case file."""
    study_uid, series_uid = _uid(*patient.seed, "study", *series), _uid(*patient.seed, "series", *series)
    name = f"{1 if first else 2}-{int(rng.integers(1, 300)):03d}"
    pixels = _to_uint8(image)
    _write_image(out / "jpeg" / series_uid / f"{name}.jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, 93)
    deep = role != ROI
    info = dict.fromkeys(DICOM_COLUMNS, "")
    info |= {
        "file_path": f"CBIS-DDSM/dicom/{series_uid}/{name}.dcm",
        "image_path": f"CBIS-DDSM/jpeg/{series_uid}/{name}.jpg",
        "BitsAllocated": 16 if deep else 8,
        "BitsStored": 16 if deep else 8,
        "HighBit": 15 if deep else 7,
        "BodyPartExamined": "BREAST",
        "Columns": pixels.shape[1],
        "Rows": pixels.shape[0],
        "ConversionType": "WSD",
        "InstanceNumber": 1,
        "SmallestImagePixelValue": int(pixels.min()) * (257 if deep else 1),
        "LargestImagePixelValue": int(pixels.max()) * (257 if deep else 1),
        "Laterality": side[0],
        "Modality": "MG",
        "PatientID": folder,
        "PatientName": folder,
        "PatientOrientation": view,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": _uid(*patient.seed, "image", *series, role),
        "SeriesDescription": role,
        "SeriesInstanceUID": series_uid,
        "SeriesNumber": 1,
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyID": "DDSM",
        "StudyInstanceUID": study_uid,
    }
    if role != FULL and rng.random() < 0.05:  # some rows of the real file say little
        short = folder.split("_", 1)[1]
        info |= {"SeriesDescription": "", "Laterality": "", "BodyPartExamined": f"{side.title()} Breast",
                 "PatientID": f"{short}.dcm", "PatientName": f"{patient.patient_id}^{patient.patient_id}"}  # fmt: skip
    result["files"].append(info)
    return f"{folder}/{study_uid}/{series_uid}/{number:06d}.dcm"


def _write_dicom(*, out, patient, side, view, rng, result, folder, series, role, image, number, first=True):
    """Write one image of the archive's tree as DICOM; some full images are MONOCHROME1 with a display window."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    study_uid, series_uid = _uid(*patient.seed, "study", *series), _uid(*patient.seed, "series", *series)
    path = f"{folder}/{study_uid}/{series_uid}/{number:06d}.dcm"
    deep = role != ROI
    inverted = role == FULL and rng.random() < 0.3
    pixels = np.round(image * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
    pixels = 65535 - pixels if inverted else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = _uid(*patient.seed, "image", *series, role)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    target = out / "CBIS-DDSM" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset = FileDataset(str(target), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientID = dataset.PatientName = folder
    dataset.Modality, dataset.Laterality, dataset.PatientOrientation = "MG", side[0], view
    dataset.SeriesDescription, dataset.BodyPartExamined = role, "BREAST"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = study_uid, series_uid, 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 16 if deep else 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    if role == FULL:
        dataset.WindowCenter, dataset.WindowWidth = 32768, 65536
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() + (b"\0" if pixels.nbytes % 2 else b"")
    dataset.save_as(target, enforce_file_format=True)
    return path


# -------------------------------------------------------------- DDSM TFRecords
TFRECORD_SIDE, TFRECORD_SHARDS = 299, 5


def _write_tfrecord(out, plans, run):
    """Write DDSM tiles of 299 x 299: five TFRecord files for training, two arrays for test (masses) and cv (calcs)."""
    _write_oracle(out, plans)
    tiles = [tile for patient in run(_draw_tiles, plans) for tile in patient]
    order = np.random.default_rng(plans[0].seed).permutation(len(tiles))
    tiles = [tiles[position] for position in order]
    training = [tile for tile in tiles if tile["split"] == TRAIN]
    for shard in range(TFRECORD_SHARDS):
        name = f"training10_{shard}"
        write_records(out / name / f"{name}.tfrecords", training[shard::TFRECORD_SHARDS])
    for name, kind in (("test10", MASS), ("cv10", CALC)):
        chosen = [tile for tile in tiles if tile["split"] == TEST and tile["kind"] == kind]
        images = np.array([tile["image"] for tile in chosen], np.uint8).reshape(-1, TFRECORD_SIDE, TFRECORD_SIDE, 1)
        (out / f"{name}_data").mkdir()
        np.save(out / f"{name}_data/{name}_data.npy", images)
        np.save(out / f"{name}_labels.npy", np.array([tile["label"] for tile in chosen], np.int64))


def _draw_tiles(patient):
    """Return a patient's tiles: three of each lesion's view, and some of a healthy breast if there is one.

    Lesion tiles keep the film's resolution; normal tiles went through another program (coarser sampling, JPEG,
    stretched grey values), as in the real set, where such traces separate the classes better than anatomy does.
    """
    rng = _stream(patient, 3)
    tiles = []
    for _side, _view, drawn in _views(patient):
        for position, lesion in enumerate(drawn.lesions):
            code = {(CALC, False): 1, (MASS, False): 2, (CALC, True): 3, (MASS, True): 4}[lesion.kind, lesion.malignant]
            for _ in range(3):
                image = cv2.resize(_jittered(rng, drawn, position), (TFRECORD_SIDE,) * 2, interpolation=cv2.INTER_CUBIC)
                tiles.append({"image": _to_uint8(np.clip(image, 0, 1)), "label": code, "kind": lesion.kind,
                              "split": patient.split[lesion.kind]})  # fmt: skip
    healthy = [side for side in ("LEFT", "RIGHT") if side not in patient.sides()]
    kind = patient.lesions[0].kind
    for _side, _view, drawn in _views(patient, healthy) if healthy else ():
        for _ in range(10):
            tile = _normal_tile(rng, drawn.image)
            tiles.append({"image": tile, "label": 0, "kind": kind, "split": patient.split[kind]})
    return tiles


def _jittered(rng, drawn, position):
    """Return a crop of a lesion, shifted by up to a tenth of its side."""
    top, bottom, left, right = drawn.boxes[position]
    h, w = drawn.image.shape
    dy, dx = (rng.uniform(-0.1, 0.1, 2) * (bottom - top, right - left)).astype(int)
    dy, dx = np.clip(dy, -top, h - bottom), np.clip(dx, -left, w - right)
    return drawn.image[top + dy : bottom + dy, left + dx : right + dx]


def _normal_tile(rng, image):
    side = int(rng.integers(80, 130))
    for _ in range(20):
        top, left = int(rng.integers(0, image.shape[0] - side)), int(rng.integers(0, image.shape[1] - side))
        tile = image[top : top + side, left : left + side]
        if np.mean(tile > 0.15) > 0.8:
            break
    small = cv2.resize(tile, (100, 100), interpolation=cv2.INTER_AREA)
    pixels = _to_uint8(np.clip(0.05 + 0.9 * small, 0, 1))
    pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)
    return cv2.resize(pixels, (TFRECORD_SIDE,) * 2, interpolation=cv2.INTER_LINEAR)


def write_records(path, tiles):
    """Write one TFRecord file; `tiles` yields dicts with `image` (uint8, square) and `label` (0 ... 4)."""
    from shared.models.backend import tf

    def integer(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for tile in tiles:
            raw = tf.train.Feature(bytes_list=tf.train.BytesList(value=[tile["image"].tobytes()]))
            feature = {"label": integer(tile["label"]), "label_normal": integer(int(tile["label"] > 0)), "image": raw}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


# -------------------------------------------------------------------- png, npz
SYNTHETIC_SIDE = 128
TWIN_SEED = 1_000_003


def _write_png_npz(out, plans, run):
    """Write crops as original/*.png, and, of other women, crops out of a simulated generator as synthetic/*.npz.

    Both kinds come from the same anatomy; what differs is what a generator and its file format leave behind.
    """
    _write_oracle(out, plans)
    (out / "original").mkdir()
    (out / "synthetic").mkdir()
    run(partial(_write_originals, out=out), plans)
    # other women of the same population, whose crops the simulated generator draws
    twins = phantom.plan_patients(len(plans), seed=plans[0].seed[0] + TWIN_SEED, acquisition=plans[0].acquisition)
    run(partial(_write_synthetics, out=out), twins, title="synthetic twins")


def _write_originals(patient, *, out):
    for side, view, drawn in _views(patient):
        for position, lesion in enumerate(drawn.lesions):
            name = f"{patient.patient_id}_{side}_{view}_{position + 1}_{'M' if lesion.malignant else 'B'}.png"
            _write_image(out / "original" / name, _to_uint8(_crop(drawn, position)))


def _write_synthetics(patient, *, out):
    rng = _stream(patient, 7)
    made = 0
    for _side, _view, drawn in _views(patient):
        for position, lesion in enumerate(drawn.lesions):
            word = "malignant" if lesion.malignant else "benign"
            index = 4 * (patient.number % 8) + made % 4
            name = f"batch_{patient.number // 8}_{index}_{word}.npz"
            made += 1
            _save_npz(out / "synthetic" / name, generate_twin(rng, _crop(drawn, position)))
            if made == 4:
                return


def generate_twin(rng, crop):
    """Return a crop as a convolutional image generator would draw it.

    What such generators are known for: one fixed size, high frequencies too weak, a checkerboard from stride-2
    transposed convolutions (Odena, Dumoulin and Olah, Distill 2016, doi 10.23915/distill.00003), their own grey scale.

    Args:
        rng: numpy Generator.
        crop: float (h, w), 0 ... 1.
    Returns:
        uint8 (128, 128).
    """
    side = SYNTHETIC_SIDE
    shrink = cv2.INTER_AREA if min(crop.shape) > side else cv2.INTER_CUBIC
    image = cv2.GaussianBlur(cv2.resize(crop, (side, side), interpolation=shrink), (0, 0), rng.uniform(0.9, 1.2))
    pattern = np.kron(np.ones((side // 2, side // 2)), [[1.0, -1.0], [-1.0, 1.0]])
    coarse = np.kron(np.ones((side // 4, side // 4)), np.outer([1, 0.3, -0.3, -1], [1, 0.3, -0.3, -1]))
    strength = 0.5 + np.abs(cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), 6)) * 6
    image = image + strength * (0.012 * pattern + 0.006 * coarse)
    image = 0.16 + 0.78 * image
    return _to_uint8(np.clip(image, 0, 1))


def _save_npz(path, array):
    """Save one array under the key arr_0; the archive carries no time, so the same array gives the same bytes."""
    with open(path, "wb") as file:
        np.savez_compressed(file, array)


def _write_npz(out, plans, run):
    """Write class folders cancer/ and non_cancer/ of z-score normalised crops, float32 (128, 128)."""
    _write_oracle(out, plans)
    (out / "cancer").mkdir()
    (out / "non_cancer").mkdir()
    run(partial(_write_npz_patient, out=out), plans)


def _write_npz_patient(patient, *, out):
    for side, view, drawn in _views(patient):
        for position, lesion in enumerate(drawn.lesions):
            folder = "cancer" if lesion.malignant else "non_cancer"
            crop = _crop(drawn, position)
            shrink = cv2.INTER_AREA if min(crop.shape) > SYNTHETIC_SIDE else cv2.INTER_CUBIC
            image = cv2.resize(crop, (SYNTHETIC_SIDE,) * 2, interpolation=shrink)
            image = (image - image.mean()) / (image.std() + 1e-6)
            _save_npz(out / folder / f"{patient.patient_id}_{side}_{view}_{position + 1}.npz", image.astype(np.float32))


# -------------------------------------------------------------------- mini-MIAS
MIAS_SIDE = 1024
MIAS_TISSUE = {1: "F", 2: "G", 3: "G", 4: "D"}


def _write_mias(out, plans, run):
    """Write mdbNNN.pgm, 1024 x 1024, MLO films of both breasts (odd numbers left, even right), and Info.txt."""
    results = run(partial(_write_mias_patient, out=out), plans)
    _write_oracle(out, plans)
    (out / "Info.txt").write_text("\n".join(line for lines in results for line in lines) + "\n", encoding="ascii")


def _write_mias_patient(patient, *, out):
    rng = _stream(patient, 11)
    first = 1 + 2 * (patient.number - phantom.ACQUISITIONS[patient.acquisition].first_patient)
    lines = []
    for offset, side in enumerate(("LEFT", "RIGHT")):
        name = f"mdb{first + offset:03d}"
        drawn = phantom.render_view(patient, side, "MLO")
        h, w = drawn.image.shape
        scale = MIAS_SIDE / h
        film = cv2.resize(_to_uint8(drawn.image), (round(w * scale), MIAS_SIDE), interpolation=cv2.INTER_CUBIC)
        canvas = np.zeros((MIAS_SIDE, MIAS_SIDE), np.uint8)
        left = (MIAS_SIDE - film.shape[1]) // 2
        canvas[:, left : left + film.shape[1]] = film
        _write_image(out / f"{name}.pgm", canvas)
        lines += _mias_lines(rng, name, patient, drawn, scale, left)
    return lines


def _mias_lines(rng, name, patient, drawn, scale, left):
    tissue = MIAS_TISSUE[patient.density]
    if not drawn.lesions:
        return [f"{name} {tissue} NORM"]
    lines = []
    for lesion, mask in zip(drawn.lesions, drawn.masks, strict=True):
        severity = "M" if lesion.malignant else "B"
        word = _mias_class(lesion)
        if lesion.margins == "DIFFUSELY_SCATTERED" or rng.random() < 0.02:  # widely spread: no place is given
            lines.append(f"{name} {tissue} {word} {severity} *NOTE 3*")
            continue
        rows, columns = np.nonzero(mask)
        x, y = (
            left + scale * columns.mean(),
            MIAS_SIDE - 1 - scale * rows.mean(),
        )  # the origin is the bottom left corner
        radius = scale * np.sqrt(mask.sum() / np.pi) * 1.15
        lines.append(f"{name} {tissue} {word} {severity} {x:.0f} {y:.0f} {radius:.0f}")
    return lines


def _mias_class(lesion):
    if lesion.kind == CALC:
        return "CALC"
    return {"CIRCUMSCRIBED": "CIRC", "SPICULATED": "SPIC", "OBSCURED": "ASYM"}.get(lesion.margins, "MISC")


WRITERS = {
    "cbis-ddsm": _write_cbis,
    "cbis-ddsm-dicom": partial(_write_cbis, dicom=True),
    "ddsm-tfrecord": _write_tfrecord,
    "png-npz": _write_png_npz,
    "npz": _write_npz,
    "mini-mias": _write_mias,
}
