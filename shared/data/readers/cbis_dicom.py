"""CBIS-DDSM as The Cancer Imaging Archive gives it: the case files and a tree of DICOM files.

On disk: the four case files at the top or in `csv/`, and below the data directory (at any depth) one folder a subject,
`Mass-Training_P_00001_LEFT_CC_1/<study>/<series>/<file>.dcm`. Older downloads name study and series by UID and files
`000000.dcm`, `000001.dcm`, as the case files do; newer ones `1-1.dcm`, `1-2.dcm`, and the series by its description.

Which file is the crop and which the mask is read from the DICOM headers, because the case files mix them up and the
names do not tell.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from shared.data import images
from shared.data.readers import cbis_ddsm
from shared.run import DataError

NAME = "cbis-ddsm-dicom"
SUBJECT_PREFIXES = ("Mass-", "Calc-")
_TAGS = ["SeriesDescription", "Rows", "Columns"]


def load(data_dir, *, task="malignant", input="crop"):
    """Read the case files and join them with the DICOM tree; see `cbis_ddsm.load` for what comes back.

    Raises:
        DataError: no case file, no DICOM file of CBIS-DDSM below `data_dir`.
        UsageError: a task this data set has no label for.
    """
    cbis_ddsm.check_task(task)
    cases = cbis_ddsm.read_cases(data_dir)
    subjects = list_subjects(data_dir)
    if not subjects:
        raise DataError(
            f"{data_dir}: case files, but no *.dcm in a folder like Mass-Training_P_00001_LEFT_CC_1/; "
            "for the JPEG repack use DATASET cbis-ddsm"
        )
    joined = join_files(cases, subjects, data_dir)
    dataset = cbis_ddsm.build_dataset(
        NAME, data_dir, joined, read_image=cbis_ddsm.image_reader(data_dir), task=task, input=input
    )
    dataset.manifest["source"] = NAME
    return dataset


def list_subjects(data_dir):
    """List the DICOM files of each subject's folder: {folder name: [paths relative to data_dir]}, sorted."""
    subjects = {}
    for folder, _, names in os.walk(data_dir):
        files = sorted(name for name in names if name.lower().endswith(".dcm"))
        if not files:
            continue
        parts = os.path.relpath(folder, data_dir).replace(os.sep, "/").split("/")
        subject = next((part for part in parts if part.startswith(SUBJECT_PREFIXES)), None)
        if subject:
            subjects.setdefault(subject, []).extend("/".join((*parts, name)) for name in files)
    return {subject: sorted(files) for subject, files in subjects.items()}


def join_files(cases, subjects, data_dir):
    """Find full image, crop and mask of each row among its subjects' files.

    Returns:
        `cases` with `full_path`, `crop_path`, `mask_path` ("" where not on disk).
    """

    def join(row):
        full_subject, crop_subject = (source.split("/")[0] for source in (row.full_source, row.crop_source))
        full = next(iter(subjects.get(full_subject, [])), "")
        crop, mask = _tell_apart(subjects.get(crop_subject, []), full, data_dir)
        return full, crop, mask

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(join, cases.itertuples(index=False), chunksize=64))
    return cases.assign(**dict(zip(("full_path", "crop_path", "mask_path"), zip(*found, strict=True), strict=True)))


def _tell_apart(files, full, data_dir):
    """Return (crop, mask) of an abnormality's files: by description, else by size (a mask has the full image's)."""
    roles = [_role(path, full, data_dir) for path in files]
    crop = next((path for path, role in zip(files, roles, strict=True) if role == "crop"), "")
    mask = next((path for path, role in zip(files, roles, strict=True) if role == "mask"), "")
    if not crop:  # an unreadable file is named when its image is read
        crop = next((path for path, role in zip(files, roles, strict=True) if role == "" and path != mask), "")
    return crop, mask


def _role(path, full, data_dir):
    header = _header(path, data_dir)
    if header is None:
        return ""
    described = cbis_ddsm.ROLES.get(str(header.get("SeriesDescription", "")).strip().lower(), "")
    if described or not full:
        return described
    whole = _header(full, data_dir)
    if whole is None:
        return ""
    same_size = (header.get("Rows"), header.get("Columns")) == (whole.get("Rows"), whole.get("Columns"))
    return "mask" if same_size else "crop"


def _header(path, data_dir):
    """Read what tells the files apart, without pixels; None where that fails."""
    try:
        return images.open_dicom(images.inside(data_dir, path), stop_before_pixels=True, specific_tags=_TAGS)
    except Exception:  # pydicom raises many types on damaged files
        return None
