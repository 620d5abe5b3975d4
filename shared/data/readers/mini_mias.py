"""Reader of mini-MIAS: `mdbNNN.pgm` (1024 × 1024, 8 bit) and `Info.txt`.

A line of `Info.txt` is `id tissue abnormality [severity x y radius]`. The origin of x, y is the bottom-left corner; an
image with several lesions has several lines; where calcifications are spread over the breast there are no coordinates
(`*NOTE 3*`, or nothing). Images 1 and 2, 3 and 4, … are the two sides of one patient.

Which side is which: the full-resolution MIAS files carry the side in their names (`mdb001lm`, `mdb002rl`), so that odd
is left, even is right. The text that comes with mini-MIAS says the reverse; the file names are followed here. All views
are mediolateral oblique. Source: Suckling et al. 1994; the licence is for research, so no image of it is shipped.
"""

import re

import cv2
import numpy as np

from shared.data import images
from shared.data.readers import Dataset
from shared.data.readers.common import build_manifest, check_task, subtype_of
from shared.run import DataError

NAME = "mini-mias"
TASKS = ("malignant", "abnormal", "subtype")
EXPECTED = "Info.txt and mdb001.pgm, mdb002.pgm, … (the folder all-mias/ is searched too)"
FACTOR = 1.5  # a crop's side, in diameters of the lesion's circle: some of the surroundings belong to the picture
MIN_SIDE = 96  # pixels; 19 mm at 200 µm
TYPES = {"CALC": "calcification", "CIRC": "mass", "SPIC": "mass", "MISC": "mass", "NORM": "normal"}  # else ""
PATHOLOGY = {"M": "MALIGNANT", "B": "BENIGN"}

_LINE = re.compile(
    r"^(mdb(\d{3}))\s+([FGD])\s+(CALC|CIRC|SPIC|MISC|ARCH|ASYM|NORM)(?:\s+(.*))?$", re.IGNORECASE | re.ASCII
)
_NAME = re.compile(r"mdb\d{3}")
_LESION = re.compile(r"^(?:([BM])\b)?\s*(?:(\d+)\s+(\d+)\s+(\d+))?", re.IGNORECASE | re.ASCII)
_TOO_LARGE = re.compile(r"\d{6}")  # more digits than a coordinate in pixels can have
_BACKGROUND = 20  # grey level; film outside the breast lies below it


def load(data_dir, *, task="malignant", input="crop"):
    """Read `Info.txt` and list lesions (`input="crop"`) or images (`input="full"`).

    A crop is a square around the lesion, `FACTOR` times its circle wide, never below `MIN_SIDE`. A normal image gives
    a crop of the size of one of the lesions' somewhere in the breast, always the same. Lesions without coordinates
    cannot be cropped and are excluded.

    Args:
        data_dir: the folder that holds `Info.txt` and the images, or has them in a folder below.
        task: "malignant" (lesions only), "abnormal" (any lesion against normal) or "subtype".
        input: "crop" or "full". A full image with several lesions is positive if any of them is.
    Returns:
        Dataset whose image paths end in `#lesion=x,y,side` or `#normal=side` for crops.
    Raises:
        DataError: no `Info.txt`, nothing in it that can be read, or no image.
        UsageError: a task that this layout has no labels for.
    """
    check_task(NAME, task, TASKS)
    info = _find_info(data_dir)
    lesions = [_parse_line(number, line) for number, line in _lines(info)]
    if not lesions:
        raise DataError(f"{info}: no line of the form `mdb001 G CIRC B 535 425 197`; expected {EXPECTED}")
    files = {path.stem.lower(): path.relative_to(data_dir).as_posix() for path in sorted(data_dir.rglob("mdb*.pgm"))}
    if not files:
        raise DataError(f"{data_dir}: no mdb*.pgm; expected {EXPECTED}")
    by_image = {}
    for lesion in lesions:
        by_image.setdefault(lesion["name"], []).append(lesion)
    make_rows = _crop_rows if input == "crop" else _full_rows
    rows = make_rows(by_image, files, task)
    return Dataset(
        name=NAME,
        data_dir=data_dir,
        manifest=build_manifest(rows, source=NAME),
        class_names=("normal", "abnormal") if task == "abnormal" else ("benign", "malignant"),
        read_image=lambda image_path, min_side=None: _read_image(data_dir, image_path),
        read_mask=lambda row: _read_mask(data_dir, row),
        notes=_notes(rows, task, input),
    )


