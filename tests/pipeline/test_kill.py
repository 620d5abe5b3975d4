"""Killed at any moment and started again; a disk that fills up: nothing half-written, nothing lost.

By hand, half an hour with the real notebooks on the demo data: MAMMO_KILL_RUNS=20 pytest tests/test_kill.py -k any
"""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from pipeline import __main__
from pipeline import series as pipeline
from shared.data import images, preparation
from shared.evaluation import result_files
from shared.run import Settings, files

pytestmark = pytest.mark.usefixtures("clean_environment")

KILLS = int(os.environ.get("MAMMO_KILL_RUNS", 0))
PREPARE = """
from shared import artifacts, config, evaluation, preparation
settings = config.resolve_settings(globals())
prepared = preparation.prepare(settings)
"""
SCORE = """
import time
import numpy as np
results = evaluation.score_baselines(prepared)
for number in range(40):  # many small writes, so that some kills strike in one
    files.write_array(settings.run_dir / "results/noise.npy", np.arange(10_000) * number)
    files.write_json(settings.run_dir / "results/noise.json", list(range(3_000)))
    time.sleep(0.01)
"""
MODEL = """
scores = 1 - prepared.images[:].mean(axis=(1, 2)) / 255
result = evaluation.evaluate(prepared, "darkness", scores)
"""
SCRIPT = """
import sys
from shared import __main__, pipeline
pipeline.run_series.__kwdefaults__["notebooks_dir"] = sys.argv[1]
pipeline._hash_sources = lambda: "sources"
sys.exit(__main__.main(["run", *sys.argv[2:]]))
"""


@pytest.fixture
def data_dir(tmp_path):
    """Sixty small pictures in two class folders."""
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / f"data/{('cancer', 'non_cancer')[number % 2]}/P_{number:05d}_LEFT_CC_1.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, rng.integers(30 + number % 2, 256, (24, 20)).astype(np.uint8))
    return tmp_path / "data"


@pytest.fixture
def command(tmp_path, data_dir, write_notebook):
    """A function: run directory -> the command line of a run into it."""
    if KILLS:
        return lambda run_dir, *more: [sys.executable, "-m", "pipeline", "run", "--run-dir", str(run_dir), *more]
    write_notebook("01_prepare", PREPARE, SCORE)
    write_notebook("02_model", PREPARE, MODEL)
    options = ["--dataset", "npz", "--data-dir", str(data_dir), "--profile", "demo"]
    return lambda run_dir, *more: [
        *(sys.executable, "-c", SCRIPT, str(tmp_path / "notebooks")),
        *(*options, "--run-dir", str(run_dir), *more),
    ]


def start(command, **options):
    environment = {**os.environ, "PYTHONPATH": str(pipeline.project_root())}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **options)


def kill(process, *, kernel_too):
    """End a run without warning; its kernel is in a session of its own, and else ends itself a second later."""
    children = psutil.Process(process.pid).children(recursive=True) if kernel_too else []
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.communicate()


def check_whole(run_dir):
    """Every file that is there under its name can be read; a kernel that ends itself may still remove some."""
    for path in list(run_dir.rglob("*")):
        if not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                read_whole(path)


