"""The runner on tiny notebooks: parameters, resume, failure, run directory, record."""

import json
import os
import re
import sys
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest
from filelock import Timeout

from pipeline import execution, parameters, record, report, series
from pipeline.series import RunOptions
from shared.run import DataError, UsageError, claim_run_dir, project_root, resolve_settings

pytestmark = pytest.mark.usefixtures("clean_environment")


def counting(name):
    """Code of a cell that leaves a letter in count.txt each time it is run."""
    return f"""
import os, pathlib
run = pathlib.Path(os.environ["MAMMO_RUN_DIR"])
(run / "results").mkdir(parents=True, exist_ok=True)
with (run / "count.txt").open("a") as file:
    file.write({name!r})
(run / "results/{name}.txt").write_text(str(EPOCHS))
"""


@pytest.fixture(autouse=True)
def steady_sources(monkeypatch):
    """An edit of the package while the tests run does not count."""
    monkeypatch.setattr(record, "hash_sources", lambda: "sources")


@pytest.fixture
def no_kernels(monkeypatch):
    """Run the cells in this process: seconds less for tests of what is run, not of how."""

    def execute(source, target, given, *, run_dir, progress):
        with execution.watch_kernel(run_dir):
            scope = {}
            for number, code in enumerate(parameters.read_notebook(source)[0]):
                exec(code, scope)
                scope.update(given if number == 0 else {})
        target.parent.mkdir(exist_ok=True)
        target.write_text("{}")
        return {"seconds": 1.0, "peak_memory_mb": 1.0}

    monkeypatch.setattr(execution, "execute_copy", execute)
    monkeypatch.setattr(execution, "write_html", lambda copy: copy)


def run(tmp_path, *pairs, **options):
    """Run the notebooks of tmp_path/notebooks into tmp_path/run."""
    lines = []
    options = RunOptions(parameters=pairs, **{"run_dir": str(tmp_path / "run"), **options})
    series.run_series(options, notebooks_dir=tmp_path / "notebooks", echo=lines.append)
    return lines


def counts(tmp_path):
    return (tmp_path / "run/count.txt").read_text()


def read_record(tmp_path):
    return json.loads((tmp_path / "run/run.json").read_text())


@pytest.fixture
def two(tmp_path, write_notebook):
    """Two notebooks that count how often they are run."""
    write_notebook("01_first", counting("a"))
    write_notebook("02_second", counting("b"))
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_unchanged_is_not_run_again(two, no_kernels):
    before = {path: path.read_bytes() for path in (two / "notebooks").iterdir()}
    run(two, ("EPOCHS", "3"))
    assert (counts(two), (two / "run/results/a.txt").read_text()) == ("ab", "3")
    assert "nothing has changed" in run(two, ("EPOCHS", "3"))[0]
    assert counts(two) == "ab"
    (two / "run/results/b.txt").unlink()  # an output is gone
    run(two, ("EPOCHS", "3"))
    assert counts(two) == "abb"
    change(two / "notebooks/02_second.ipynb", "results/", "results//")  # a code cell changed
    run(two, ("EPOCHS", "3"))
    assert counts(two) == "abbb"
    run(two, ("EPOCHS", "4"))  # a parameter changed
    assert (counts(two), (two / "run/results/a.txt").read_text()) == ("abbbab", "4")
    run(two, ("EPOCHS", "4"), force=True, only=("02",))
    assert counts(two) == "abbbabb"
    first = two / "notebooks/01_first.ipynb"
    assert first.read_bytes() == before[first]
    change(first, "# 01_first", "# another title")  # no code
    assert "nothing has changed" in run(two, ("EPOCHS", "4"))[0]
    change(first, "import os, pathlib", "import pathlib, os")  # what follows may depend on it
    run(two, ("EPOCHS", "4"))
    assert counts(two) == "abbbabbab"


def test_sources_and_versions_decide_too(two, no_kernels, monkeypatch):
    run(two, only=("2",))
    run(two)  # the second notebook now has a first one before it
    assert counts(two) == "bab"
    monkeypatch.setattr(record, "hash_sources", lambda: "other sources")
    run(two)
    monkeypatch.setattr(record, "PACKAGES", ("numpy", "not-a-package"))
    run(two)
    assert counts(two) == "bababab"
    assert read_record(two)["packages"]["not-a-package"] is None


