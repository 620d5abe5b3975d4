"""Reader of mini-MIAS: `mdbNNN.pgm` (1024 × 1024, 8 bit) and `Info.txt`.

A line of `Info.txt` is `id tissue abnormality [severity x y radius]`. The origin of x, y is the bottom-left corner; an
image with several lesions has several lines; where calcifications are spread over the breast there are no coordinates
(`*NOTE 3*`, or nothing). Images 1 and 2, 3 and 4, … are the two sides of one patient.

Which side is which: the full-resolution MIAS files carry the side in their names (`mdb001lm`, `mdb002rl`), so that odd
is left, even is right. The text that comes with mini-MIAS says the reverse; the file names are followed here. All views
are mediolateral oblique. Source: Suckling et al. 1994; the licence is for research, so no image of it is shipped.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from shared.data import decoding
from shared.data.readers import common
from shared.data.readers.common import Dataset
from shared.run import DataError

NAME = "mini-mias"
TASKS = ("malignant", "abnormal", "subtype")
EXPECTED = "Info.txt and mdb001.pgm, mdb002.pgm, … (the folder all-mias/ is searched too)"
FACTOR = 1.5  # a crop's side, in diameters of the lesion's circle: some of the surroundings belong to the picture
MIN_SIDE = 96  # pixels; 19 mm at 200 µm
BACKGROUND = 20  # grey level; film outside the breast lies below it
TYPES = {"CALC": "calcification", "CIRC": "mass", "SPIC": "mass", "MISC": "mass", "NORM": "normal"}  # else ""
PATHOLOGY = {"M": "MALIGNANT", "B": "BENIGN"}
LINE = (
    r"^(?:mdb\d{3})\s+(?P<tissue>[FGD])\s+(?P<finding>CALC|CIRC|SPIC|MISC|ARCH|ASYM|NORM)(?:\s+(?P<severity>[BM])\b)?"
    r"(?:\s+(?P<x>\d{1,5})\s+(?P<y>\d{1,5})\s+(?P<radius>\d{1,5})\b)?(?:\s.*)?$"
)


def load(data_dir: Path, *, task: str = "malignant", input: str = "crop") -> Dataset:
    """Read `Info.txt` and list lesions (`input="crop"`) or images (`input="full"`).

    A crop is a square around the lesion, `FACTOR` times its circle wide, never below `MIN_SIDE`. A normal image gives
    a crop of the size of one of the lesions' somewhere in the breast, always the same. Lesions without coordinates
    cannot be cropped and are excluded. A full image with several lesions is positive if any of them is.
    Paths of crops end in `#lesion=x,y,side` or `#normal=side`.
    Raises DataError, UsageError: no `Info.txt`, nothing in it that can be read, no image, or a task without labels.
    """
    common.check_task(NAME, task, TASKS)
    infos = common.list_files(data_dir, "info.txt")
    if not infos:
        raise DataError(f"{data_dir}: no Info.txt; expected {EXPECTED}")
    info = read_info(data_dir / infos[0])
    files = {Path(path).stem.lower(): path for path in common.list_files(data_dir, ".pgm")}
    if not files:
        raise DataError(f"{data_dir}: no mdb*.pgm; expected {EXPECTED}")
    rows = list_rows(info, files, task, input)
    notes = ["Left and right are taken from the numbers, odd is left, as in the full-resolution files' names."]
    without = rows.exclusion_reason.str.startswith("no coordinates").sum()
    if without:
        notes.append(f"{without} lesions have no coordinates and cannot be cropped: excluded.")
    if task == "abnormal" and input == "crop":
        notes.append("A normal crop has a fixed place in the breast: where crops lie may still tell the classes apart.")
    class_names = ("normal", "abnormal") if task == "abnormal" else ("benign", "malignant")
    dataset = common.make_dataset(NAME, data_dir, rows, class_names, notes=notes)
    return replace(
        dataset,
        read_image=lambda image_path, min_side=None: read_crop(data_dir, image_path)[0],
        read_mask=lambda row: draw_mask(data_dir, row),
    )


def read_info(path: Path) -> pd.DataFrame:
    """Read `Info.txt`: a row a finding, its words ("" where the line is silent), and what is wrong with the line."""
    lines = pd.Series(path.read_text(encoding="latin-1").splitlines(), dtype=str).str.strip()
    lines.index += 1
    lines = lines[lines.str.lower().str.startswith("mdb")]
    if lines.empty:
        raise DataError(f"{path}: no line of the form `mdb001 G CIRC B 535 425 197`; expected {EXPECTED}")
    info = lines.str.extract(LINE, flags=re.IGNORECASE | re.ASCII).fillna("")
    info = info.apply(lambda column: column.str.upper())
    names = lines.str.extract(r"^(mdb[0-9]{3})(?:\s|$)", flags=re.IGNORECASE)[0].str.lower()
    info["name"] = names.fillna("mdb_line_" + lines.index.astype(str).to_series(index=lines.index))  # never a path
    problems = [f"Info.txt line {number} cannot be read: {line[:60]!r}" for number, line in lines.items()]
    info["problem"] = np.where(info.finding == "", problems, "")
    info["circle"] = np.where(info.x != "", info.x + "," + info.y + "," + info.radius, "")
    info["side"] = np.maximum(MIN_SIDE, (2 * FACTOR * pd.to_numeric(info.radius).fillna(0)).round()).astype(int)
    first = info.groupby("name", sort=False).ngroup()  # the findings of an image stand together
    return info.iloc[first.argsort(kind="stable")].reset_index(drop=True)


def list_rows(info: pd.DataFrame, files: dict[str, str], task: str, input: str) -> pd.DataFrame:
    """Return one manifest row a finding (crops) or an image (full), with the reason that rules it out for this task."""
    placed = info[info.circle != ""]
    circles, sides = placed.groupby("name").circle.agg(";".join), placed.side.to_numpy()
    if input == "full":  # the worst finding's row; a line that cannot be read comes last
        order = (2 * (info.problem != "") + (info.severity != "M")).argsort(kind="stable")
        info = info.iloc[order].drop_duplicates("name").sort_index()
    position = info.groupby("name").cumcount() + 1
    several = info.groupby("name").name.transform("size") > 1
    number = pd.to_numeric(info.name.str[3:], errors="coerce").fillna(0).astype(int)
    odd = number - (number + 1) % 2
    kind = info.finding.map(TYPES).fillna("")
    normal = kind == "normal"
    pathology = info.severity.map(PATHOLOGY).fillna(normal.map({True: "NORMAL", False: ""}))
    file = info.name.map(files).fillna(info.name + ".pgm")
    size = sides[number % len(sides)] if len(sides) else np.full(len(info), 2 * MIN_SIDE)
    lesion = "#lesion=" + info.x + "," + info.y + "," + info.side.astype(str)
    place = np.where(normal, "#normal=" + pd.Series(size, info.index).astype(str), np.where(info.x != "", lesion, ""))
    reasons = [
        (info.problem != "", info.problem),
        (~info.name.isin(files), info.name + ".pgm is missing"),
        (normal & (task != "abnormal"), f"normal image: task {task} compares lesions with lesions"),
        ((pathology == "") & (task != "abnormal"), "no severity in Info.txt"),
        ((kind == "") & (task == "subtype"), "neither mass nor calcification"),
        ((place == "") & (input == "crop"), "no coordinates in Info.txt (NOTE 3): no crop"),
    ]
    masks = (file + "#circles=" + info.name.map(circles)).where((input == "full") | (info.x != ""), "")
    return pd.DataFrame(
        {
            "image_id": info.name + np.where(several, "_" + position.astype(str), ""),
            "patient_id": [f"mias_{first:03d}_{first + 1:03d}" for first in odd],
            "side": np.where(number % 2, "LEFT", "RIGHT"),
            "view": "MLO",
            "lesion": np.where(several, position.astype(str), ""),
            "abnormality_type": kind,
            "pathology": pathology,
            "label": (~normal if task == "abnormal" else pathology == "MALIGNANT").astype(int),
            "image_path": file + place if input == "crop" else file,
            "mask_path": masks,
            "breast_density": info.tissue,
            "exclusion_reason": np.select([when for when, _ in reasons], [reason for _, reason in reasons], ""),
            "subtype": [common.subtype_of(*pair) for pair in zip(kind, pathology, strict=True)],
            "finding": info.finding,
        }
    )


def read_crop(data_dir: Path, image_path: str) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Read an image, or the crop that its fragment asks for; moved inside the image where it would stick out.

    Returns the crop uint8 (side, side), and its place: (rows, columns) of the image.
    """
    relative, fragment = [*re.split("#(?=lesion=|normal=)", image_path), ""][:2]
    image = decoding.read_grey(decoding.inside(data_dir, relative))
    height, width = image.shape
    if not fragment:
        return image, (slice(0, height), slice(0, width))
    match = re.fullmatch(r"(?:lesion=(\d+),(\d+),|normal=)(\d+)", fragment)
    if match is None:
        raise DataError(f"{image_path}: expected #lesion=x,y,side or #normal=side after the file's name")
    side = min(int(match[3]), height, width)
    if match[1]:
        row, column = height - 1 - int(match[2]), int(match[1])
    else:
        row, column = place_in_breast(image, side, seed=int(re.sub(r"\D", "", relative) or 0))
    place = common.square_at(image.shape, row, column, side, f"{relative}: {fragment}")
    return np.ascontiguousarray(image[place]), place


