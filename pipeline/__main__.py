"""The command line: `python -m pipeline run`, `demo-data`, `predict`, `export`, `doctor`, `bench`.

Exit status 0: done; 1: a notebook failed; 2: wrong usage or unusable data; 130: interrupted.
"""

import argparse
import signal
import sys

from shared import __version__

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def build_parser():
    """Return the argument parser; nothing heavy is imported for it."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Mammogram classification notebooks, for research and teaching only, not for clinical use.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_demo_data(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_doctor(commands)
    _add_bench(commands)
    return parser


def _add_run(commands):
    run = commands.add_parser(
        "run",
        help="run the notebook series, or what of it has changed",
        description="Run the notebooks in order, headless. What is unchanged since the last time is not run again.",
    )
    run.add_argument("--dataset", metavar="NAME", help="data set (default: demo, generated on the spot)")
    run.add_argument("--data-dir", metavar="DIR", help="the folder that holds it")
    run.add_argument("--profile", choices=("demo", "full"), help="default: demo for the demo data, else full")
    run.add_argument("--run-dir", metavar="DIR", help="where everything goes (default: runs/<dataset> in the project)")
    run.add_argument("--weights", metavar="W", help="imagenet, demo, none, a Keras weights file, or backbone=file[,…]")
    run.add_argument("--only", nargs="+", default=(), metavar="NN", help="only these notebooks, e.g. --only 01 03")
    run.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a notebook parameter, e.g. -p EPOCHS 5 -p SEEDS '[0, 1, 2]'; may be repeated",
    )
    run.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler that takes the folds, e.g. tcp://HOST:8786"
    )
    run.add_argument("--force", action="store_true", help="run again what is unchanged, too")
    run.set_defaults(call=run_command)


def _add_demo_data(commands):
    demo = commands.add_parser(
        "demo-data",
        help="write the generated data set in any supported layout",
        description="Write the generated data set to a folder, in the layout of a real one.",
    )
    demo.add_argument("--out", required=True, metavar="DIR", help="folder to write to; new or empty")
    demo.add_argument("--layout", default="cbis-ddsm", metavar="NAME", help="default: cbis-ddsm")
    demo.add_argument("--patients", type=_positive, metavar="N", help="how many (default: the demo's own number)")
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    demo.set_defaults(call=demo_data_command)


def _add_predict(commands):
    predict = commands.add_parser(
        "predict",
        help="score new images with a saved model",
        description="Score images with a saved model, its own preprocessing and threshold. Not for clinical use.",
    )
    predict.add_argument("--model", required=True, metavar="FILE", help="models/<name>.keras of a run directory")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="files (DICOM, PNG, JPEG, PGM, NPZ …) or folders")
    predict.add_argument("--out", metavar="CSV", help="file to write (default: print)")
    predict.add_argument("--threshold", type=float, metavar="T", help="instead of the model's own")
    predict.set_defaults(call=predict_command)


def _add_export(commands):
    export = commands.add_parser(
        "export",
        help="write a saved model as TensorFlow Lite",
        description="Write a saved model as TensorFlow Lite and compare size, test AUC and time per image.",
    )
    export.add_argument("--model", required=True, metavar="FILE", help="models/<name>.keras of a run directory")
    export.add_argument("--out", metavar="DIR", help="folder to write to (default: beside the model)")
    export.add_argument("--kind", nargs="+", default=["float16", "int8"], choices=("float16", "int8"))
    export.set_defaults(call=export_command)


def _add_doctor(commands):
    doctor = commands.add_parser(
        "doctor",
        help="check Python, packages, GPU, memory, disk and cached weights",
        description="Check this machine: what is there, what is missing, how to get it.",
    )
    doctor.set_defaults(call=doctor_command)


def _add_bench(commands):
    bench = commands.add_parser(
        "bench",
        help="measure speed and memory beside what people use today",
        description="Measure both sides in one run, on generated files in a temporary directory.",
    )
    bench.add_argument("--only", nargs="+", default=(), metavar="NAME", help="some of the rows, e.g. mammogram epoch")
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    bench.add_argument("--out", metavar="FILE", help="JSON (default: runs/benchmark.json; none with --quick)")
    bench.set_defaults(call=bench_command)


def _positive(text):
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def run_command(arguments):
    """Run the series; see `pipeline.run_series`."""
    from pipeline import series as pipeline

    names = ("dataset", "data_dir", "profile", "run_dir", "weights", "scheduler", "force")
    options = pipeline.RunOptions(
        **{name: getattr(arguments, name) for name in names},
        only=tuple(arguments.only),
        parameters=tuple((name, value) for name, value in arguments.parameters),
    )
    pipeline.run_series(options, echo=_echo)
    return DONE


def demo_data_command(arguments):
    """Write the generated data set; see `demo_data.write_demo_data`."""
    from phantoms import write_demo_data

    write_demo_data(
        arguments.out,
        layout=arguments.layout,
        patients=arguments.patients,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )
    _echo(f"written: {arguments.out} (layout {arguments.layout})")
    return DONE


def predict_command(arguments):
    """Score images; see `predict.run`."""
    from pipeline import predict

    predict.run(
        arguments.model,
        arguments.images,
        out=arguments.out,
        threshold=arguments.threshold,
        echo=_echo,
        progress=sys.stderr.isatty(),
    )
    return DONE


def export_command(arguments):
    """Write TensorFlow Lite files; see `export.run`."""
    from pipeline import export

    export.run(arguments.model, out=arguments.out, kinds=arguments.kind, echo=_echo)
    return DONE


def doctor_command(arguments):
    """Check this machine; see `doctor.check`."""
    from pipeline import doctor

    return DONE if doctor.check(echo=_echo) else FAILED


def bench_command(arguments):
    """Measure; see `benchmarks.bench.run`."""
    from shared.run import project_root

    sys.path.insert(0, str(project_root()))  # benchmarks/ is no part of the package
    from benchmarks import bench

    default = None if arguments.quick else project_root() / "runs/benchmark.json"
    bench.run(
        only=arguments.only,
        quick=arguments.quick,
        out=arguments.out or default,
        echo=_echo,
        progress=sys.stderr.isatty(),
    )
    return DONE


def main(argv=None):
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    from shared.run import DataError, UsageError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return arguments.call(arguments)
    except (DataError, UsageError) as error:
        return _complain(error, USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted; the same command goes on from here", INTERRUPTED)
    except BrokenPipeError:
        return FAILED
    except RuntimeError as error:
        if not hasattr(error, "where"):
            raise
        return _complain(f"{error}\nexecuted up to there: {error.where}", FAILED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}; nothing that was done before is lost", FAILED)


def _interrupt(signal_number, frame):
    raise KeyboardInterrupt


def _complain(message, status):
    print(f"error: {message}" if status != INTERRUPTED else message, file=sys.stderr, flush=True)
    return status


def _echo(line):
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
