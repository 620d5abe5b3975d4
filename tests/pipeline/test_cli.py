"""The command line as a user types it: exit status, what is printed, what is not imported."""

import re
import subprocess
import sys
import textwrap

import pytest

from phantoms import write_demo_data
from pipeline import __main__, doctor, record
from shared.data import load_layout

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run the command line on the notebooks of tmp_path; returns (status, stdout, stderr)."""
    monkeypatch.setattr(record, "hash_sources", lambda: "sources")

    def call(*arguments):
        try:
            status = __main__.main([str(argument) for argument in arguments], notebooks_dir=tmp_path / "notebooks")
        except SystemExit as leaving:
            status = leaving.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize("command", ["", "run", "demo-data", "doctor"])
def test_help_imports_nothing_heavy(root, command):
    command = [sys.executable, "-X", "importtime", "-m", "pipeline", *command.split(), "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m pipeline" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not {"tensorflow", "keras", "pandas", "numpy", "papermill"} & imported


def test_tensorflow_waits_until_a_network_is_needed(root):
    code = """
        import sys, phantoms
        assert not {"shared", "pipeline"} & set(sys.modules)
        from shared import data, evaluation, models, plots, run
        models.check_weights("demo")
        assert "pipeline" not in sys.modules
        import pipeline.referee
        assert not {"tensorflow", "keras"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=root, check=True, timeout=120)


def test_a_missing_package_and_an_old_python_are_one_line(cli, root, monkeypatch):
    way_out = "pip install -r requirements.txt (Python 3.11 to 3.13)\n"
    for command in (["doctor"], ["run"]):
        alone = [sys.executable, "-S", "-m", "pipeline", *command]  # without any package
        done = subprocess.run(alone, cwd=root, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"error: (numpy|pandas) is missing: ", done.stderr.removesuffix(way_out))
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    assert cli("doctor") == (2, "", f"error: this Python is 3.9: {way_out}")


def test_run_then_nothing_to_do(cli, tmp_path, write_notebook):
    write_notebook("01_first", "print(1)")
    status, out, err = cli("run", "--run-dir", tmp_path / "run", "-p", "EPOCHS", "2")
    assert (status, err) == (0, "")
    assert f"open {tmp_path / 'run/index.html'}" in out
    assert "nothing has changed" in cli("run", "--run-dir", tmp_path / "run", "-p", "EPOCHS", "2")[1]


def test_failed_notebook_is_status_1_and_unusable_data_status_2(cli, tmp_path, write_notebook):
    write_notebook("01_first", "1 / 0")
    status, _, err = cli("run", "--run-dir", tmp_path / "run")
    assert status == 1
    assert "01_first.ipynb: cell In [3] (`1 / 0`): ZeroDivisionError: division by zero" in err
    assert str(tmp_path / "run/notebooks/01_first.failed.ipynb") in err
    assert "Traceback" not in err
    write_notebook("01_first", "from shared.run import DataError", 'raise DataError("a.csv: empty;\\n give another")')
    status, _, err = cli("run", "--run-dir", tmp_path / "run")
    assert (status, err) == (2, "error: a.csv: empty; give another\n")


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run", "--profile", "fast"], ["demo-data"], ["run", "-p", "A"]])
def test_argparse_errors_are_status_2(cli, arguments):
    status, _, err = cli(*arguments)
    assert status == 2
    assert "usage:" in err


def test_full_disk_is_one_line(cli, tmp_path, write_notebook, monkeypatch):
    write_notebook("01_first", "1")

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(record, "write_json", full)
    status, _, err = cli("run", "--run-dir", tmp_path / "run")
    assert status == 1
    assert re.fullmatch("error: .*run.json: No space left on device.*\n", err)


def test_demo_data(cli, tmp_path):
    status, out, err = cli("demo-data", "--out", tmp_path / "demo", "--layout", "npz", "--patients", "6")
    assert (status, err) == (0, "")
    assert str(tmp_path / "demo") in out
    assert (tmp_path / "demo").is_dir()


