"""Every quick start function runs, on a small copy of the demo data."""

import shutil

import numpy as np
import pytest

import phantoms as demo_data
from pipeline import quickstart
from shared.run import BASELINES, TABLE_COLUMNS, UsageError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Parameters of a run on few, small images."""
    folder = tmp_path_factory.mktemp("quickstart")
    demo_data.write_demo_data(folder / "data", patients=40, seed=1, n_jobs=1, progress=False)
    return {
        "data_dir": str(folder / "data"), "run_dir": str(folder / "run"), "image_size": 32, "n_folds": 2,
        "learning_rate": 1e-3,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(small):
    """Metrics and path of a model trained for an epoch."""
    result = quickstart.simple_train(epochs=1, model_type="small_cnn", **small)
    return result, f"{small['run_dir']}/models/small_cnn.keras"


def test_prepare_data_only_opens_manifest_and_images(small):
    prepared = quickstart.prepare_data_only(**small)
    assert prepared.images.shape == (len(prepared.manifest), 32, 32)


def test_unknown_parameters_are_refused():
    with pytest.raises(UsageError, match="unknown parameter image_sise"):
        quickstart.prepare_data_only(image_sise=32)


def test_create_robust_dataset_gives_three_pipelines(small):
    prepared = quickstart.prepare_data_only(**small)
    for dataset, split in zip(quickstart.create_robust_dataset(**small), ("train", "validation", "test"), strict=True):
        labels = np.concatenate([labels.numpy() for _, labels in dataset])
        assert len(labels) == len(prepared.rows(split))
        assert set(labels) <= {0.0, 1.0}


def test_simple_train_writes_a_row_and_a_model(trained, small):
    result, path = trained
    assert result["model"] == "small_cnn"
    assert 0 <= result["auc"] <= 1
    assert set(TABLE_COLUMNS) <= set(result)
    assert quickstart._load(path, quickstart.prepare_data_only(**small)).output_shape == (None, 1)


def test_evaluate_only_scores_a_saved_model_like_the_training_did(trained, small):
    result, path = trained
    again = quickstart.evaluate_only(model_path=path, **small)
    assert again["auc"] == pytest.approx(result["auc"])
    assert again["model"] == "small_cnn_alone"  # the training's own row stays
    with pytest.raises(FileNotFoundError, match=r"none\.keras is missing"):
        quickstart.evaluate_only(model_path="none.keras", **small)


def test_a_model_is_loaded_from_where_it_lies(trained, small, tmp_path):
    elsewhere = shutil.copy(trained[1], tmp_path / "copy.keras")
    assert quickstart.evaluate_only(model_path=elsewhere, **small)["auc"] == pytest.approx(trained[0]["auc"])
    other = small | {"image_size": 40, "run_dir": str(tmp_path / "run")}
    with pytest.raises(UsageError, match="takes images of 32 px, the image store has 40 px"):
        quickstart.evaluate_only(model_path=elsewhere, **other)


def test_continue_training_goes_on_from_a_saved_model(trained, small):
    result = quickstart.continue_training("small_cnn", epochs=1, **small)
    assert result["model"] == "small_cnn_continued"


def test_compare_models_puts_networks_beside_baselines(trained, small):
    table = quickstart.compare_models(**small)
    assert {"majority", "small_cnn"} <= set(table.model)
    assert table.auc.is_monotonic_decreasing


def test_run_working_gradcam_draws_as_many_images_as_asked(trained, small):
    figure = quickstart.run_working_gradcam(trained[1], num_samples=3, **small)
    assert len(figure.axes) == 3 * 2


def test_run_complete_improvement_gives_folds_table_and_best_model(trained, small):
    cv_metrics, comparison_results, best_model = quickstart.run_complete_improvement(epochs=1, **small)
    assert cv_metrics["auc_low"] <= cv_metrics["auc"] <= cv_metrics["auc_high"]
    assert "mobilenetv2" in set(comparison_results.model)
    networks = comparison_results[~comparison_results.model.isin(BASELINES)]
    assert best_model == networks.loc[networks.val_auc.idxmax(), "model"]


def test_wrong_model_types_and_missing_weights_are_named(small):
    with pytest.raises(UsageError, match="'resnet'"):
        quickstart.simple_train(model_type="resnet", **small)
    with pytest.raises(UsageError, match="demo weights are for mobilenetv2 only"):
        quickstart.simple_train(model_type="enhanced_vgg", **small)
