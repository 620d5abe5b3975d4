"""A run killed at any moment and started again, a second run meanwhile: nothing half-written.

By hand, half an hour with the real notebooks on the demo data: MAMMO_KILL_RUNS=5 pytest tests/pipeline/test_kill.py
"""

import contextlib
import functools
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
from shared.evaluation import load_table
from shared.run import project_root, read_json

pytestmark = pytest.mark.usefixtures("clean_environment")

READ = {".json": read_json, ".ipynb": read_json, ".csv": pd.read_csv, ".npy": np.load}
KILLS = int(os.environ.get("MAMMO_KILL_RUNS", 0))
PREPARE = """
from shared import data, evaluation, run
settings = run.resolve_settings(globals() | {"IMAGE_SIZE": 32})
prepared = data.prepare(settings)
"""
SCORE = """
import time
results = evaluation.score_baselines(prepared)
for number in range(40):  # a file like a network's that is written slowly, so that kills strike in the middle of it
    with run.atomic_write(settings.run_dir / "models/network.npy") as temporary, temporary.open("wb") as file:
        content = (settings.run_dir / "data/images.npy").read_bytes()
        file.write(content[:5000])
        file.flush()
        time.sleep(0.02)
        file.write(content[5000:])
    run.write_json(settings.run_dir / "results/noise.json", list(range(3_000)))
"""
MODEL = """
scores = 1 - prepared.images[:].mean(axis=(1, 2)) / 255
result = evaluation.evaluate(prepared, "darkness", scores)
"""
SCRIPT = """
import sys
from pipeline import __main__, record
record.hash_sources = lambda: "sources"
sys.exit(__main__.main(["run", *sys.argv[2:]], notebooks_dir=sys.argv[1]))
"""


@pytest.fixture
def command(tmp_path, write_notebook):
    """A function: run directory -> the command line of a run into it, on sixty small pictures in two class folders."""
    if KILLS:
        return lambda run_dir, *more: [sys.executable, "-m", "pipeline", "run", "--run-dir", str(run_dir), *more]
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / f"data/{('cancer', 'non_cancer')[number % 2]}/P_{number:05d}_LEFT_CC_1.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, rng.integers(30 + number % 2, 256, (24, 20)).astype(np.uint8))
    write_notebook("01_prepare", PREPARE, SCORE)
    write_notebook("02_model", PREPARE, MODEL)
    options = ["--dataset", "npz", "--data-dir", str(tmp_path / "data"), "--profile", "demo"]
    script = [sys.executable, "-c", SCRIPT, str(tmp_path / "notebooks"), *options, "--run-dir"]
    return lambda run_dir, *more: [*script, str(run_dir), *more]


def start(command):
    environment = {**os.environ, "PYTHONPATH": str(project_root())}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # a shell's background job ignores Ctrl-C, and so would its children
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=listen, **pipes)


def kill(process, *, kernel_too):
    """End a run without warning; its kernel is in a session of its own, and else ends itself a second later."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children if kernel_too else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=20)


def check_whole(run_dir):
    """Every file that is there under its name can be read."""
    for path in run_dir.rglob("*"):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path
        elif path.suffix in READ:
            READ[path.suffix](path)


def results(run_dir):
    """What must not depend on kills: {file: content}, without the time a training took."""
    found = {"table": load_table(run_dir).drop(columns="train_seconds").to_csv(index=False)}
    for path in [*(run_dir / "results/predictions").glob("*.csv"), run_dir / "data/manifest.csv"]:
        found[path.name] = path.read_text(encoding="utf-8")
    found["images"] = np.load(run_dir / "data/images.npy").tobytes()
    return found


def test_killed_at_any_moment_a_run_ends_as_if_undisturbed(tmp_path, command, capsys):
    rng, begin = random.Random(0), time.monotonic()
    undisturbed = start(command(tmp_path / "undisturbed"))
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    usual = time.monotonic() - begin

    run_dir, more = tmp_path / "killed", ()
    for number in range(KILLS or 3):
        process = start(command(run_dir, *more))
        if number == 0:
            refuse_a_second_run(run_dir, process, capsys)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.2, 0.7) * usual)
        more = ("--force",) if process.poll() == 0 else ()
        if process.poll() is None:
            kill(process, kernel_too=number % 2 == 0)
        else:
            assert process.returncode == 0, process.stderr.read()
        check_whole(run_dir)
    last = start(command(run_dir))
    assert last.wait() == 0, last.stderr.read()
    check_whole(run_dir)
    assert results(run_dir) == results(tmp_path / "undisturbed")
    assert read_json(run_dir / "run.json")["status"] == "done"
    assert not list(run_dir.rglob(".part-*"))


def refuse_a_second_run(run_dir, process, capsys):
    while process.poll() is None and not (run_dir / "run.json").exists():
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    options = ["--dataset", "npz", "--data-dir", str(run_dir.parent)] if not KILLS else []
    assert __main__.main(["run", "--run-dir", str(run_dir), *options]) == __main__.USAGE
    (error,) = capsys.readouterr().err.splitlines()
    assert "another run is going on there" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_the_user_it_ends_at_once_with_its_kernel(tmp_path, write_notebook, number):
    touch = "import os, pathlib\nrun = pathlib.Path(os.environ['MAMMO_RUN_DIR'])\n(run / 'here').touch()"
    write_notebook("01_first", touch, "import time\nfor _ in range(600): time.sleep(.05)")
    process = start([sys.executable, "-c", SCRIPT, str(tmp_path / "notebooks"), "--run-dir", str(tmp_path / "run")])
    while not (tmp_path / "run/here").exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == __main__.INTERRUPTED
    assert error.strip() == "interrupted; the same command goes on from here"
    assert read_json(tmp_path / "run/run.json")["status"] == "failed"
    assert not psutil.wait_procs(kernels, timeout=20)[1]
    assert not list((tmp_path / "run").rglob(".part-*"))
