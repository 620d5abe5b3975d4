"""The embedded data set: repeatable, quirky where the real one is, and not solved by a trivial statistic."""

import hashlib
import re
import subprocess
import sys
import time
from unittest.mock import Mock

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.metrics import roc_auc_score

from phantoms import Difficulty, write_demo_data
from phantoms.films import draw_film, draw_geometry, find_place
from phantoms.patients import MASS, VIEWS, plan_patients
from phantoms.write_cbis_ddsm import CASE_FILES, DICOM_COLUMNS
from phantoms.writing import UID_ROOT
from shared.data.readers.demo import score_ideal_observer
from shared.run import DataError


def digest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def cbis(tmp_path_factory):
    return write_demo_data(tmp_path_factory.mktemp("demo") / "cbis", patients=120, n_jobs=2, progress=False)


@pytest.fixture(scope="module")
def cases(cbis):
    frames = []
    for (_, split), name in CASE_FILES.items():
        frame = pd.read_csv(cbis / "csv" / name, dtype=str, keep_default_na=False)
        frames.append(frame.rename(columns={"breast density": "breast_density"}).assign(split=split))
    frame = pd.concat(frames, ignore_index=True)
    for role in ("image", "cropped image", "ROI mask"):
        frame[f"{role} uid"] = frame[f"{role} file path"].str.strip().str.split("/").str[2]
    frame["image_id"] = frame["cropped image file path"].str.split("/").str[0]
    frame["label"] = (frame.pathology == "MALIGNANT").astype(int)
    return frame


@pytest.fixture(scope="module")
def crops(cbis, cases):
    """The crop of each row, found by size, as it lies on disk: {row: (path, image)}."""
    found = {}
    for row in cases.itertuples():
        files = sorted((cbis / "jpeg" / cases.at[row.Index, "cropped image uid"]).glob("*.jpg"))
        if files:
            images = {path: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files}
            path = min(images, key=lambda file: images[file].size)
            found[row.Index] = (path, images[path])
    return found


