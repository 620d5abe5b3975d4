"""What a user can get wrong: input, expected line, expected status (always 2), and nothing is written anywhere."""

import os
import re
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest

from phantoms import write_demo_data
from pipeline import __main__, record
from shared.run import TABLE_COLUMNS, write_json, write_text

SIDE = 32
P, MODEL, OUT = "run -p ", "predict a.png --model ", "predict a.png --model good.keras --out "
MINE = "holds files, but no run of this series"
TABLE = [
    (P + "EPOCS 3", "did you mean EPOCHS"), (P + "epochs 3", "did you mean EPOCHS"), (P + "QQQ 3", "known are"),
    (P + "EPOCHS 3.5", "not of type int"), (P + "EPOCHS True", "not of type int"),
    (P + "LEARNING_RATE fast", "not of type float"),
    (P + "SEEDS 3", "not of type list"), (P + "SEEDS [1,'a']", "int values only"),
    (P + "SEED 4294967296", "SEED: 4294967296 is not a whole number from"),
    (P + "DATASET cbis", "DATASET: 'cbis' is not one of demo, cbis-ddsm"), (P + "DATASET npz", "needs --data-dir"),
    (P + "PROFILE fast", "is not one of demo, full"), (P + "RUN_DIR x --run-dir y", "given twice"),
    (P + "DATA_DIR /nowhere/data", "no such directory"),
    ("run --data-dir ~nosuchuser/x", "no usable path.*home directory"), ("run --data-dir fifo", "no such directory"),
    ("run --data-dir a\udcffb", "usable path.*surrogates"), ("run --data-dir " + "l" * 300, "usable path.*too long"),
    ("run --dataset cbis-ddsm --data-dir one_class", "only one class"), ("run --data-dir one_class", "only one class"),
    ("run --data-dir mine", "no known layout"), ("run --data-dir two", "fits npz and mini-mias; say which"),
    ("run --run-dir ~nosuchuser/x", "no usable path.*home directory"), ("run --run-dir file/run", "cannot be written"),
    ("run --run-dir fifo", "cannot be written"), ("run --run-dir /", "give a folder of its own"),
    ("run --run-dir notebooks/..", MINE), ("run --run-dir mine", MINE), ("run --run-dir mine --force", MINE),
    ("run --weights nothing.h5", "no file"),
    ("run --weights ~nosuchuser/w.h5", "no usable path"), ("run --weights vgg16=file", "file: .*not an HDF5 file"),
    ("run --weights vgg16=mine", "no file"), ("demo-data --out file", "no folder"),
    ("demo-data --out new --layout xyz", "layout"), ("demo-data --out new --patients -1", "patients"),
    ("demo-data --out /proc/x", "cannot be written"), (MODEL + "no.keras", "no such file"),
    (MODEL + "fifo", "no such file"), (MODEL + "mine/run.json", "not a Keras model"),
    (MODEL + "unbuilt.keras", "cannot be run|not a Keras model"),
    (MODEL + "linear.keras", "linear.keras: .* no probability; end it in a sigmoid"),
    (MODEL + "nan.keras", "none of 1 images has a score.*no number"),
    (MODEL + "r/models/list.keras", "not as a run writes"), (MODEL + "r/models/dots.keras", "not as a run writes"),
    (MODEL + "good.keras --threshold 7", "not between 0 and 1"),
    ("predict fifo --model good.keras", "fifo: no such file or folder"),
    ("predict avif.png --model good.keras", "avif.png: not an image"),
    ("predict dds.png --model good.keras", "dds.png: not an image"),
    ("predict liar.jpg --model good.keras", "liar.jpg: (cannot be decoded|more than)"),
    (OUT + "/dev/null", "no regular file"), (OUT + "fifo", "no regular file"), (OUT + "mine", "no regular file"),
    (OUT + "/proc/x.csv", "cannot be written"), (OUT + "~nosuchuser/x", "no usable path"),
    ("export --model good.keras --out file", "no folder"), ("export --model good.keras", "no data/images.npy"),
    ("referee fifo", "fifo: cannot be read as CSV .no such file"), ("referee a.png", "a.png: cannot be read as CSV"),
    ("referee good.csv --out fifo", "no folder"), ("referee good.csv --out file/x", "cannot be written"),
    ("bench --quick --out fifo", "no regular file"), ("bench --only speed", "is not one of mammogram"),
]  # fmt: skip


