"""Read and write `data/manifest.csv`: one row an image, the same columns for every data set."""

import hashlib
from pathlib import Path

import pandas as pd

from shared.run import MANIFEST_COLUMNS, plain_words, write_csv


def save_manifest(run_dir: Path, manifest: pd.DataFrame) -> None:
    """Write `data/manifest.csv` with `MANIFEST_COLUMNS` first."""
    extra = [column for column in manifest.columns if column not in MANIFEST_COLUMNS]
    write_csv(Path(run_dir) / "data/manifest.csv", manifest[[*MANIFEST_COLUMNS, *extra]])


def load_manifest(run_dir: Path) -> pd.DataFrame:
    """Read `data/manifest.csv`; words stay words (empty, not NaN), `label`, `fold` and `subtype` are integers.

    Row i belongs to `data/images.npy[i]`.
    Raises FileNotFoundError: notebook 01 has not run.
    """
    path = Path(run_dir) / "data/manifest.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run notebook 01, or data.prepare(settings), first")
    manifest = plain_words(pd.read_csv(path, dtype=str, keep_default_na=False))
    return manifest.astype({column: int for column in ("label", "fold", "subtype") if column in manifest})


def split_key(manifest: pd.DataFrame) -> str:
    """Return a short hash of images, lesions, labels and splits: scores with different keys must not be compared."""
    text = manifest.reindex(columns=["image_id", "lesion", "label", "split"]).to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