@pytest.mark.parametrize("layout", ["cbis-ddsm", "png-npz"])
def test_a_seed_gives_its_bytes_whatever_the_processes_and_another_seed_or_hospital_others(tmp_path, layout):
    def draw(**options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return digest(write_demo_data(folder, layout=layout, patients=4, progress=False, **options))

    first = draw(n_jobs=1)
    assert draw(n_jobs=2) == first
    for options in ({"seed": 1}, {"acquisition": "B"}):
        assert set(draw(n_jobs=1, **options).values()).isdisjoint(first.values())


def test_case_files_have_the_real_columns_row_ends_and_line_breaks(cbis):
    for (kind, _), name in CASE_FILES.items():
        raw = (cbis / "csv" / name).read_bytes()
        rows = pd.read_csv(cbis / "csv" / name, dtype=str, keep_default_na=False)
        mass = kind == MASS
        broken = "ROI mask file path" if mass else "cropped image file path"
        whole = "cropped image file path" if mass else "ROI mask file path"
        assert raw.count(b"\r\n") == len(rows) + 1
        assert ("breast_density" if mass else "breast density") in rows
        assert {"mass shape", "mass margins"} <= set(rows) if mass else {"calc type", "calc distribution"} <= set(rows)
        assert rows[broken].str.endswith("\n").all()
        assert not rows[whole].str.contains("\n").any()
        expected = "000000.dcm" if mass else "000001.dcm"
        assert rows["cropped image file path"].str.strip().str.endswith(expected).all()
        assert (rows[broken].str.split("/").str[2] != rows[whole].str.split("/").str[2]).mean() < 0.15


def test_files_are_joined_by_series_and_one_series_is_missing(cbis, cases):
    missing = [uid for uid in cases["cropped image uid"] if not (cbis / "jpeg" / uid).is_dir()]
    assert len(missing) == 1
    assert all((cbis / "jpeg" / uid).is_dir() for uid in cases["image uid"])
    assert cases["image uid"].str.fullmatch(re.escape(UID_ROOT) + r"\d{1,37}").all()
    info = pd.read_csv(cbis / "csv/dicom_info.csv", dtype=str, keep_default_na=False)
    assert tuple(info.columns) == DICOM_COLUMNS
    assert set(info.SeriesDescription) == {"full mammogram images", "cropped images", "ROI mask images", ""}
    on_disk = {path.relative_to(cbis).as_posix() for path in (cbis / "jpeg").rglob("*.jpg")}
    assert set(info.image_path.str.removeprefix("CBIS-DDSM/")) == on_disk
    roles = info[info.SeriesDescription != ""].groupby("SeriesDescription").image_path
    first = roles.apply(lambda paths: paths.str.contains("/1-").mean())
    assert first[["cropped images", "ROI mask images"]].max() < 0.9


def test_a_few_patients_are_in_both_official_splits_some_with_the_same_film(cbis, cases):
    splits = cases.groupby("patient_id").split.nunique()
    shared = splits.index[splits == 2]
    assert 1 <= len(shared) <= 0.05 * len(splits)
    assert (cases.groupby(["patient_id", "abnormality type"]).split.nunique() == 1).all()
    films = {path.split("/")[0]: content for path, content in digest(cbis / "jpeg").items()}
    seen = cases[cases.patient_id.isin(shared)].groupby("split")["image uid"].agg(lambda uids: set(uids.map(films)))
    assert seen["train"] & seen["test"]


def test_masks_have_the_size_of_the_film_and_cover_what_the_crop_shows(cbis, cases, crops):
    for row in list(crops)[::25]:
        path, crop = crops[row]
        masks = [file for file in (cbis / "jpeg" / cases.at[row, "ROI mask uid"]).glob("*.jpg") if file != path]
        mask = cv2.imread(str(masks[0]), cv2.IMREAD_GRAYSCALE)
        film = cv2.imread(str(next((cbis / "jpeg" / cases.at[row, "image uid"]).glob("*.jpg"))), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == film.shape
        assert ((mask > 250) | (mask < 5)).mean() > 0.98  # two values, smeared by JPEG
        assert 55 <= min(crop.shape) <= max(crop.shape) <= 460
        assert max(film.shape) >= 1000
        _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(film, crop, cv2.TM_SQDIFF))
        inside = mask[top : top + crop.shape[0], left : left + crop.shape[1]] > 127
        assert inside.sum() > 0.97 * (mask > 127).sum()
        assert 0.05 < inside.mean() < 0.60


def test_no_trivial_statistic_tells_the_classes_apart(cases, crops):
    labels = cases.label[list(crops)]
    statistics = pd.DataFrame(
        {
            "mean": image.mean(), "std": image.std(), "min": image.min(), "max": image.max(),
            "zeros": (image == 0).mean(), "file_size": path.stat().st_size, "median": np.median(image),
            "centre": cv2.resize(image, (64, 64))[16:48, 16:48].mean(),
            "height": image.shape[0], "width": image.shape[1], "area": image.size,
        }
        for path, image in crops.values()
    )  # fmt: skip
    assert statistics["median"].between(20, 245).all()
    auc = statistics.apply(lambda column: roc_auc_score(labels, column))
    assert (auc - 0.5).abs().max() <= 0.10, auc.round(3).to_dict()


def test_the_generating_parameters_are_a_ceiling_and_the_reader_is_below_it():
    lesions = [lesion for patient in plan_patients(1500) for lesion in patient.lesions]
    labels = [lesion.malignant for lesion in lesions]
    oracle = roc_auc_score(labels, [lesion.oracle_score for lesion in lesions])
    reader = roc_auc_score(labels, [lesion.assessment for lesion in lesions])
    assert 0.90 <= oracle <= 0.95
    assert 0.80 <= reader <= oracle - 0.05


def test_the_views_of_a_lesion_share_its_number_and_its_distance_from_the_nipple(cases):
    views = cases.groupby(["patient_id", "left or right breast", "abnormality type", "abnormality id"])["image view"]
    assert views.agg(lambda names: set(names) == {"CC", "MLO"}).all()
    lesion = plan_patients(1)[0].lesions[0]
    reaches = []
    for view in VIEWS:
        rng, body = np.random.default_rng(5), np.random.default_rng(6)
        geometry = draw_geometry(rng, body, (1024, 736), view, 0.7)
        y, x = find_place(rng, geometry, lesion, [])
        reaches.append(np.hypot(y - geometry.nipple[0], x - geometry.nipple[1]) / geometry.nipple[1])
    assert abs(reaches[0] - reaches[1]) < 0.12


def test_both_breasts_of_a_woman_resemble_each_other():
    def size(side):
        return [(draw_film(woman, side, "CC").image > 0.2).sum() for woman in plan_patients(8)]

    assert np.corrcoef(size("LEFT"), size("RIGHT"))[0, 1] > 0.9


def test_plans_begin_alike_and_hold_the_difficulty():
    assert plan_patients(30)[:10] == plan_patients(10)  # whatever the number
    easy = Difficulty(contrast=2.0, obscured=0.0, density=(1.0, 0.0, 0.0, 0.0), prevalence=0.2)
    plain, changed = ([item for p in plan_patients(200, difficulty=d) for item in p.lesions] for d in (None, easy))
    assert plain[0].contrast * 1.5 < changed[0].contrast
    assert all(item.hidden == 0 for item in changed if item.margins != "OBSCURED")
    assert {woman.density for woman in plan_patients(20, difficulty=easy)} == {1}
    assert np.mean([item.malignant for item in changed]) < 0.25 < np.mean([item.malignant for item in plain])


def test_the_oracle_lies_beside_the_data_and_not_in_the_case_files(cbis, cases):
    oracle = pd.read_csv(cbis / "oracle.csv")
    assert set(oracle.image_id) == set(cases.image_id)
    joined = cases.merge(oracle, on="image_id", suffixes=("", "_oracle"))
    assert (joined.label == joined.label_oracle).all()
    assert not any("oracle" in column for name in CASE_FILES.values() for column in pd.read_csv(cbis / "csv" / name))
    scores = score_ideal_observer(cbis, [*joined.image_id[:9], joined.image_id[0].rsplit("_", 1)[0]])
    assert scores[:9].tolist() == joined.oracle_score[:9].tolist()
    assert scores[9] >= scores[0]  # a whole mammogram takes its highest finding
    assert score_ideal_observer(cbis / "csv", ["x"]) is None
    with pytest.raises(DataError, match="no score for x"):
        score_ideal_observer(cbis, ["x"])


def test_mini_mias(tmp_path):
    out = write_demo_data(tmp_path / "out", layout="mini-mias", patients=5, n_jobs=1, progress=False)
    assert len(list(out.glob("mdb*.pgm"))) == 10
    lines = [line.split() for line in (out / "Info.txt").read_text().splitlines()]
    assert {line[0] for line in lines} == {path.stem for path in out.glob("*.pgm")}
    assert any(line[2] == "NORM" for line in lines)
    placed = [line for line in lines if len(line) == 7]
    assert placed
    for name, tissue, _, severity, x, y, radius in placed:
        image = cv2.imread(str(out / f"{name}.pgm"), cv2.IMREAD_UNCHANGED)
        assert (image.shape, tissue in "FGD", severity in "BM") == ((1024, 1024), True, True)
        assert 10 < int(radius) < 200
        assert image[1023 - int(y), int(x)] > 40  # in the breast, with the origin at the bottom left


@pytest.mark.parametrize("options", [{"layout": "x"}, {"acquisition": "C"}, {"patients": 0}, {"seed": -1}])
def test_wrong_options_are_named(tmp_path, options):
    with pytest.raises(ValueError, match=rf"\A.*{next(iter(options))}.*\Z"):
        write_demo_data(tmp_path / "out", progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_and_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(OSError, match="not an empty folder"):
        write_demo_data(tmp_path, patients=1, progress=False)
    monkeypatch.setattr(
        "phantoms.write_cbis_ddsm.write_image", Mock(side_effect=OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match=r"out: cannot be written \(No space left on device\)"):
        write_demo_data(tmp_path / "out", patients=2, n_jobs=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_workers_end_soon_after_whoever_draws_was_killed(tmp_path, root):
    script = f"from phantoms import write_demo_data; write_demo_data({str(tmp_path / 'x')!r}, patients=200, n_jobs=2)"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=root, stderr=subprocess.DEVNULL)
    try:
        while len(workers := psutil.Process(process.pid).children(recursive=True)) < 4:  # two of them keep books
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(3)
    finally:
        process.kill()
        process.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
