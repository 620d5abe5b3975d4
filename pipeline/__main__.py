"""The command line. Exit status 0: done; 1: a notebook failed; 2: wrong usage or unusable data; 130: interrupted."""

from __future__ import annotations  # an old Python gets as far as `main`, which says so

import argparse
import importlib
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import __version__

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
OLDEST_PYTHON = (3, 11)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser; nothing heavy is imported for it."""
    about = "Mammogram classification notebooks, for research and teaching only, not for clinical use."
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=about)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the notebook series in order, headless, or what of it has changed")
    run.add_argument("--dataset", metavar="NAME", help="data set (default: what DIR holds; without DIR the demo data)")
    run.add_argument("--data-dir", metavar="DIR", help="the folder that holds it")
    run.add_argument("--profile", choices=("demo", "full"), help="default: demo for the demo data, else full")
    run.add_argument("--run-dir", metavar="DIR", help="where everything goes (default: runs/<dataset> in the project)")
    run.add_argument("--weights", metavar="W", help="imagenet, demo, none, a Keras weights file, or backbone=file,...")
    run.add_argument("--only", nargs="+", default=(), metavar="NN", help="only these notebooks, e.g. --only 01 03")
    parameter = "a notebook parameter, e.g. -p EPOCHS 5 -p SEEDS '[0, 1, 2]'; may be repeated"
    options: dict[str, Any] = {"dest": "parameters", "nargs": 2, "action": "append", "default": []}
    run.add_argument("-p", "--parameter", **options, metavar=("NAME", "VALUE"), help=parameter)
    run.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler that takes the folds, tcp://HOST:8786")
    run.add_argument("--force", action="store_true", help="run again what is unchanged, too")

    demo = commands.add_parser("demo-data", help="write the generated data set in any supported layout")
    demo.add_argument("--out", required=True, metavar="DIR", help="folder to write to; new or empty")
    demo.add_argument("--layout", default="cbis-ddsm", metavar="NAME", help="default: cbis-ddsm")
    demo.add_argument("--patients", type=int, metavar="N", help="how many (default: the demo's own number)")
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    demo.add_argument("--fault", default="", choices=("marker", "outcome"), help="plant one, for docs/teaching.md")

    add_model_commands(commands)
    add_referee(commands)
    doctor = commands.add_parser("doctor", help="check Python, packages, GPU, memory, disk and cached weights")
    doctor.add_argument("--data-dir", metavar="DIR", help="say what this folder holds instead")
    doctor.add_argument("--dataset", metavar="NAME", help="its layout (default: told from the files)")
    bench = commands.add_parser("bench", help="measure speed and memory beside what people use today")
    bench.add_argument("--only", nargs="+", default=(), metavar="NAME", help="some of the rows, e.g. mammogram epoch")
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    bench.add_argument("--out", metavar="FILE", help="JSON (default: runs/benchmark.json; none with --quick)")
    return parser


def add_model_commands(commands: Any) -> None:
    """Add the commands that take a saved model."""
    predict = commands.add_parser("predict", help="score new images with a saved model, its own steps and threshold")
    model: dict[str, Any] = {"dest": "model_file", "required": True, "metavar": "FILE"}
    predict.add_argument("--model", **model, help="models/<name>.keras of a run directory")
    predict.add_argument("places", nargs="+", metavar="IMAGE", help="files (DICOM, PNG, JPEG, PGM, NPZ ...) or folders")
    predict.add_argument("--out", metavar="CSV", help="file to write (default: print)")
    predict.add_argument("--threshold", type=float, metavar="T", help="instead of the model's own")
    box = "score this part of each image, in pixels: what a model of crops needs of a whole mammogram"
    predict.add_argument("--box", metavar="x,y,w,h", help=box)

    export = commands.add_parser("export", help="write a saved model for phones and servers, and measure what it costs")
    export.add_argument("--model", **model, help="models/<name>.keras of a run directory")
    export.add_argument("--out", metavar="DIR", help="folder to write to (default: beside the model)")
    kinds = ("float32", "float16", "int8", "onnx")  # pipeline.export.KINDS, whose import takes seconds
    options = {"dest": "kinds", "nargs": "+", "default": ("float16", "int8"), "choices": kinds}
    export.add_argument("--kind", **options, help="default: float16 int8")


def add_referee(commands: Any) -> None:
    """Add the command that judges prediction files."""
    referee = commands.add_parser("referee", help="judge anyone's predictions: intervals, paired tests, warnings")
    referee.add_argument("files", nargs="+", metavar="CSV", help="columns patient_id, label, score, or their synonyms")
    referee.add_argument("--out", default="referee", metavar="DIR", help="folder to write to (default: referee)")
    referee.add_argument("--prevalence", type=float, default=0.005, metavar="P", help="share of class 1 (default .005)")


def run_command(options: argparse.Namespace, notebooks_dir: Path | str | None) -> int:
    """Carry out what the arguments ask for and return the exit status; each command imports what it needs."""
    words = dict(vars(options))
    progress = sys.stderr.isatty()
    command = words.pop("command")
    if command == "run":
        from pipeline.series import RunOptions, run_series

        words.update(only=tuple(options.only), parameters=tuple(map(tuple, options.parameters)))
        run_series(RunOptions(**words), notebooks_dir=notebooks_dir, echo=echo)
    elif command == "demo-data":
        from phantoms import Difficulty, write_demo_data
        from shared.run import UsageError, check_out

        words.update(out=check_out(words["out"], is_folder=True), difficulty=Difficulty(fault=words.pop("fault")))
        try:
            write_demo_data(**words, progress=progress)
        except (ValueError, OSError) as error:
            raise UsageError(str(error)) from None
        echo(f"written: {options.out} (layout {options.layout})")
    elif command == "bench":
        from benchmarks import bench
        from shared.run import check_out, project_root

        out = options.out or (None if options.quick else project_root() / "runs/benchmark.json")
        bench.run(**words | {"out": out and check_out(out)}, echo=echo, progress=progress)
    elif command == "doctor":
        from pipeline import doctor

        if options.data_dir is not None:
            doctor.check_data(options.data_dir, dataset=options.dataset, echo=echo)
            return DONE
        return DONE if doctor.check(echo=echo) else FAILED
    else:  # predict, export, referee
        importlib.import_module(f"pipeline.{command}").run(**words, echo=echo)
    return DONE


def main(arguments: Sequence[str] | None = None, *, notebooks_dir: Path | str | None = None) -> int:
    """Run the command line and return the exit status; `notebooks_dir` is used instead of the project's."""
    for stream in (sys.stdout, sys.stderr):  # an encoding may lack a letter of a name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = build_parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, as Ctrl-C does
    try:
        if sys.version_info[:2] < OLDEST_PYTHON:
            raise ImportError("this Python is {}.{}".format(*sys.version_info))
        from shared.run import DataError, UsageError

        return run_command(options, notebooks_dir)
    except ImportError as error:  # first: the names of the others may be what is missing
        reason = f"{error.name} is missing" if isinstance(error, ModuleNotFoundError) else " ".join(str(error).split())
        message, status = f"error: {reason}: pip install -r requirements.txt (Python 3.11 to 3.13)", USAGE
    except (DataError, UsageError) as error:
        message, status = f"error: {error}", USAGE
    except KeyboardInterrupt:
        message, status = "interrupted; the same command goes on from here", INTERRUPTED
    except RuntimeError as error:
        if not hasattr(error, "where"):
            raise
        message, status = f"error: {error}\nexecuted up to there: {error.where}", FAILED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        message, status = f"error: {place}{error.strerror or error}; nothing that was done before is lost", FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    print(message, file=sys.stderr, flush=True)
    return status


def echo(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