def test_doctor(cli, monkeypatch):
    monkeypatch.setattr(doctor, "check_tensorflow", lambda: iter([("ok", "TensorFlow")]))  # seconds
    monkeypatch.setattr(doctor, "MEMORY_GB", 0.0)
    monkeypatch.setattr(doctor, "DISK_GB", 0.0)
    status, out, _ = cli("doctor")
    assert status == 0, out
    for word in ("Python 3.", "packages", "memory free", "disk free", "kernel", "cores", "TensorFlow", "weights"):
        assert word in out
    assert out.splitlines()[-1] == "ready: `python -m pipeline run`"
    monkeypatch.setattr(doctor, "pinned_packages", lambda: {"numpy": "0.0.1", "not-a-package-at-all": "1"})
    status, out, _ = cli("doctor")
    assert status == 1
    (missing,) = [line for line in out.splitlines() if line.startswith("MISSING")]
    assert "not-a-package-at-all" in missing
    assert "pip install -r requirements.txt" in missing
    assert "tested with 0.0.1" in out


def test_doctor_says_what_a_folder_holds(cli, tmp_path):
    write_demo_data(tmp_path / "films", layout="mini-mias", patients=12, n_jobs=1, progress=False)
    info = (tmp_path / "films/Info.txt").read_text().splitlines()
    info += [f"mdb9{number:02d} nonsense" for number in range(12)]
    (tmp_path / "films/Info.txt").write_text("\n".join(info))
    status, out, err = cli("doctor", "--data-dir", tmp_path / "films")
    assert (status, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    known = dict(reversed(lines))  # the first line of each name
    rows = load_layout("mini-mias", tmp_path / "films").manifest
    used = rows[rows.split == ""]
    assert known["layout"] == "mini-mias"
    assert known["images"] == f"{len(used)} can be used, {len(rows) - len(used)} left out by the reader"
    assert (known["patients"], known["views"]) == (str(used.patient_id.nunique()), f"{len(used)} MLO")
    assert f"{used.label.sum()} malignant" in known["classes"]
    assert known["descriptors"] == "breast_density 100%"
    problems = [text for name, text in lines if name == "problem"]
    assert any("normal image" in text and "-p TASK abnormal takes it (first: mdb" in text for text in problems)
    assert any("Info.txt line" in text and "; correct the line (first: mdb9" in text for text in problems)
    more = rows.exclusion_reason[rows.split != ""].nunique() - doctor.SHOWN
    assert (len(problems), problems[-1].split(";")[0]) == (doctor.SHOWN + 1, f"and {more} more")


def test_doctor_counts_what_a_partial_copy_lacks_without_tensorflow(root, tmp_path):
    write_demo_data(tmp_path / "copy", patients=8, n_jobs=1, progress=False)
    next(tmp_path.glob("copy/jpeg/*/*.jpg")).unlink()
    command = [sys.executable, "-X", "importtime", "-m", "pipeline", "doctor", "--data-dir", str(tmp_path / "copy")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"coverage +official_split +abnormality_type +rows +patients", done.stdout)
    assert "tensorflow" not in done.stderr


@pytest.mark.parametrize(("arguments", "line"), [
    (["--data-dir", "none"], "no such directory"), (["--data-dir", "."], "no known layout"),
    (["--data-dir", ".", "--dataset", "npz"], "no folder holds"), (["--data-dir", ".", "--dataset", "x"], "not one of"),
])  # fmt: skip
def test_doctor_refuses_in_one_line(cli, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli("doctor", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert line in err


def test_doctor_on_other_machines(tmp_path, monkeypatch):
    from shared.models import pretrained

    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 0))
    assert next(doctor.check_python())[0] == "MISSING"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = pretrained.imagenet_cache("vgg16")
    found.parent.mkdir(parents=True)
    found.touch()
    lines = list(doctor.check_weights())
    assert ("ok", f"ImageNet weights of vgg16: {found}") in lines
    assert any(state == "note" and "efficientnetb0_notop.h5" in text for state, text in lines)
    monkeypatch.setattr(doctor, "DISK_GB", 1e9)
    assert "MISSING" in dict(doctor.check_machine())


def test_pins_cover_what_is_recorded(root):
    assert set(record.PACKAGES) <= set(doctor.pinned_packages())
    assert "requirements.txt" in (root / "environment.yml").read_text()
