"""Run one notebook: with parameters into a copy, or in place to renew its stored outputs. No TensorFlow here."""

import ast
import contextlib
import json
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import psutil

from shared.run import DataError, UsageError, files

PARAMETERS_TAG = "parameters"
USER_ERRORS = (DataError.__name__, UsageError.__name__)
KEPT_CELL_METADATA = ("tags",)
MEMORY_INTERVAL = 0.25  # seconds between two looks at the kernel's memory

# A kernel that leaves, once all else that waits for its end has been done, without taking TensorFlow apart: 1.3 s.
KERNEL = (
    "import atexit, os, runpy; atexit.register(os._exit, 0); "
    "runpy.run_module('ipykernel_launcher', run_name='__main__')"
)


class NotebookError(RuntimeError):
    """A cell failed. Exit status 1. `where` is the executed copy, up to and with the failed cell."""

    def __init__(self, message, *, where):
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class Execution:
    """What one notebook took: wall-clock `seconds`, and `peak_memory_mb` of all kernels and their children."""

    seconds: float
    peak_memory_mb: float


def read_notebook(path):
    """Read an `.ipynb` file as a dict; raises DataError where it is not one."""
    notebook = files.read_json(path)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise DataError(f"{path}: not a notebook (no list of cells)")
    return notebook


def source_of(cell):
    """Return a cell's source as one string; files hold it as a string or as a list of lines."""
    return "".join(cell.get("source", ""))


def tags_of(cell):
    """Return a cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def code_of(notebook):
    """Return the sources of the code cells, in order."""
    return [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def default_parameters(notebook):
    """Return {NAME: default} of the cell tagged `parameters`, empty where there is none.

    Raises:
        DataError: an assignment in that cell that is not `NAME = literal`.
    """
    parameters = {}
    for cell in notebook["cells"]:
        if PARAMETERS_TAG not in tags_of(cell):
            continue
        for node in ast.parse(source_of(cell)).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            try:
                (target,) = targets
                parameters[target.id] = ast.literal_eval(node.value)
            except (AttributeError, TypeError, ValueError):
                raise DataError(f"parameters cell: `{ast.unparse(node)}` is not NAME = literal") from None
    return parameters


def imports_of(code):
    """Return the modules that a notebook's cells import, as names of which some may be a module's functions."""
    names = []
    for source in code:
        try:
            body = ast.parse(source).body
        except SyntaxError:  # a magic command
            continue
        for node in body:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@contextlib.contextmanager
def kernel_reserve(*, cwd, run_dir):
    """Give a function that starts a notebook's kernel, and that of the notebook after it.

    Starting Python and importing TensorFlow takes five seconds, mostly on one core: the next kernel does so, by the
    imports of its own notebook, while this one works. All kernels are stopped at the end.

    Args:
        cwd: the kernels' working directory.
        run_dir: what MAMMO_RUN_DIR is to be for them.
    Yields:
        function (code, next_code or None) -> kernel manager, for `execute_copy`; `code` as from `code_of`, a tuple.
        It stops the kernel that it gave before; no kernel serves two notebooks.
    """
    from jupyter_core.utils import run_sync

    working, spare = {}, {}  # {code: kernel}, one at most in each

    def start(code):
        kernel = _kernel_manager()
        lines = [f"--IPKernelApp.exec_lines=__import__({name!r});" for name in imports_of(code)]
        with _kernel_environment(run_dir):
            run_sync(kernel.start_kernel)(cwd=str(cwd), extra_arguments=lines)
        return kernel

    def stop(kernels):
        while kernels:
            run_sync(kernels.popitem()[1].shutdown_kernel)()

    def take(code, next_code):
        stop(working)
        working[code] = spare.pop(code, None) or start(code)
        stop(spare)  # of a notebook that need not run after all
        if next_code is not None:
            spare[next_code] = start(next_code)
        return working[code]

    try:
        yield take
    finally:
        stop(working)
        stop(spare)


def execute_copy(source, target, parameters, *, kernel, progress=None):
    """Execute notebook `source` with papermill and write the executed copy to `target`.

    The copy appears under its name once the notebook has ended well; where a cell failed it is kept as
    `<target stem>.failed.ipynb`. `source` itself is only read.

    Args:
        source: path of the notebook.
        target: path of the executed copy.
        parameters: {NAME: value} to inject.
        kernel: as from `kernel_reserve`.
        progress: options of a tqdm bar over the cells, or None for no bar.
    Returns:
        Execution
    Raises:
        NotebookError: a cell failed, or the kernel died.
        DataError, UsageError: a cell raised one of these.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    target = Path(target).resolve()
    failed = target.with_suffix(".failed.ipynb")
    start = time.monotonic()
    with files.atomic_write(target) as temporary, peak_memory() as peak:
        try:
            papermill.execute_notebook(
                _load_node(source),
                str(temporary).replace("{", "{{").replace("}", "}}"),  # papermill formats its paths
                parameters=parameters,
                progress_bar=progress or False,
                kernel_name="python3",
                language="python",
                km=kernel,
                coalesce_streams=True,
                start_timeout=120,
            )
        except PapermillExecutionError as error:
            temporary.replace(failed)
            failed.chmod(0o644)
            raise _as_user_error(error, source, failed) from None
        except (RuntimeError, OSError) as error:  # the kernel died, or could not start
            if temporary.stat().st_size:
                temporary.replace(failed)
            hint = "" if isinstance(error, OSError) else " (a kernel that dies has often run out of memory)"
            message = f"{Path(source).name}: {_one_line(error)}{hint}"
            raise NotebookError(message, where=failed) from error
        _hide_temporary_name(temporary, target)
    failed.unlink(missing_ok=True)
    return Execution(round(time.monotonic() - start, 2), round(peak[0] / 2**20, 1))


