"""The data: from any layout on disk to a manifest, an audited split by patient, and an image store."""

from shared.data.decoding import read_grey
from shared.data.images import ImageSteps, breast_box, prepare_image, resize, to_uint8
from shared.data.linear import make_logistic
from shared.data.manifests import load_manifest, save_manifest, split_key
from shared.data.preparation import Prepared, check_can_run, describe, image_steps, load_dataset, prepare
from shared.data.readers import FAMILIES, READERS, Dataset, check_layout_name, detect_layout, load_layout, provide_demo
from shared.data.splits import assign_splits, audit_table, group_folds
from shared.data.store import build_image_store, check_disk, open_image_store