def network(bias, activation="sigmoid"):
    """A network whose output is its bias."""
    pooled = keras.layers.GlobalAveragePooling2D()(inputs := keras.Input((SIDE, SIDE, 1)))
    start = keras.initializers.Constant(bias)
    output = keras.layers.Dense(1, activation, kernel_initializer="zeros", bias_initializer=start)(pooled)
    return keras.Model(inputs, output)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with every file that the table names."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").touch()
    os.mkfifo(folder / "fifo")
    write_json(folder / "mine/run.json", {"stages": ["letters"]})
    for name in ("0/a.npz", "1/a.npz", "Info.txt", "mdb001.pgm"):
        write_text(folder / "two" / name, "")
    for name in ("letter.txt", "data/demo/letter.txt", "data/manifest.csv", "results/.part-letter.txt"):
        write_text(folder / "mine" / name, "mine")
    write_demo_data(folder / "one_class", patients=6, n_jobs=1, progress=False)
    for path in folder.glob("one_class/csv/*_set.csv"):
        path.write_bytes(path.read_bytes().replace(b",MALIGNANT,", b",BENIGN,"))
    for name, model in {
        "good": network(0.0), "linear": network(3.0, None), "nan": network(np.nan),
        "unbuilt": keras.Sequential([keras.layers.Dense(1)]), "r/models/list": network(0.0),
        "r/models/dots": network(0.0),
    }.items():  # fmt: skip
        (folder / f"{name}.keras").parent.mkdir(parents=True, exist_ok=True)
        model.save(folder / f"{name}.keras")
    write_json(folder / "r/results/metrics/list.json", [1, 2])
    write_json(folder / "r/results/metrics/dots.json", dict.fromkeys(TABLE_COLUMNS, 0.5) | {"files": ["../../good"]})
    write_text(folder / "good.csv", "patient_id,label,score\n1,0,.1\n2,1,.2\n")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    cv2.imwrite(str(folder / "a.png"), noise)
    (folder / "dds.png").write_bytes(b"DDS " + bytes([124]) + bytes(200))
    (folder / "avif.png").write_bytes(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(200))
    jpeg = bytearray(cv2.imencode(".jpg", noise)[1].tobytes())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"  # 65,535 × 65,535 pixels
    (folder / "liar.jpg").write_bytes(jpeg)
    return folder


def contents(folder):
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path: path.is_file() and path.read_bytes() for path in files}


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(("command", "line"), TABLE, ids=[ascii(command)[:80] for command, _ in TABLE])
def test_one_line_and_status_2(place, write_notebook, monkeypatch, capsys, command, line):
    monkeypatch.chdir(place)
    monkeypatch.setattr(record, "hash_sources", lambda: "sources")
    write_notebook("01_first", "1", folder=place / "notebooks")
    before, arguments = contents(place), command.split()
    if command.startswith("run") and "--run-dir" not in arguments:
        arguments += ["--run-dir", "run"]
    assert __main__.main(arguments, notebooks_dir=place / "notebooks") == __main__.USAGE
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: .*({line}).*\n", error), error
    assert contents(place) == before


def test_a_foreign_package_called_shared_and_an_ascii_terminal(tmp_path, root):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/__init__.py").write_text("raise SystemExit(9)")
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONIOENCODING": "ascii"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([sys.executable, "-m", "pipeline", "run", "--run-dir", "\u2026", "--only", "99"], **options)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("error: --only 99: no such notebook.*\n", done.stderr)
