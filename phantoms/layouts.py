"""Write phantom patients in the layouts in which real mammogram data sets are stored, quirks included.

One module a layout; each writer gets an empty folder, the planned patients and a function that maps a task over
patients in parallel. A file depends on the seed and on its patient alone, never on the number of processes.
"""

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from phantoms import (
    write_cbis_ddsm,
    write_cmmd,
    write_ddsm_tfrecord,
    write_inbreast,
    write_mini_mias,
    write_npz,
    write_rsna,
    write_vindr,
)
from phantoms.patients import ACQUISITIONS, FAULTS, Difficulty, Patient, plan_patients
from phantoms.writing import ORACLE_FILE, oracle_rows, write_rows

WRITERS: dict[str, Callable] = {
    "cbis-ddsm": write_cbis_ddsm.write_jpegs,
    "cbis-ddsm-dicom": write_cbis_ddsm.write_dicoms,
    "ddsm-tfrecord": write_ddsm_tfrecord.write,
    "png-npz": write_npz.write_pairs,
    "npz": write_npz.write_class_folders,
    "mini-mias": write_mini_mias.write,
    "vindr-mammo": write_vindr.write,
    "rsna-2023": write_rsna.write,
    "cmmd": write_cmmd.write,
    "inbreast": write_inbreast.write,
}
LAYOUTS = tuple(WRITERS)
DEFAULT_PATIENTS = {"cbis-ddsm": 480, "png-npz": 240, "npz": 240}  # 40 elsewhere


def write_demo_data(
    out: Path | str,
    *,
    layout: str = "cbis-ddsm",
    patients: int | None = None,
    seed: int = 0,
    acquisition: str = "A",
    difficulty: Difficulty | None = None,
    n_jobs: int = -1,
    progress: bool = True,
) -> Path:
    """Write the demo data set: phantom mammograms in the layout of a real data set.

    The same `seed`, `patients`, `acquisition` and `difficulty` give the same bytes, whatever `n_jobs` is. Beside the
    data lies `oracle.csv`: for each lesion image the parameters that drew it and `oracle_score`, the probability of
    malignancy given the drawn shape, margins and density. No classifier can be expected to rank better than that.

    Args:
        out: folder to make, and what is returned; must not exist, or be empty.
        patients: how many; None takes the default of the layout, one of LAYOUTS (480 for cbis-ddsm).
        acquisition: "A" (scanned films), or "B" for other patients of a second hospital with digital images in another
            window, other labels and another share of cancers (for external validation).
        difficulty: contrast, obscured share, density and prevalence; None takes the defaults of `Difficulty`.
        n_jobs: processes; -1 uses all cores.
    Raises ValueError: an unknown layout or acquisition, less than one patient, or a negative seed; OSError: `out` is a
        file or holds something already, or cannot be written. One line, as with ValueError.
    """
    out = Path(out)
    difficulty = difficulty or Difficulty()
    choices = [("layout", layout, LAYOUTS), ("acquisition", acquisition, ACQUISITIONS)]
    for name, value, known in (*choices, ("fault", difficulty.fault, ("", *FAULTS))):
        if value not in known:
            raise ValueError(f"{name}: {value!r} is not one of {', '.join(known)}")
    count = DEFAULT_PATIENTS.get(layout, 40) if patients is None else patients
    if count < 1:
        raise ValueError(f"patients: {count} is less than 1")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OSError(f"{out}: exists and is not an empty folder; name a new one, or delete it first")
    plans = plan_patients(count, seed=seed, acquisition=acquisition, difficulty=difficulty)
    prefix = os.environ.get("MAMMO_TEMPORARY", ".part-")  # by which a run finds what was killed while it drew
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent, ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary) / "data"
            write_rows(folder / ORACLE_FILE, oracle_rows(plans))
            WRITERS[layout](folder, plans, partial(map_patients, n_jobs=n_jobs, progress=progress))
            if out.exists():
                out.rmdir()
            folder.replace(out)
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror or error}); free space, or name another") from None
    return out


def fingerprint() -> str:
    """Return a hash of the sources that draw the demo data: another hash, other data."""
    sources = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".toml"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def map_patients(task: Callable, plans: list[Patient], *, n_jobs: int, progress: bool, title: str = "patients") -> list:
    """Return [task(patient)] in order, drawn in parallel; each process uses one thread."""

    def draw(patient: Patient) -> Any:
        cv2.setNumThreads(1)
        return task(patient)

    bar = tqdm(plans, desc=f"phantom {title}", unit="patient", disable=not progress)
    run = Parallel(n_jobs=n_jobs, batch_size=4, initializer=end_with, initargs=(os.getpid(),))
    return run(delayed(draw)(patient) for patient in bar)


def end_with(parent: int) -> None:
    """End this worker process once its parent, a process id, was killed: loky would keep it for 40 s."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