def test_record_files_and_fresh_kernels_of_a_run(tmp_path, write_notebook):
    """papermill formats its paths, so braces in them are a trap."""
    folder = tmp_path / "a {b} c"
    place = f"assert (os.getcwd(), sys.executable) == {(str(project_root()), sys.executable)}"
    write_notebook("01_first", counting("a"), "seen = True", folder=folder / "notebooks")
    alone = "import logging, os, sys\nassert not {'seen', 'logging'} & before"
    quiet = "assert logging.getLogger('asyncio').level == logging.CRITICAL  # tasks that an ending kernel leaves"
    cells = ("before = set(globals())", f"{alone}\n{place}\n{quiet}")
    write_notebook("02_second", *cells, folder=folder / "notebooks")
    lines = run(folder, ("SEEDS", "[3, 4]"))
    assert "MAMMO_RUN_DIR" not in os.environ
    assert lines[-1] == f"open {folder / 'run/index.html'}"
    assert next(line for line in lines if "s left" in line).startswith("[1/2] 01_first: ")
    content = read_record(folder)
    assert (content["status"], content["seeds"]) == ("done", {"SEED": 0, "SEEDS": [3, 4]})
    assert content["parameters"]["DATASET"] == "demo"
    assert content["settings"]["run_dir"] == str(folder / "run")
    assert content["dataset"]["fingerprint"]
    assert content["packages"]["papermill"]
    assert set(content["stages"]) == {"01_first", "02_second"}
    stage = content["stages"]["01_first"]
    assert stage["status"] == "done"
    assert stage["seconds"] > 0
    assert stage["peak_memory_mb"] > 10
    assert {"results/a.txt", "notebooks/01_first.ipynb", "notebooks/01_first.html"} <= set(stage["outputs"])
    names = {f"{name}.{kind}" for name in ("01_first", "02_second") for kind in ("ipynb", "html")}
    assert {path.name for path in (folder / "run/notebooks").iterdir()} == names
    executed = nbformat.read(folder / "run/notebooks/01_first.ipynb", as_version=4)
    assert executed.metadata.papermill.output_path == "01_first.ipynb"


def test_a_failed_cell_and_a_kernel_that_dies(tmp_path, write_notebook):
    write_notebook("01_first", counting("a"))
    write_notebook("02_second", "x = 1", "# divide\n1 / 0", counting("b"))
    failure = r"cell In \[4\] \(`1 / 0`\): ZeroDivisionError: division by zero"
    with pytest.raises(execution.NotebookError, match=failure) as caught:
        run(tmp_path, ("EPOCHS", "1"))
    assert caught.value.where == tmp_path / "run/notebooks/02_second.failed.ipynb"
    cells = nbformat.read(caught.value.where, as_version=4).cells
    assert [output.ename for cell in cells for output in cell.get("outputs", [])] == ["ZeroDivisionError"]
    assert not (tmp_path / "run/notebooks/02_second.ipynb").exists()
    content = read_record(tmp_path)
    states = [content["status"], *(stage["status"] for stage in content["stages"].values())]
    assert states == ["failed", "done", "failed"]
    assert "division by zero" in (tmp_path / "run/index.html").read_text()
    write_notebook("02_second", "print('so far')", "import os; os._exit(3)", counting("b"))
    with pytest.raises(execution.NotebookError, match=r"02_second\.ipynb: .*died") as caught:
        run(tmp_path, ("EPOCHS", "1"))
    cells = nbformat.read(caught.value.where, as_version=4).cells
    assert [output.text for cell in cells for output in cell.get("outputs", [])] == ["so far\n"]
    assert cells[-1].source == "import os; os._exit(3)"
    assert read_record(tmp_path)["status"] == "failed"
    write_notebook("02_second", counting("b"))
    run(tmp_path, ("EPOCHS", "1"))
    assert counts(tmp_path) == "ab"
    assert not caught.value.where.exists()


def test_the_committed_notebooks_are_renewed_in_place(tmp_path, write_notebook, monkeypatch):
    path = write_notebook("01_first", "import sys\nprint('out')\nprint('err', file=sys.stderr)", "1 + 1")
    write_notebook("02_second", "1 / 0")
    monkeypatch.setattr(series, "project_root", lambda: tmp_path)
    series.renew_notebooks(["01"], echo=print)
    node = nbformat.read(path, as_version=4)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert code[0].metadata == {"tags": ["parameters"]}
    assert [output.output_type for output in code[1].outputs] == ["stream"]
    assert (code[2].outputs[0].data["text/plain"], code[2].outputs[0].execution_count) == ("2", 3)
    assert node.metadata.language_info == {"name": "python"}
    before = write_notebook("01_first", "1 / 0").read_bytes()
    with pytest.raises(execution.NotebookError):
        series.renew_notebooks()
    assert path.read_bytes() == before


