"""CBIS-DDSM as The Cancer Imaging Archive gives it: the case files and a tree of DICOM files.

On disk: the four case files at the top or in `csv/`, and below the data directory (at any depth) one folder a subject,
`Mass-Training_P_00001_LEFT_CC_1/<study>/<series>/<file>.dcm`. Older downloads name study and series by UID and files
`000000.dcm`, `000001.dcm`, as the case files do; newer ones `1-1.dcm`, `1-2.dcm`, and the series by its description.

Which file is the crop and which the mask is read from the DICOM headers, because the case files mix them up and the
names do not tell.
"""

from pathlib import Path
from typing import Any

from shared.data import decoding
from shared.data.readers import cbis_ddsm, cbis_series, common
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "cbis-ddsm-dicom"


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """Read the case files and join them with the DICOM tree; see `cbis_ddsm.load` for what comes back.

    Raises DataError: no case file, no DICOM file of CBIS-DDSM below `data_dir`; UsageError: a task this data set has no
        label for.
    """
    common.check_task(NAME, task, cbis_ddsm.TASKS)
    cases = cbis_ddsm.read_cases(data_dir)
    subjects: dict[str, list[str]] = {}
    for path in common.list_files(data_dir, ".dcm"):
        for part in path.split("/")[:-1]:
            if part.startswith(("Mass-", "Calc-")):
                subjects.setdefault(part, []).append(path)
                break
    if not subjects:
        folder = "Mass-Training_P_00001_LEFT_CC_1"
        raise DataError(f"{data_dir}: no *.dcm in a folder like {folder}/; the JPEG repack is DATASET cbis-ddsm")

    def role(path: str) -> str:
        try:
            header = decoding.open_dicom(data_dir / path, stop_before_pixels=True, specific_tags=["SeriesDescription"])
        except DataError:
            return ""  # an unreadable file is named when its image is read
        return cbis_ddsm.ROLES.get(str(header.get("SeriesDescription", "")).strip().lower(), "")

    def find(row: Any) -> tuple[str, str, str]:
        fulls, parts = (subjects.get(source.split("/")[0], []) for source in (row.full_source, row.crop_source))
        full = fulls[0] if fulls else ""
        return full, *cbis_series.tell_apart(parts, role, full, data_dir)

    return cbis_ddsm.build_dataset(NAME, data_dir, cbis_ddsm.join_files(cases, find), task=task, input=input)