def place_in_breast(image: np.ndarray, side: int, *, seed: int) -> tuple[int, int]:
    """Choose a pixel of the breast that is as far from its border as a crop needs, always the same one for a seed."""
    foreground = (image > BACKGROUND).astype(np.uint8)
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(foreground)
    if len(statistics) < 2:
        return image.shape[0] // 2, image.shape[1] // 2
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))  # labels and film edges are smaller
    distance = cv2.distanceTransform((regions == largest).astype(np.uint8), cv2.DIST_L2, 3)
    candidates = np.argwhere(distance >= min(side / 2, distance.max()))
    row, column = candidates[np.random.default_rng(seed).integers(len(candidates))]
    return int(row), int(column)


def draw_mask(data_dir: Path, row: Any) -> np.ndarray:
    """Draw the lesions' circles in the frame of the row's image: uint8 of 0 and 1."""
    relative, _, circles = row.mask_path.rpartition("#circles=")
    mask = np.zeros_like(decoding.read_grey(decoding.inside(data_dir, relative)), np.uint8)
    for circle in circles.split(";"):
        x, y, radius = map(int, circle.split(","))
        cv2.circle(mask, (x, mask.shape[0] - 1 - y), radius, 1, thickness=-1)
    _, place = read_crop(data_dir, row.image_path)
    return mask[place]