def read_whole(path):
    if path.suffix in (".json", ".ipynb"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        pd.read_csv(path)
    elif path.suffix == ".npy":
        np.load(path, allow_pickle=False)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            assert [arrays[name] for name in arrays]
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path


def results(run_dir):
    """What must not depend on kills: {file: content}, without the time a training took."""
    table = result_files.load_table(run_dir).drop(columns="train_seconds")
    found = {"table": table.to_csv(index=False)}
    for path in [*(run_dir / "results/predictions").glob("*.csv"), run_dir / "data/manifest.csv"]:
        found[path.name] = path.read_text(encoding="utf-8")
    found["images"] = np.load(run_dir / "data/images.npy").tobytes()
    return found


def test_killed_at_any_moment_a_run_ends_as_if_undisturbed(tmp_path, command, capsys):
    rng = random.Random(0)
    begin = time.monotonic()
    undisturbed = start(command(tmp_path / "undisturbed"))
    _, error = undisturbed.communicate()
    assert undisturbed.returncode == 0, error
    usual = time.monotonic() - begin

    run_dir, more = tmp_path / "killed", ()
    for number in range(KILLS or 5):
        process = start(command(run_dir, *more))
        if number == 0:
            refuse_a_second_run(tmp_path, run_dir, process, capsys)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.05, 0.35) * usual)
        more = ("--force",) if process.poll() == 0 else ()
        if process.poll() is None:
            kill(process, kernel_too=number % 2 == 0)
        else:
            assert process.returncode == 0, process.stderr.read()
        check_whole(run_dir)
    last = start(command(run_dir))
    _, error = last.communicate()
    assert last.returncode == 0, error
    check_whole(run_dir)
    assert results(run_dir) == results(tmp_path / "undisturbed")
    assert json.loads((run_dir / "run.json").read_text())["status"] == "done"
    assert not list(run_dir.rglob(".part-*"))


def refuse_a_second_run(tmp_path, run_dir, process, capsys):
    lock = run_dir / pipeline.LOCK_FILE
    while process.poll() is None and not (lock.exists() and lock.read_text() == str(process.pid)):
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    options = ["--run-dir", str(run_dir)]
    if not KILLS:
        options += ["--dataset", "npz", "--data-dir", str(tmp_path / "data"), "--profile", "demo"]
    assert __main__.main(["run", *options]) == __main__.USAGE
    error = capsys.readouterr().err
    assert f"another run is going on there (process {process.pid})" in error
    assert len(error.splitlines()) == 1


# ------------------------------------------------------------------ full disk
def test_a_disk_that_is_full_keeps_what_was_there(tmp_path, data_dir, write_notebook):
    """No file may grow beyond 300 kB, so that the larger image store of the second run cannot be written."""
    resource = pytest.importorskip("resource")
    score = "from shared import evaluation\nresults = evaluation.score_baselines(prepared)"
    write_notebook("01_prepare", f"IMAGE_SIZE = EPOCHS or 32{PREPARE}", score)
    options = ["--dataset", "npz", "--data-dir", str(data_dir), "--profile", "demo", "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "notebooks"), *options]
    first = start(command)
    _, error = first.communicate()
    assert first.returncode == 0, error
    before = results(tmp_path / "run")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    second = start([*command, "-p", "EPOCHS", "96"], preexec_fn=limit)
    _, error = second.communicate()
    assert second.returncode == __main__.FAILED, error
    assert "OSError: [Errno 27] File too large" in error.splitlines()[0]
    assert "Traceback" not in error
    assert results(tmp_path / "run") == before
    check_whole(tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".part-*"))


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})
    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert files.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("name", ["write_csv", "write_json", "write_array"])
def test_a_disk_full_while_preparing_loses_nothing(tmp_path, data_dir, monkeypatch, name):
    settings = Settings("npz", data_dir, tmp_path / "run", image_size=16, n_folds=2)
    preparation.prepare(settings)
    monkeypatch.setattr(files, name, full)
    with contextlib.suppress(OSError):
        preparation.prepare(Settings(**{**settings.__dict__, "image_size": 24}))
    monkeypatch.undo()
    check_whole(tmp_path / "run")
    again = preparation.prepare(settings)
    assert again.images.shape == (60, 16, 16)


def test_a_store_is_whole_where_the_system_writes_in_parts(tmp_path, data_dir, monkeypatch):
    """A disk that fills up takes a part of a block and reports that, not an error."""
    settings = Settings("npz", data_dir, tmp_path / "run", image_size=16, n_folds=2)
    expected = preparation.prepare(settings).images[:]
    real = os.pwrite
    monkeypatch.setattr(images.os, "pwrite", lambda handle, content, at: real(handle, content[:1000], at))
    (tmp_path / "run/data/images.json").unlink()
    assert np.array_equal(preparation.prepare(settings).images, expected)
    (tmp_path / "run/data/images.json").unlink()
    monkeypatch.setattr(images.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        preparation.prepare(settings)
    monkeypatch.undo()
    check_whole(tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".part-*"))
