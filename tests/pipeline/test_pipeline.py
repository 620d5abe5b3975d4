"""The runner on tiny notebooks: parameters, resume, failure, lock, record."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import execution
from pipeline import series as pipeline
from shared.run import DataError, UsageError

pytestmark = pytest.mark.usefixtures("clean_environment")

COUNT = """
import os, pathlib
run = pathlib.Path(os.environ["MAMMO_RUN_DIR"])
(run / "results").mkdir(parents=True, exist_ok=True)
with (run / "count.txt").open("a") as file:
    file.write(__NAME__)
(run / f"results/{__NAME__}.txt").write_text(str(EPOCHS))
"""


def counting(name):
    """Code of a cell that leaves a letter in count.txt each time it is run."""
    return COUNT.replace("__NAME__", repr(name))


@pytest.fixture(autouse=True)
def steady_sources(monkeypatch):
    """An edit of the package while the tests run is not what they are about."""
    monkeypatch.setattr(pipeline, "_hash_sources", lambda: "sources")


def run(tmp_path, *parameters, echo=None, **options):
    """Run the notebooks of tmp_path/notebooks into tmp_path/run."""
    options = pipeline.RunOptions(run_dir=str(tmp_path / "run"), parameters=parameters, **options)
    lines = []
    pipeline.run_series(options, notebooks_dir=tmp_path / "notebooks", echo=echo or lines.append)
    return lines


def counts(tmp_path):
    return (tmp_path / "run/count.txt").read_text()


def record(tmp_path):
    return json.loads((tmp_path / "run/run.json").read_text())


@pytest.fixture
def series(tmp_path, write_notebook):
    """Two notebooks that count how often they are run."""
    write_notebook("01_first", counting("a"))
    write_notebook("02_second", counting("b"))
    return tmp_path


def test_run_resumes_and_leaves_the_notebooks_alone(series):
    before = {path: path.read_bytes() for path in (series / "notebooks").iterdir()}
    run(series, ("EPOCHS", "3"))
    assert counts(series) == "ab"
    assert (series / "run/results/a.txt").read_text() == "3"
    assert "nothing has changed" in run(series, ("EPOCHS", "3"))[0]
    assert counts(series) == "ab"

    (series / "run/results/b.txt").unlink()  # an output is gone
    run(series, ("EPOCHS", "3"))
    assert counts(series) == "abb"

    second = series / "notebooks/02_second.ipynb"
    second.write_text(second.read_text().replace("results/", "results//"))  # a code cell changed
    run(series, ("EPOCHS", "3"))
    assert counts(series) == "abbb"

    run(series, ("EPOCHS", "4"))  # a parameter changed
    assert counts(series) == "abbbab"
    assert (series / "run/results/a.txt").read_text() == "4"

    run(series, ("EPOCHS", "4"), force=True, only=("02",))
    assert counts(series) == "abbbabb"
    first = series / "notebooks/01_first.ipynb"
    assert first.read_bytes() == before[first]
    assert not list((series / "run").rglob(".part-*"))


def test_text_cells_do_not_matter_but_an_earlier_notebook_does(series):
    run(series)
    first = series / "notebooks/01_first.ipynb"
    first.write_text(first.read_text().replace("# 01_first", "# another title"))
    assert "nothing has changed" in run(series)[0]
    first.write_text(first.read_text().replace("import os, pathlib", "import pathlib, os"))
    run(series)
    assert counts(series) == "abab"


def test_only_one_then_all(series):
    run(series, only=("2",))
    assert counts(series) == "b"
    run(series)  # the second notebook now has a first one before it
    assert counts(series) == "bab"


def test_record(series):
    run(series, ("SEEDS", "[3, 4]"))
    content = record(series)
    assert content["status"] == "done"
    assert content["seeds"] == {"SEED": 0, "SEEDS": [3, 4]}
    assert content["parameters"]["DATASET"] == "demo"
    assert content["dataset"]["fingerprint"]
    assert content["packages"]["papermill"]
    assert set(content["stages"]) == {"01_first", "02_second"}
    stage = content["stages"]["01_first"]
    assert stage["status"] == "done"
    assert stage["seconds"] > 0
    assert stage["peak_memory_mb"] > 10
    assert "results/a.txt" in stage["outputs"]
    assert {path.name for path in (series / "run/notebooks").iterdir()} == {
        f"{name}.{kind}" for name in ("01_first", "02_second") for kind in ("ipynb", "html")
    }
    assert (series / "run/index.html").exists()


def test_the_kernel_is_this_python(tmp_path, write_notebook, monkeypatch):
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps({"argv": ["/nowhere/python", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    check = f"import sys, os; assert sys.executable == {sys.executable!r}, sys.executable"
    write_notebook("01_first", check, f"assert os.getcwd() == {str(Path(pipeline.project_root()))!r}")
    run(tmp_path)


def test_the_next_kernel_loads_what_its_notebook_imports(tmp_path, write_notebook):
    look = "import sys\nassert 'wave' in sys.modules and 'cgitb' not in sys.modules\nassert 'wave' not in globals()"
    write_notebook("01_first", "import sys\nassert 'wave' not in sys.modules")
    write_notebook("02_second", look, "%pwd\nimport cgitb", "import wave", "from os import path")
    run(tmp_path)
    write_notebook("02_second", "import no_such_module")
    with pytest.raises(execution.NotebookError, match=r"02_second\.ipynb: cell .*no_such_module"):
        run(tmp_path, force=True)
    assert not [child for child in psutil.Process().children() if "ipykernel" in " ".join(child.cmdline())]


def test_no_kernel_serves_two_notebooks(tmp_path, write_notebook):
    for name in ("01_first", "02_second", "03_third"):
        write_notebook(name, "assert 'seen' not in globals()\nseen = True")
    run(tmp_path)


def test_failed_cell(tmp_path, write_notebook):
    write_notebook("01_first", counting("a"))
    write_notebook("02_second", "x = 1", "# divide\n1 / 0", counting("b"))
    with pytest.raises(
        execution.NotebookError, match=r"cell In \[4\] \(`1 / 0`\): ZeroDivisionError: division by zero"
    ) as caught:
        run(tmp_path)
    assert caught.value.where == tmp_path / "run/notebooks/02_second.failed.ipynb"
    outputs = [o for c in json.loads(caught.value.where.read_text())["cells"] for o in c.get("outputs", [])]
    assert outputs[-1]["ename"] == "ZeroDivisionError"
    assert not (tmp_path / "run/notebooks/02_second.ipynb").exists()
    content = record(tmp_path)
    assert content["status"] == "failed"
    assert content["stages"]["02_second"]["status"] == "failed"
    assert content["stages"]["01_first"]["status"] == "done"
    write_notebook("02_second", counting("b"))
    run(tmp_path)
    assert counts(tmp_path) == "ab"
    assert not caught.value.where.exists()


def test_unusable_data_in_a_cell(tmp_path, write_notebook):
    write_notebook(
        "01_first", "from shared.schema import DataError", 'raise DataError("a.csv: empty;\\n give another")'
    )
    with pytest.raises(DataError, match=r"a\.csv: empty; give another"):
        run(tmp_path)


def test_a_kernel_that_dies(tmp_path, write_notebook):
    write_notebook("01_first", "import os; os._exit(3)")
    with pytest.raises(execution.NotebookError, match=r"01_first\.ipynb"):
        run(tmp_path)
    assert record(tmp_path)["status"] == "failed"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EPOCS", "3", "did you mean EPOCHS"),
        ("epochs", "3", "did you mean EPOCHS"),
        ("QQQ", "3", "known are"),
        ("EPOCHS", "3.5", "not of type int"),
        ("EPOCHS", "many", "not of type int"),
        ("EPOCHS", "True", "not of type int"),
        ("LEARNING_RATE", "fast", "not of type float"),
        ("SEEDS", "3", "not of type list"),
        ("SEEDS", "[1, 'a']", "int values only"),
        ("TASK", "cats", "TASK: 'cats' is not one of"),
        ("WEIGHTS", "/nowhere/file.h5", "no file"),
        ("DATA_DIR", "/nowhere/data", "no such directory"),
        ("DATASET", "cbis-ddsm", "needs --data-dir"),
        ("DATASET", "cbis", "DATASET: 'cbis' is not one of demo, cbis-ddsm"),
        ("PROFILE", "fast", "is not one of demo, full"),
        ("RUN_DIR", "elsewhere", "given twice"),
    ],
)
def test_wrong_parameters_run_nothing(series, name, value, message):
    with pytest.raises((UsageError, DataError), match=message):
        run(series, (name, value))
    assert not (series / "run").exists()


def test_values_take_the_type_of_the_default():
    declared = [{"EPOCHS": 0, "LEARNING_RATE": 0.0, "SEEDS": [0], "TASK": "a", "FLAG": False, "X_DIR": ""}]
    pairs = [("EPOCHS", "3"), ("LEARNING_RATE", "1"), ("SEEDS", "1,2"), ("TASK", "3"), ("FLAG", "True"), ("X_DIR", "y")]
    values = pipeline.parse_parameters(pairs, declared)
    expected = {
        "EPOCHS": 3,
        "LEARNING_RATE": 1.0,
        "SEEDS": [1, 2],
        "TASK": "3",
        "FLAG": True,
        "X_DIR": str(Path("y").resolve()),
    }
    assert values == expected
    assert isinstance(values["LEARNING_RATE"], float)


def test_a_parameter_goes_only_where_it_is_declared(tmp_path, write_notebook):
    write_notebook("01_first", "1", parameters="EPOCHS: int = 0")
    write_notebook("02_second", "1", parameters="SEED: int = 0\nDATASET: str = 'demo'")
    options = pipeline.RunOptions(run_dir=str(tmp_path / "run"), parameters=(("EPOCHS", "3"),))
    (first, second), values = pipeline.plan(options, notebooks_dir=tmp_path / "notebooks")
    assert first.parameters == {"EPOCHS": 3}
    assert second.parameters == {"DATASET": "demo"}
    assert values["RUN_DIR"] == str(tmp_path / "run")
    run(tmp_path)
    assert record(tmp_path)["settings"]["run_dir"] == str(tmp_path / "run")


def test_unknown_notebook(series):
    with pytest.raises(UsageError, match="--only 09: no such notebook; there are 01_first, 02_second"):
        run(series, only=("09",))


def test_run_dir_that_cannot_be_written(series):
    (series / "run").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        run(series)


def test_unusable_data_leave_nothing_behind(series):
    (series / "data").mkdir()
    with pytest.raises(DataError, match="data"):
        run(series, dataset="cbis-ddsm", data_dir=str(series / "data"))
    assert not (series / "run").exists()


def test_another_data_set_needs_another_directory(series):
    run(series)
    content = record(series)
    content["dataset"]["name"] = "npz"
    (series / "run/run.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="holds a run on 'npz'"):
        run(series)


def test_two_runs_at_once(series):
    held = pytest.raises(UsageError, match=f"another run is going on there .process {os.getpid()}")
    with pipeline.run_directory(series), held, pipeline.run_directory(series):
        pass
    with pipeline.run_directory(series):  # let go of
        pass


SCRIPT = """
import sys
from shared import __main__, pipeline
pipeline.run_series.__kwdefaults__["notebooks_dir"] = sys.argv[1]
pipeline._hash_sources = lambda: "sources"
sys.exit(__main__.main(["run", "--run-dir", sys.argv[2]]))
"""


def start(series):
    command = [sys.executable, "-c", SCRIPT, str(series / "notebooks"), str(series / "run")]
    environment = {**os.environ, "PYTHONPATH": str(pipeline.project_root())}
    # a shell's background job ignores Ctrl-C, and so would its children
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=listen, **pipes)


def wait_for(path, process):
    for _ in range(600):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert path.exists(), process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_goes_on(tmp_path, write_notebook, number):
    write_notebook("01_first", counting("a"))
    slow = "import time\nfor _ in range(0 if (run / 'again').exists() else 600): time.sleep(.05)"
    write_notebook("02_second", counting("b"), "(run / 'here').touch()", slow)
    process = start(tmp_path)
    wait_for(tmp_path / "run/here", process)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert record(tmp_path)["status"] == "running"
    else:
        assert process.returncode == 130
        assert error.strip() == "interrupted; the same command goes on from here"
        assert record(tmp_path)["status"] == "failed"
    psutil.wait_procs(kernels, timeout=10)
    assert not any(kernel.is_running() for kernel in kernels)

    (tmp_path / "run/again").touch()
    run(tmp_path)
    assert counts(tmp_path) == "abb"
    assert record(tmp_path)["status"] == "done"
    assert not list((tmp_path / "run").rglob(".part-*"))


def test_leftovers_of_a_killed_run_are_removed(series):
    (series / "run/data/.part-demo/jpeg").mkdir(parents=True)  # the demo data, half written
    (series / "run/data/.part-x.npy").touch()
    run(series)
    assert not list((series / "run").rglob(".part-*"))


def test_the_second_data_set_counts(tmp_path):
    given = {"EXTERNAL_DATASET": "npz", "EXTERNAL_DATA_DIR": str(tmp_path / "b")}
    with pytest.raises(UsageError, match="needs EXTERNAL_DATA_DIR"):
        pipeline.external_fingerprint(given)
    (tmp_path / "b").mkdir()
    first = pipeline.external_fingerprint(given)
    (tmp_path / "b/x.npz").write_bytes(b"1")
    assert pipeline.external_fingerprint(given) != first
    assert pipeline.external_fingerprint({"EXTERNAL_DATASET": ""}) == ""


def test_fingerprint_follows_the_files(tmp_path):
    settings = pipeline.resolve_settings(
        {"DATASET": "npz", "DATA_DIR": str(tmp_path), "RUN_DIR": str(tmp_path / "run")}
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.npz").write_bytes(b"1")
    (tmp_path / "run").mkdir()
    first = pipeline.dataset_fingerprint(settings)
    (tmp_path / "run/new").write_bytes(b"1")  # a run directory inside the data does not count
    assert pipeline.dataset_fingerprint(settings) == first
    assert (first["files"], first["bytes"]) == (1, 1)
    (tmp_path / "a/x.npz").write_bytes(b"12")
    assert pipeline.dataset_fingerprint(settings)["fingerprint"] != first["fingerprint"]


def test_in_place(tmp_path, write_notebook):
    path = write_notebook("01_first", "import sys\nprint('out')\nprint('err', file=sys.stderr)", "1 + 1")
    execution.execute_in_place(path, run_dir=tmp_path / "run")
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3]
    assert code[0]["metadata"] == {"tags": ["parameters"]}
    assert [output["output_type"] for output in code[1]["outputs"]] == ["stream"]
    assert code[2]["outputs"][0]["data"]["text/plain"] in ("2", ["2"])
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    before = path.read_bytes()
    execution.execute_in_place(path, run_dir=tmp_path / "run")
    assert path.read_bytes() == before


def test_in_place_keeps_the_notebook_where_a_cell_fails(tmp_path, write_notebook):
    path = write_notebook("01_first", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(execution.NotebookError):
        execution.execute_in_place(path, run_dir=tmp_path / "run")
    assert path.read_bytes() == before


def test_html_is_self_contained(tmp_path, write_notebook):
    path = write_notebook("01_first", "1 + 1")
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["source"] = "[next](02_second.ipynb) [index](../README.md) [site](https://x.org/a.ipynb)"
    path.write_text(json.dumps(notebook))
    page = execution.write_html(path).read_text()
    assert 'href="02_second.html"' in page
    assert 'href="../index.html"' in page
    assert 'href="https://x.org/a.ipynb"' in page
    assert "<script src" not in page
    notebook["cells"][0]["source"] = "$x^2$"
    path.write_text(json.dumps(notebook))
    assert "MathJax" in execution.write_html(path).read_text()


def test_parameters_cell_holds_literals_only(tmp_path, write_notebook):
    path = write_notebook("01_first", parameters="SEED: int = int(3)")
    with pytest.raises(DataError, match="is not NAME = literal"):
        execution.default_parameters(execution.read_notebook(path))