# ----------------------------------------------------------------- Info.txt
def _find_info(data_dir):
    found = sorted(path for path in data_dir.rglob("*.txt") if path.name.lower() == "info.txt")
    if not found:
        raise DataError(f"{data_dir}: no Info.txt; expected {EXPECTED}")
    return images.inside(data_dir, found[0].relative_to(data_dir).as_posix())


def _lines(info):
    text = info.read_text(encoding="latin-1")
    return [
        (number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.lower().startswith("mdb")
    ]


def _parse_line(number, line):
    """Return one lesion as a dict; `problem` says what is wrong with a line that cannot be read."""
    match = _LINE.match(line)
    if not match:
        name = line.split()[0].lower()
        name = name if _NAME.fullmatch(name) else f"mdb_line_{number}"  # never a path
        return {"name": name, "problem": f"Info.txt line {number} cannot be read: {line[:60]!r}"}
    name, _, tissue, finding, rest = match.groups()
    if _TOO_LARGE.search(rest or ""):
        return {"name": name.lower(), "problem": f"Info.txt line {number}: coordinates beyond any image: {line[:60]!r}"}
    severity, x, y, radius = _LESION.match(rest or "").groups()
    return {
        "name": name.lower(),
        "tissue": tissue.upper(),
        "finding": finding.upper(),
        "severity": (severity or "").upper(),
        "circle": (int(x), int(y), int(radius)) if x else None,
        "problem": "",
    }


# --------------------------------------------------------------------- rows
def _crop_rows(by_image, files, task):
    sides = [_crop_side(lesion["circle"][2]) for group in by_image.values() for lesion in group if lesion.get("circle")]
    rows = []
    for name, group in by_image.items():
        circles = [lesion["circle"] for lesion in group if lesion.get("circle")]
        for number, lesion in enumerate(group, 1):
            row = _row(name, lesion, files, task)
            if len(group) > 1:
                row["image_id"] = f"{name}_{number}"
            if lesion.get("finding") == "NORM":
                fragment = f"#normal={sides[int(name[3:]) % len(sides)] if sides else 2 * MIN_SIDE}"
            elif lesion.get("circle"):
                x, y, radius = lesion["circle"]
                fragment = f"#lesion={x},{y},{_crop_side(radius)}"
                row["mask_path"] = f"{row['image_path']}#{_circles_text(circles)}"
            else:
                fragment = ""
                row["exclusion_reason"] = row["exclusion_reason"] or "no coordinates in Info.txt (NOTE 3): no crop"
            row["image_path"] += fragment
            rows.append(row)
    return rows


def _full_rows(by_image, files, task):
    rows = []
    for name, group in by_image.items():
        readable = [lesion for lesion in group if not lesion["problem"]] or group
        worst = max(readable, key=lambda lesion: lesion.get("severity") == "M")
        row = _row(name, worst, files, task)
        circles = [lesion["circle"] for lesion in readable if lesion.get("circle")]
        if circles:
            row["mask_path"] = f"{row['image_path']}#{_circles_text(circles)}"
        rows.append(row)
    return rows


def _row(name, lesion, files, task):
    number = int(re.sub(r"\D", "", name) or 0)
    odd = number - (number + 1) % 2
    abnormality = TYPES.get(lesion.get("finding", ""), "")
    pathology = PATHOLOGY.get(lesion.get("severity", ""), "NORMAL" if abnormality == "normal" else "")
    return {
        "image_id": name,
        "patient_id": f"mias_{odd:03d}_{odd + 1:03d}",
        "side": "LEFT" if number % 2 else "RIGHT",
        "view": "MLO",
        "abnormality_type": abnormality,
        "pathology": pathology,
        "label": int(abnormality != "normal") if task == "abnormal" else int(pathology == "MALIGNANT"),
        "image_path": files.get(name, f"{name}.pgm"),
        "mask_path": "",
        "breast_density": lesion.get("tissue", ""),
        "exclusion_reason": lesion["problem"] or _reason(name, abnormality, pathology, files, task),
        "subtype": subtype_of(abnormality, pathology),
        "finding": lesion.get("finding", ""),
    }


def _reason(name, abnormality, pathology, files, task):
    if name not in files:
        return f"{name}.pgm is missing"
    if task == "abnormal":
        return ""
    if abnormality == "normal":
        return f"normal image: task {task} compares lesions with lesions"
    if not pathology:
        return "no severity in Info.txt"
    if task == "subtype" and not abnormality:
        return "neither mass nor calcification"
    return ""


def _crop_side(radius):
    return max(MIN_SIDE, round(2 * FACTOR * radius))


def _circles_text(circles):
    return "circles=" + ";".join(",".join(map(str, circle)) for circle in circles)


def _notes(rows, task, input):
    notes = ["Left and right are taken from the numbers, odd is left, as in the full-resolution files' names."]
    without = sum(row["exclusion_reason"].startswith("no coordinates") for row in rows)
    if without:
        notes.append(f"{without} lesions have no coordinates and cannot be cropped: excluded.")
    if task == "abnormal" and input == "crop":
        notes.append(
            "Crops of normal images have the sizes of the lesions' crops and a fixed place in the breast: where a crop "
            "lies may still tell the classes apart."
        )
    return tuple(notes)


# ------------------------------------------------------------------- pixels
def _split_path(image_path):
    """Return (path of the file, kind of fragment, numbers)."""
    relative, _, fragment = image_path.partition("#")
    kind, _, text = fragment.partition("=")
    try:
        numbers = [[int(number) for number in part.split(",")] for part in text.split(";") if part]
    except ValueError:
        raise DataError(f"{image_path}: expected #lesion=x,y,side or #normal=side after the file's name") from None
    return relative, kind, numbers


def _read_image(data_dir, image_path):
    relative, kind, numbers = _split_path(image_path)
    image = images.read_grey(images.inside(data_dir, relative))
    if not kind:
        return image
    top, left, side = _crop_box(image, relative, kind, numbers[0])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _crop_box(image, relative, kind, numbers):
    """Return (top, left, side) in pixels, the box moved inside the image where it would stick out."""
    height, width = image.shape
    side = min(numbers[-1], height, width)
    if kind == "lesion":
        x, y, _ = numbers
        row, column = height - 1 - y, x
        if not (0 <= row < height and 0 <= column < width):
            raise DataError(f"{relative}: centre x={x}, y={y} lies outside the image of {width} × {height} pixels")
    elif kind == "normal":
        row, column = _place_in_breast(image, side, seed=int(re.sub(r"\D", "", relative) or 0))
    else:
        raise DataError(f"{relative}: unknown fragment {kind!r}")
    top = int(np.clip(row - side // 2, 0, height - side))
    left = int(np.clip(column - side // 2, 0, width - side))
    return top, left, side


def _place_in_breast(image, side, *, seed):
    """Choose a pixel of the breast that is as far from its border as a crop needs, always the same one for a seed."""
    foreground = (image > _BACKGROUND).astype(np.uint8)
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(foreground)
    if len(statistics) < 2:
        return image.shape[0] // 2, image.shape[1] // 2
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))  # labels and film edges are smaller
    distance = cv2.distanceTransform((regions == largest).astype(np.uint8), cv2.DIST_L2, 3)
    candidates = np.argwhere(distance >= min(side / 2, distance.max()))
    row, column = candidates[np.random.default_rng(seed).integers(len(candidates))]
    return int(row), int(column)


def _read_mask(data_dir, row):
    """Draw the lesions' circles in the frame of the row's image."""
    relative, _, circles = _split_path(row.mask_path)
    image = images.read_grey(images.inside(data_dir, relative))
    mask = np.zeros(image.shape, np.uint8)
    for x, y, radius in circles:
        cv2.circle(mask, (x, image.shape[0] - 1 - y), radius, 1, thickness=-1)
    _, kind, numbers = _split_path(row.image_path)
    if kind:
        top, left, side = _crop_box(image, relative, kind, numbers[0])
        mask = mask[top : top + side, left : left + side]
    return mask
