"""Which layout a folder holds, told from the names of its files and the headers of its tables."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.data.readers import npz_folders
from shared.run import DataError, UsageError, list_tree

CASE_FILE = r"\b(mass|calc)_case_description_(train|test)_set\.csv$"
CLASS_FOLDER = "|".join(npz_folders.POSITIVE + npz_folders.NEGATIVE).replace("_", "[-_ ]")
MOST_HEADERS = 12  # tables whose first line is read, those nearest to the top first


@dataclass(frozen=True)
class Contents:
    """What a folder holds, as far as a layout is told by it; all in lower case."""

    files: str  # one path a line, relative to the folder
    headers: tuple[frozenset[str], ...]  # the columns of its csv files, blanks as "_"


Predicate = Callable[[Contents], bool]


def has_files(*patterns: str) -> Predicate:
    """Return a predicate: each of these regular expressions finds a path."""
    return lambda contents: all(re.search(pattern, contents.files, re.MULTILINE) for pattern in patterns)


def has_columns(*columns: str) -> Predicate:
    """Return a predicate: one table has all of these columns."""
    return lambda contents: any(header.issuperset(columns) for header in contents.headers)


SIGNATURES: dict[str, tuple[str, Predicate]] = {  # layout: what it is told by, in words and as a predicate
    "cbis-ddsm": ("case files and jpeg/", has_files(CASE_FILE, r"\bjpeg/[^/]+/[^/]+\.(jpe?g|png)$")),
    "cbis-ddsm-dicom": ("case files and Mass-*/**.dcm", has_files(CASE_FILE, r"\b(mass|calc)-[^/]+/.+\.dcm$")),
    "ddsm-tfrecord": ("*.tfrecords", has_files(r"\.tfrecords$")),
    "png-npz": ("a folder of *.png beside one of *.npz", has_files(r"^[^/]+/[^/]+\.png$", r"^[^/]+/[^/]+\.npz$")),
    "npz": ("*.npz in folders named as classes", has_files(rf"^({CLASS_FOLDER})/[^/]+\.npz$")),
    "mini-mias": ("Info.txt and mdb*.pgm", has_files(r"\binfo\.txt$", r"\bmdb\d{3}\.pgm$")),
    "vindr-mammo": ("a table with study_id, breast_birads", has_columns("study_id", "image_id", "breast_birads")),
    "rsna-2023": ("a table with image_id, cancer", has_columns("patient_id", "image_id", "laterality", "cancer")),
    "cmmd": ("CMMD_clinicaldata*", has_files(r"\bcmmd_clinicaldata[^/]*$")),
    "inbreast": ("INbreast.xls or INbreast.csv", has_files(r"\binbreast\.(xlsx?|csv)$")),
}
NOT_MAMMOGRAMS = {  # what else is offered as images of breast cancer
    "histology": r"\bsob_[bm]_[a-z]+[-_].+\.png$|_idx\d+_x\d+_y\d+_class[01]\.png$|\.(svs|ndpi|mrxs|scn|bif)$",
    "ultrasound": r"\b(benign|malignant|normal) \(\d+\)(_mask\w*)?\.png$",
}


def detect_layout(data_dir: Path | str) -> str:
    """Find out which layout a folder holds; the key of `SIGNATURES`. What the folder is called plays no part.

    Lists the files and reads the first line of at most `MOST_HEADERS` tables.
    Raises DataError: no such folder, or nothing known in it; UsageError: two layouts fit.
    """
    data_dir = Path(data_dir).expanduser()
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such directory; --data-dir is the folder that holds the data set")
    contents = list_contents(data_dir)
    found = [layout for layout, (_, fits) in SIGNATURES.items() if fits(contents)]
    if len(found) > 1:
        raise UsageError(f"{data_dir}: fits {' and '.join(found)}; say which with --dataset")
    if found:
        return found[0]
    for kind, pattern in NOT_MAMMOGRAMS.items():
        match = re.search(rf"^.*({pattern}).*$", contents.files, re.MULTILINE)
        if match:
            raise DataError(f"{data_dir}: {match[0]} is {kind}, not mammography; these notebooks read mammograms only")
    wanted = "; ".join(f"{layout}: {words}" for layout, (words, _) in SIGNATURES.items())
    raise DataError(f"{data_dir}: no known layout in its {len(contents.files.splitlines())} files; looked for {wanted}")


def list_contents(data_dir: Path) -> Contents:
    """List the files below a folder, and read the headers of the csv files that lie nearest to its top."""
    paths = [path.relative_to(data_dir).as_posix() for path in list_tree(data_dir)]
    tables = sorted((path for path in paths if path.lower().endswith(".csv")), key=lambda path: (path.count("/"), path))
    headers = []
    for table in tables[:MOST_HEADERS]:
        with (data_dir / table).open("rb") as file:
            line = file.readline(4096).decode("utf-8-sig", "replace")
        words = (word.strip(' "\r\n').lower().replace(" ", "_") for word in re.split("[,;\t]", line))
        headers.append(frozenset(words))
    return Contents("".join(f"{path.lower()}\n" for path in paths), tuple(headers))
