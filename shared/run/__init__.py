"""The run: settings from a notebook's parameters, files written whole, and the names and errors every room uses."""

from shared.run.files import atomic_write, plain_words, read_json, refuse_damage, write_csv, write_json, write_text
from shared.run.names import (
    BASELINES,
    DESCRIPTOR_COLUMNS,
    EXCLUDED,
    MANIFEST_COLUMNS,
    PATHOLOGIES,
    PREDICTION_COLUMNS,
    SPLITS,
    TABLE_COLUMNS,
    TEST,
    TRAIN,
    VALIDATION,
    DataError,
    UsageError,
    check_choice,
)
from shared.run.places import check_out, check_run_dir, claim_run_dir, list_tree, nearest_folder
from shared.run.settings import (
    CHOICES,
    PROFILES,
    Settings,
    full_path,
    project_root,
    resolve_input,
    resolve_run_dir,
    resolve_settings,
)
