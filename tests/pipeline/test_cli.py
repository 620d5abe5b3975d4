"""The command line as a user types it: exit status, what is printed, what is not imported."""

import os
import shutil
import subprocess
import sys

import pytest

from pipeline import __main__, doctor
from pipeline import series as pipeline

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run the command line on the notebooks of tmp_path; returns (status, stdout, stderr)."""
    monkeypatch.setitem(pipeline.run_series.__kwdefaults__, "notebooks_dir", tmp_path / "notebooks")

    def call(*arguments):
        try:
            status = __main__.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """The generated data of a few patients, as a real CBIS-DDSM tree."""
    folder = tmp_path_factory.mktemp("demo") / "cbis"
    assert __main__.main(["demo-data", "--out", str(folder), "--patients", "8"]) == 0
    return folder


def one_line(text):
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["demo-data", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(root, arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['shared', *{arguments!r}]\n"
        "try:\n    runpy.run_module('shared', run_name='__main__')\n"
        "except SystemExit as leaving:\n    status = leaving.code\n"
        "heavy = {'tensorflow', 'keras', 'pandas', 'numpy', 'papermill'} & set(sys.modules)\n"
        "sys.exit(status or (3 if heavy else 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m pipeline" in done.stdout
    assert done.stderr == ""


def test_run_then_nothing_to_do(cli, tmp_path, write_notebook, monkeypatch):
    monkeypatch.setattr(pipeline, "_hash_sources", lambda: "sources")
    write_notebook("01_first", "print(1)")
    status, out, err = cli("run", "--run-dir", tmp_path / "run", "-p", "EPOCHS", "2")
    assert (status, err) == (0, "")
    assert f"open {tmp_path / 'run/index.html'}" in out
    status, out, _ = cli("run", "--run-dir", tmp_path / "run", "-p", "EPOCHS", "2")
    assert status == 0
    assert "nothing has changed" in out


def test_failed_notebook_is_status_1(cli, tmp_path, write_notebook):
    write_notebook("01_first", "1 / 0")
    status, _, err = cli("run", "--run-dir", tmp_path / "run")
    assert status == 1
    assert "01_first.ipynb: cell In [3] (`1 / 0`): ZeroDivisionError: division by zero" in err
    assert str(tmp_path / "run/notebooks/01_first.failed.ipynb") in err
    assert "Traceback" not in err


def test_unusable_data_in_a_cell_is_status_2(cli, tmp_path, write_notebook):
    write_notebook("01_first", "from shared.schema import DataError\nraise DataError('x.csv: no column y')")
    status, _, err = cli("run", "--run-dir", tmp_path / "run")
    assert status == 2
    assert err == "error: x.csv: no column y\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-p", "EPOCS", "3"], "did you mean EPOCHS?"),
        (["run", "--data-dir", "nowhere"], "no such directory"),
        (["run", "--dataset", "npz"], "needs --data-dir"),
        (["run", "--dataset", "xyz", "--data-dir", "."], "is not one of demo, cbis-ddsm"),
        (["run", "--weights", "nothing.h5"], "no file"),
        (["run", "--only", "77"], "no such notebook"),
        (["run", "--run-dir", "file/run"], "cannot be written"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(cli, tmp_path, write_notebook, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    write_notebook("01_first", "1")
    if "--run-dir" not in arguments:
        arguments = [*arguments, "--run-dir", "run"]
    status, out, err = cli(*arguments)
    assert status == 2
    assert message in err
    assert one_line(err)
    assert out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run", "--profile", "fast"], ["demo-data"], ["run", "-p", "A"]])
def test_argparse_errors_are_status_2(cli, arguments):
    status, _, err = cli(*arguments)
    assert status == 2
    assert "usage:" in err


def test_full_disk_is_one_line(cli, tmp_path, write_notebook, monkeypatch):
    write_notebook("01_first", "1")

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pipeline.artifacts, "write_json", full)
    status, _, err = cli("run", "--run-dir", tmp_path / "run")
    assert status == 1
    assert one_line(err)
    assert "No space left on device" in err


def test_demo_data(cli, tmp_path):
    status, out, err = cli("demo-data", "--out", tmp_path / "demo", "--patients", "6", "--seed", "1")
    assert (status, err) == (0, "")
    assert str(tmp_path / "demo") in out
    assert (tmp_path / "demo/csv").is_dir()
    status, _, err = cli("demo-data", "--out", tmp_path / "other", "--layout", "xyz")
    assert status == 2
    assert one_line(err)
    assert not (tmp_path / "other").exists()


def edit(folder, old, new):
    """Replace text in the case files below a folder."""
    for path in (folder / "csv").glob("*_set.csv"):
        path.write_bytes(path.read_bytes().replace(old, new))


def remove_csv(folder):
    shutil.rmtree(folder / "csv")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: edit(folder, b"pathology", b"pathologie"), "no column pathology"),
        (lambda folder: edit(folder, b",MALIGNANT,", b",MALIGN,"), "pathology 'MALIGN' is not one of"),
        (lambda folder: edit(folder, b",MALIGNANT,", b",BENIGN,"), "only one class"),
        (remove_csv, "not a CBIS-DDSM copy"),
    ],
    ids=["column", "word", "class", "layout"],
)
def test_unusable_data_is_found_before_the_first_notebook(cli, tmp_path, write_notebook, small_demo, damage, message):
    write_notebook("01_first", "1")
    shutil.copytree(small_demo, tmp_path / "data")
    damage(tmp_path / "data")
    command = ["run", "--dataset", "cbis-ddsm", "--data-dir", tmp_path / "data", "--run-dir", tmp_path / "run"]
    status, out, err = cli(*command)
    assert status == 2
    assert message in err
    assert one_line(err)
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_doctor(cli, monkeypatch):
    monkeypatch.setattr(doctor, "check_tensorflow", lambda: [("ok", "TensorFlow")])  # seconds
    monkeypatch.setattr(doctor, "check_weights", lambda: [("note", "none")])
    status, out, _ = cli("doctor")
    assert status in (0, 1)
    for word in ("Python 3.", "packages", "memory free", "disk free", "kernel", "cores", "TensorFlow"):
        assert word in out


def test_doctor_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "pinned_packages", lambda: {"numpy": "0.0.1", "not-a-package-at-all": "1"})
    (missing, text), (note, other) = doctor.check_packages()
    assert (missing, note) == ("MISSING", "note")
    assert "not-a-package-at-all" in text
    assert "pip install -r requirements.txt" in text
    assert "tested with 0.0.1" in other
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 0))
    assert next(doctor.check_python())[0] == "MISSING"


def test_doctor_finds_cached_weights(tmp_path, monkeypatch):
    from shared.models import pretrained

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = pretrained.imagenet_cache("vgg16")
    found.parent.mkdir(parents=True)
    found.touch()
    lines = dict.fromkeys(doctor.check_weights())
    assert ("ok", f"ImageNet weights of vgg16: {found}") in lines
    assert any("efficientnetb0_notop.h5" in text for state, text in lines)
    assert any(state == "note" and str(found.parent) in text for state, text in lines)


def test_pins_cover_what_is_recorded(root):
    pins = doctor.pinned_packages()
    assert set(pipeline.PACKAGES) <= set(pins)
    environment = (root / "environment.yml").read_text()
    assert "requirements.txt" in environment


def test_notebooks_are_run_from_anywhere(tmp_path, root):
    """`python -m pipeline` finds the project wherever it is called."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pipeline", "run", "--only", "99", "--run-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert one_line(done.stderr)
    assert not (tmp_path / "run").exists()