def execute_in_place(path, *, run_dir):
    """Execute a committed notebook with its own defaults and store its outputs cleaned, tags kept.

    Args:
        path: the notebook, in `notebooks/`; the kernel starts in its folder, as JupyterLab's does.
        run_dir: where its results go.
    Returns:
        Execution
    Raises:
        NotebookError, DataError, UsageError: as `execute_copy`; the notebook is then left as it was.
    """
    import nbformat

    path = Path(path).resolve()
    copy = Path(run_dir) / "notebooks" / path.name
    with kernel_reserve(cwd=path.parent, run_dir=run_dir) as kernel_for:
        execution = execute_copy(path, copy, {}, kernel=kernel_for(tuple(code_of(read_notebook(path))), None))
    files.write_text(path, nbformat.writes(clean(nbformat.read(copy, as_version=4))) + "\n")
    return execution


def clean(node):
    """Drop from an executed notebook what differs from run to run or machine to machine; outputs and tags stay.

    Gone are: error stream, widget state, timing and tool metadata, kernel and Python versions. Execution counts
    are renumbered 1…n.
    """
    node.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    count = 0
    for cell in node.cells:
        cell.metadata = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return node


def write_html(notebook, *, index="../index.html"):
    """Write an executed notebook as one HTML file beside it, pictures embedded.

    Links between notebooks become links between the HTML files, the link to the README one to `index`. No script
    is loaded from elsewhere, but MathJax where the text holds formulas.

    Args:
        notebook: path of the executed `.ipynb`.
    Returns:
        pathlib.Path: the `.html` file.
    """
    from nbconvert.exporters.html import HTMLExporter

    notebook = Path(notebook)
    exporter = HTMLExporter(embed_images=True, require_js_url="", exclude_anchor_links=True)
    page, _ = exporter.from_filename(str(notebook))
    page = re.sub(r'href="([^":/]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', page)
    page = page.replace('href="../README.md"', f'href="{index}"').replace('<script src=""></script>', "")
    if not _has_formulas(read_notebook(notebook)):
        page = re.sub(r'<script src="[^"]*mathjax[^"]*">\s*</script>', "", page, flags=re.IGNORECASE)
    target = notebook.with_suffix(".html")
    files.write_text(target, page)
    return target


@contextlib.contextmanager
def peak_memory():
    """Give a one-item list whose item grows to the most bytes that this process's children held together.

    Resident memory, looked at several times a second; pages that two processes share count twice.
    """
    peak, stop, me = [0], threading.Event(), psutil.Process()

    def watch():
        while not stop.wait(MEMORY_INTERVAL):
            total = 0
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _load_node(source):
    import nbformat

    return nbformat.read(source, as_version=4)


def _kernel_manager():
    """Return a manager of a kernel that is this very interpreter, whatever a machine has registered as `python3`."""
    import logging

    import zmq
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        @default("transport_encryption")
        def _encrypt_where_possible(self):  # else the kernel warns that others on the machine could listen
            return "auto" if zmq.has("curve") else "disabled"

        @property
        def kernel_spec(self):
            argv = [sys.executable, "-c", KERNEL, "-f", "{connection_file}"]
            return KernelSpec(**{**get_kernel_dict(), "argv": argv})

        async def start_kernel(self, **options):  # what the kernel says past the notebook is not for the user
            await self._async_start_kernel(stdout=DEVNULL, stderr=DEVNULL, **options)

    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    return ThisPython(kernel_name="python3")


@contextlib.contextmanager
def _kernel_environment(run_dir):
    values = {
        "MAMMO_RUN_DIR": str(run_dir),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger writes a warning past the notebook
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _as_user_error(error, source, failed):
    message = _one_line(error.evalue)
    if error.ename in USER_ERRORS:
        return {"DataError": DataError, "UsageError": UsageError}[error.ename](message)
    where = f"{Path(source).name}: cell In [{error.exec_count}] (`{_failed_line(error)}`)"
    return NotebookError(f"{where}: {error.ename}{f': {message}' if message else ''}", where=failed)


def _failed_line(error):
    """Find the cell's line that failed: IPython marks it with an arrow, the cell's own frame first."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    marked = re.search(r"^-+> \d+ (.*)$", plain, flags=re.MULTILINE)
    lines = [marked[1]] if marked else error.source.strip().splitlines() or [""]
    return lines[0].strip()


def _one_line(value):
    return " ".join(str(value).split())


def _hide_temporary_name(temporary, target):
    node = json.loads(temporary.read_text(encoding="utf-8"))
    node["metadata"].get("papermill", {}).update(output_path=target.name)
    temporary.write_text(json.dumps(node, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _has_formulas(notebook):
    text = "\n".join(source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return bool(re.search(r"\$\$|\$[^$\n]+\$", text))