def test_html_is_self_contained(tmp_path, write_notebook):
    path = write_notebook("01_first", "1 + 1")
    links = "[next](02_second.ipynb) [index](../README.md) [site](https://x.org/a.ipynb)"
    change(path, "# 01_first", links)
    page = execution.write_html(path).read_text()
    for words in ('href="02_second.html"', 'href="../index.html"', 'href="https://x.org/a.ipynb"'):
        assert words in page
    assert "<script src" not in page
    change(path, links, "$x^2$")
    assert "MathJax" in execution.write_html(path).read_text()


def test_figures_have_alternative_texts(tmp_path):
    figure = nbformat.v4.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    cells = [
        nbformat.v4.new_markdown_cell("# 01 · First\n\n## Curves"),
        nbformat.v4.new_code_cell("one", outputs=[figure]),
        nbformat.v4.new_markdown_cell("*ROC of **two** `models`, p < 1.*\n\n**What to see**"),
        nbformat.v4.new_code_cell("two", outputs=[figure, figure]),
    ]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    (tmp_path / "01.ipynb").write_text(text)
    page = execution.write_html(tmp_path / "01.ipynb").read_text()
    found = re.findall(r'<img alt="([^"]*)"', page)
    assert found == ["ROC of two models, p &lt; 1."] + ["Figure of the section: Curves"] * 2


def test_values_take_the_type_of_the_default():
    declared = [{"EPOCHS": 0, "LEARNING_RATE": 0.0, "SEEDS": [0], "TASK": "a", "FLAG": False, "X_DIR": ""}]
    given = {"EPOCHS": "3", "LEARNING_RATE": "1", "SEEDS": "1,2", "TASK": "3", "FLAG": "True", "X_DIR": "y"}
    values = list(parameters.parse_parameters(list(given.items()), declared).values())
    assert repr(values) == repr([3, 1.0, [1, 2], "3", True, str(Path("y").resolve())])


def test_a_parameter_goes_only_where_it_is_declared(tmp_path, write_notebook, monkeypatch):
    write_notebook("01_first", "1", parameters="EPOCHS: int = 0  # x")
    write_notebook("02_second", "1", parameters="SEED: int = 0\nDATASET: str = 'demo'")
    monkeypatch.setenv("MAMMO_RUN_DIR", str(tmp_path / "run"))
    (first, second), _, values = parameters.plan(RunOptions(parameters=(("EPOCHS", "3"),)), tmp_path / "notebooks")
    assert (first.parameters, second.parameters) == ({"EPOCHS": 3}, {"DATASET": "demo"})
    assert values["RUN_DIR"] == str(tmp_path / "run")


