"""Every quick start function runs, on a small copy of the demo data."""

from pathlib import Path

import numpy as np
import pytest

from phantoms import write_demo_data
from pipeline import parameters, quickstart, record
from shared.run import BASELINES, TABLE_COLUMNS, DataError, UsageError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Parameters of a run on few, small images."""
    folder = tmp_path_factory.mktemp("quickstart")
    write_demo_data(folder / "data", patients=40, seed=1, n_jobs=1, progress=False)
    options = {"image_size": 32, "n_folds": 2, "seeds": [0], "learning_rate": 1e-3}
    return {"data_dir": str(folder / "data"), "run_dir": str(folder / "run"), **options}


@pytest.fixture(scope="module")
def trained(small):
    """Measures and path of a model trained for an epoch."""
    result = quickstart.simple_train(epochs=1, model_type="small_cnn", **small)
    return result, f"{small['run_dir']}/models/small_cnn.keras"


def test_the_data_open_as_images_and_as_three_pipelines(small):
    prepared = quickstart.prepare_data_only(**small)
    assert prepared.images.shape == (len(prepared.manifest), 32, 32)
    assert (prepared.settings.dataset, prepared.ideal) == ("cbis-ddsm", None)  # told from the files
    for dataset, split in zip(quickstart.create_robust_dataset(**small), ("train", "validation", "test"), strict=True):
        labels = np.concatenate([np.ravel(labels) for _, labels in dataset])
        assert len(labels) == len(prepared.rows(split))
        assert set(labels) <= {0.0, 1.0}
    with pytest.raises(UsageError, match="unknown parameter image_sise"):
        quickstart.prepare_data_only(image_sise=32)


def test_folders_are_paths_or_text_and_relative_to_the_caller(small, monkeypatch):
    folder = Path(small["data_dir"]).parent
    monkeypatch.chdir(folder)
    given = {"data_dir": Path("data"), "run_dir": "elsewhere"}
    monkeypatch.setattr(quickstart, "run_series", lambda options: parameters.plan(options)[2])
    monkeypatch.setattr(quickstart.data, "prepare", lambda settings: settings)
    values, settings = quickstart.run_notebooks("01", **given), quickstart.prepare_data_only(**given)
    assert (values["DATA_DIR"], values["RUN_DIR"]) == (str(folder / "data"), str(folder / "elsewhere"))
    assert (settings.data_dir, settings.run_dir) == (folder / "data", folder / "elsewhere")
    assert values["DATASET"] == settings.dataset == "cbis-ddsm"


def test_the_backbone_that_was_asked_for_is_returned(monkeypatch):
    monkeypatch.setattr(quickstart, "run_notebooks", lambda *numbers, **parameters: "run")
    monkeypatch.setattr(quickstart.evaluation, "load_results", lambda run_dir: {name: name for name in asked})
    asked = ["vgg16"]
    assert quickstart.run_enhanced_training(backbones=asked, weights="imagenet") == "vgg16"
    asked = ["vgg16", "mobilenetv2"]
    assert quickstart.run_enhanced_training(backbones=asked, weights="demo") == "mobilenetv2"


def test_a_network_is_trained_scored_and_trained_on(trained, small):
    result, path = trained
    assert set(TABLE_COLUMNS) <= set(result)
    again = quickstart.evaluate_only(model_path=path, **small)
    assert again["auc"] == pytest.approx(result["auc"])
    assert again["model"] == "small_cnn_alone"  # the training's own row stays
    assert quickstart.continue_training("small_cnn", epochs=1, **small)["model"] == "small_cnn_continued"
    figure = quickstart.run_working_gradcam(path, num_samples=3, **small)
    assert len(figure.axes) == 3 * 2


def test_wrong_model_types_and_files_are_named(small):
    with pytest.raises(UsageError, match="'resnet'"):
        quickstart.simple_train(model_type="resnet", **small)
    with pytest.raises((FileNotFoundError, DataError), match=r"none\.keras"):
        quickstart.evaluate_only(model_path="none.keras", **small)
    with pytest.raises(UsageError, match="BACKBONES"):
        quickstart.simple_train(model_type="enhanced_vgg", **small)


def test_a_parameter_of_a_notebook_that_is_not_selected_counts_for_the_settings():
    stages, _, values = parameters.plan(parameters.RunOptions(only=("07",), parameters=(("EPOCHS", "1"),)))
    assert [stage.name for stage in stages] == ["07_comparison"]
    assert "EPOCHS" not in stages[0].parameters
    assert values["EPOCHS"] == 1


def test_run_complete_improvement_gives_folds_table_and_best_model(small, monkeypatch):
    """Notebooks 03, 04, 05 and 07; what was run by then is not run again for the other functions."""
    monkeypatch.setattr(record, "hash_sources", lambda: "sources")
    cv_metrics, comparison_results, best_model = quickstart.run_complete_improvement(epochs=1, **small)
    assert cv_metrics["auc_low"] <= cv_metrics["auc"] <= cv_metrics["auc_high"]
    assert {"mobilenetv2", "small_cnn", "majority"} <= set(comparison_results.model)
    chosen_by = comparison_results.set_index("model").val_auc
    assert chosen_by[best_model] >= chosen_by[["simple_cnn", "small_cnn", "mobilenetv2", "cv_linear"]].max()
    assert best_model not in BASELINES
    assert quickstart.run_enhanced_training(epochs=1, **small)["model"] == "mobilenetv2"
    assert quickstart.compare_models(epochs=1, **small).equals(comparison_results)