def test_what_is_no_notebook_is_named(tmp_path, write_notebook):
    path = write_notebook("01_first", parameters="SEED: int = int(3)")
    with pytest.raises(DataError, match=r"01_first.*SEED: `int\(3\)` is not a literal"):
        parameters.read_notebook(path)
    for text in ("hello", "{}", '{"cells": 3}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"01_first\.ipynb: not a notebook"):
            parameters.read_notebook(path)
    with pytest.raises(UsageError, match="no notebooks"):
        parameters.select_notebooks(tmp_path)


def test_weights_files_become_absolute_and_are_stamped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.h5").write_bytes(b"1")
    given = parameters.merge_options(RunOptions(weights="vgg16=w.h5,mobilenetv2=imagenet"), {})
    assert given["WEIGHTS"] == f"vgg16={tmp_path / 'w.h5'},mobilenetv2=imagenet"
    first = record.stamp(str(tmp_path / "w.h5"))
    (tmp_path / "w.h5").write_bytes(b"12")
    assert record.stamp(str(tmp_path / "w.h5")) != first


def test_only_a_folder_of_its_own_is_written_to(two, monkeypatch, no_kernels):
    root = project_root()
    monkeypatch.setenv("HOME", str(two / "users/me"))
    (two / "link").symlink_to(root / "notebooks")
    for refused in (Path("/"), two / "users/me", two / "users", root, root.parent, two / "link"):
        with pytest.raises(UsageError, match="give a folder of its own"):
            run(two, run_dir=refused)
    claim_run_dir(two / "jupyter")  # what a notebook in JupyterLab does
    run(two, run_dir=two / "jupyter")
    with pytest.raises(UsageError, match="lies in another run"):
        run(two, run_dir=two / "jupyter/below")
    (two / "jupyter").rename(two / "in")
    claim_run_dir(two / "around")
    (two / "in").rename(two / "around/in")
    with pytest.raises(UsageError, match="holds another run"):
        run(two, run_dir=two / "around")


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(two, no_kernels):
    (two / "run").mkdir()  # empty is fine
    run(two)
    begin = two / "run/data" / read_record(two)["temporary"]
    Path(f"{begin}demo/jpeg").mkdir(parents=True)  # the demo data, half drawn
    Path(f"{begin}1-a.keras").touch()  # a model, half written
    (two / "run/data/.part-letter.txt").touch()
    run(two, force=True)
    left = [path.relative_to(two / "run").as_posix() for path in (two / "run").rglob(".part-*")]
    assert left == ["data/.part-letter.txt"]


def test_results_of_other_parameters_are_stale_until_they_are_made_again(two, no_kernels):
    run(two, ("EPOCHS", "3"))
    run(two, ("EPOCHS", "4"), only=("02",))
    assert set(read_record(two)["stale"]) == {"results/a.txt"}
    assert "left out: results/a.txt: stale, as 01_first made it" in "".join(run(two, ("EPOCHS", "4"), only=("02",)))
    run(two, ("EPOCHS", "4"))
    assert read_record(two)["stale"] == {}


def test_a_notebook_that_runs_again_may_read_what_it_makes(tmp_path, write_notebook, no_kernels):
    look = """
import json
assert "results/a.txt" not in json.loads((run / "run.json").read_text())["stale"]
assert EPOCHS != 5, "told to fail"
"""
    write_notebook("01_first", counting("a") + look)
    run(tmp_path, ("EPOCHS", "3"))
    with pytest.raises(AssertionError, match="told to fail"):
        run(tmp_path, ("EPOCHS", "5"))
    assert set(read_record(tmp_path)["stale"]) == {"results/a.txt"}
    run(tmp_path, ("EPOCHS", "4"))
    assert read_record(tmp_path)["stale"] == {}


@pytest.mark.parametrize(("error", "line"), [
    (Timeout("x"), "another run is going on there"), (OSError(37, "No locks available"), "No locks available"),
    (NotImplementedError(), "cannot lock files"),
])  # fmt: skip
def test_only_what_another_run_holds_is_said_to_be_held(two, monkeypatch, error, line):
    monkeypatch.setattr(series.FileLock, "acquire", Mock(side_effect=error))
    with pytest.raises(UsageError, match=line):
        run(two)


def test_a_run_on_another_data_set_is_refused(two, no_kernels):
    run(two)
    content = read_record(two)
    content["dataset"]["name"] = "npz"
    (two / "run/run.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="holds a run on 'npz'"):
        run(two)


def test_the_second_data_set_counts(tmp_path):
    settings = resolve_settings({"RUN_DIR": str(tmp_path / "run")})
    given = {"EXTERNAL_DATASET": "npz", "EXTERNAL_DATA_DIR": str(tmp_path / "b")}
    with pytest.raises(UsageError, match="needs EXTERNAL_DATA_DIR"):
        record.find_basis(settings, given)
    (tmp_path / "b").mkdir()
    first = record.find_basis(settings, given)["external"]
    (tmp_path / "b/x.npz").write_bytes(b"1")
    assert record.find_basis(settings, given)["external"] != first
    assert record.find_basis(settings, {"EXTERNAL_DATASET": ""})["external"] == []
    (tmp_path / "c").mkdir()
    two = {"EXTERNAL_DATASET": "npz,cmmd", "EXTERNAL_DATA_DIR": f"{tmp_path / 'b'},{tmp_path / 'c'}"}
    assert len(set(record.find_basis(settings, two)["external"])) == 2
    with pytest.raises(UsageError, match="one folder for each layout"):
        record.find_basis(settings, two | {"EXTERNAL_DATASET": "npz"})


def test_fingerprint_follows_the_files_and_links_to_folders(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "run", elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "x.npz").write_bytes(b"1")
    (data / "a").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(data)
    settings = resolve_settings({"DATASET": "npz", "DATA_DIR": str(data), "RUN_DIR": str(data / "run")})
    first = record.describe_dataset(settings)
    assert (first["files"], first["bytes"]) == (1, 1)
    (data / "run/new").write_bytes(b"1")  # a run directory inside the data does not count
    assert record.describe_dataset(settings) == first
    (elsewhere / "x.npz").write_bytes(b"12")
    second = record.describe_dataset(settings)["fingerprint"]
    assert second != first["fingerprint"]
    (elsewhere / "x.csv").write_text("a")
    (data / "b.csv").symlink_to(elsewhere / "x.csv")
    third, stat = record.describe_dataset(settings)["fingerprint"], (elsewhere / "x.csv").stat()
    (elsewhere / "x.csv").write_text("b")
    os.utime(elsewhere / "x.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert len({second, third, record.describe_dataset(settings)["fingerprint"]}) == 3


def test_only_external_data_that_have_a_folder_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = resolve_settings({})
    assert record.find_basis(settings, {"EXTERNAL_DATASET": "demo", "EXTERNAL_DATA_DIR": ""})["external"] == []
    given = {"EXTERNAL_DATASET": "demo,npz", "EXTERNAL_DATA_DIR": f",{tmp_path}"}
    assert record.find_basis(settings, given)["external"] == [record.hash_folder(tmp_path)[0]]
    with pytest.raises(UsageError, match="EXTERNAL_DATASET 'npz' needs EXTERNAL_DATA_DIR"):
        record.find_basis(settings, {**given, "EXTERNAL_DATA_DIR": f"{tmp_path},"})


def test_a_folder_alone_says_which_layout_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("copy").mkdir()
    for name in ("Info.txt", "mdb001.pgm"):
        (tmp_path / "copy" / name).touch()
    lines = []
    values = parameters.merge_options(RunOptions(data_dir="copy"), {}, echo=lines.append)
    assert (values["DATASET"], values["PROFILE"]) == ("mini-mias", "full")
    assert lines == ["taken as --dataset mini-mias: the folder holds Info.txt and mdb*.pgm"]
    assert values == parameters.merge_options(RunOptions(), {"DATA_DIR": "copy"}, echo=lines.append)
    given = [RunOptions(data_dir="copy", dataset="npz"), RunOptions(data_dir="copy", dataset="demo"), RunOptions()]
    said = [parameters.merge_options(options, {}, echo=lines.append)["DATASET"] for options in given]
    assert (said, len(lines)) == (["npz", "demo", "demo"], 2)


@pytest.fixture
def three(two, write_notebook):
    """Two notebooks and an optional one between them."""
    write_notebook("01b_more", counting("x"), parameters="EPOCHS: int = 0  # at most\nTRAIN: bool = False  # anew")
    return two


def test_an_optional_notebook_runs_only_where_it_is_asked_for(three, no_kernels):
    said = run(three)
    assert counts(three) == "ab"
    assert [line for line in said if "is optional" in line] == ["left out: 01b_more is optional; --only 01b runs it"]
    for number, word in enumerate(("01b", "1b", "01b_more"), start=1):
        said = run(three, ("TRAIN", "True"), only=(word,), force=True)
        assert counts(three) == "ab" + "x" * number
        assert not [line for line in said if "is optional" in line]
    run(three, only=("01",), force=True)
    assert counts(three) == "abxxxa"
    (three / "run/notebooks/01b_more.html").touch()
    report.write_index(three / "run")
    assert "01b more (optional)" in (three / "run/index.html").read_text()
    with pytest.raises(UsageError, match="no such notebook; there are 01_first, 01b_more, 02_second"):
        run(three, only=("01c",))


def test_an_optional_notebook_resumes_and_makes_no_other_run_again(three, no_kernels):
    run(three)
    run(three, only=("01b",))
    assert "nothing has changed" in run(three, only=("01b",))[0]
    assert "nothing has changed" in "".join(run(three))
    assert counts(three) == "abx"


def test_the_committed_optional_notebook_is_known():
    folder = project_root() / "notebooks"
    assert [path.name[:3] for path in parameters.select_notebooks(folder)] == [f"0{number}_" for number in range(1, 8)]
    for word in ("02b", "2b"):
        assert [path.name[:4] for path in parameters.select_notebooks(folder, [word])] == ["02b_"]
    assert [path.name[:3] for path in parameters.select_notebooks(folder, ["02"])] == ["02_"]
