"""Run one notebook: with parameters into a copy, or in place to renew its stored outputs. No TensorFlow here."""

import contextlib
import html
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil

from shared.run import DataError, UsageError, atomic_write, project_root, write_text

USER_ERRORS = {"DataError": DataError, "UsageError": UsageError}
MEMORY_INTERVAL = 0.25  # seconds between two looks at the kernel's memory
WIDGET = "application/vnd.jupyter.widget-view+json"
IMAGES = {"image/png", "image/jpeg"}
NO_TEXT = "No description has been provided for this image"  # nbconvert's alternative text for every figure
# what a kernel says past the notebook when it ends: of a task that it had not finished
QUIET = "__import__('logging').getLogger('asyncio').setLevel('CRITICAL')"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class NotebookError(RuntimeError):
    """A cell failed. Exit status 1. `where` is the executed copy, up to and with the failed cell."""

    def __init__(self, message: str, *, where: Path) -> None:
        super().__init__(message)
        self.where = where


def execute_copy(
    source: Path, target: Path, parameters: dict, *, run_dir: Path, cwd: Path | None = None, progress: Any = False
) -> dict[str, float]:
    """Execute notebook `source` with papermill, in a kernel of its own, with `parameters` {NAME: value} injected.

    The executed copy is `target` once the notebook has ended well; else it is `<target stem>.failed.ipynb`. `run_dir`
    is what MAMMO_RUN_DIR is to be for it. The kernel starts in `cwd`, or the project's root. `progress` holds {name:
    value}, options of a tqdm bar over the cells; False for none.
    Returns `seconds`, and `peak_memory_mb` of the kernel and its children.
    Raises NotebookError: a cell failed, or the kernel died. DataError, UsageError: a cell raised one of these.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of the task that an interrupted cell leaves
    # nobody else on the machine listens; and half a second is enough to tidy up in: all files are written by then
    manager = {"transport_encryption": "auto", "shutdown_wait_time": 1}
    failed, begun = target.with_suffix(".failed.ipynb"), []  # cells, with the outputs they have got
    start = time.monotonic()
    with atomic_write(target) as temporary, watch_kernel(run_dir) as peak:
        try:
            node = papermill.execute_notebook(
                *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, temporary)),  # it formats paths
                parameters=parameters,
                kernel_name="python3",
                cwd=cwd or project_root(),
                progress_bar=progress,
                start_timeout=120,
                request_save_on_cell_execute=False,  # it would write the whole notebook twice a cell
                autosave_cell_every=0,
                on_cell_start=lambda cell, cell_index: begun.append(cell),
                coalesce_streams=True,
                config=Config(KernelManager=manager),
                extra_arguments=["--log-level=CRITICAL", f"--IPKernelApp.exec_lines={QUIET}"],
            )
        except PapermillExecutionError as error:
            temporary.replace(failed)
            raise as_user_error(error, source, failed) from None
        except RuntimeError as error:  # the kernel died, or did not start
            nbformat.write(nbformat.v4.new_notebook(cells=begun, metadata={"kernelspec": KERNEL}), failed)
            message = f"{source.name}: {' '.join(str(error).split())} (a kernel that dies has often run out of memory)"
            raise NotebookError(message, where=failed) from error
        node.metadata.pop("widgets", None)  # a slider needs its kernel; a page that keeps its state loads scripts
        node.metadata.papermill.update(input_path=source.name, output_path=target.name)
        nbformat.write(node, temporary)
    failed.unlink(missing_ok=True)
    return {"seconds": round(time.monotonic() - start, 2), "peak_memory_mb": round(peak[0] / 2**20, 1)}


def as_user_error(error: Any, source: Path, failed: Path) -> Exception:
    """Turn papermill's error into the cell's own DataError or UsageError, else into a NotebookError of one line."""
    message = " ".join(str(error.evalue).split())
    if error.ename in USER_ERRORS:
        return USER_ERRORS[error.ename](message)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    marked = re.search(r"^-+> \d+ (.*)$", plain, flags=re.MULTILINE)  # IPython's arrow, the cell's own frame first
    line = marked[1] if marked else (error.source.strip().splitlines() or [""])[0]
    where = f"{source.name}: cell In [{error.exec_count}] (`{line.strip()}`)"
    return NotebookError(f"{where}: {error.ename}{f': {message}' if message else ''}", where=failed)


@contextlib.contextmanager
def watch_kernel(run_dir: Path) -> Iterator[list[int]]:
    """Set a kernel's environment, and give a one-item list with the most bytes that this process's children held."""
    peak = [0]
    stop = threading.Event()
    before = dict(os.environ)

    def watch() -> None:
        while not stop.wait(MEMORY_INTERVAL):
            with contextlib.suppress(psutil.Error):
                children = psutil.Process().children(recursive=True)
                peak[0] = max(peak[0], sum(child.memory_info().rss for child in children))

    # the last of these: else the debugger writes a warning past the notebook
    os.environ.update(MAMMO_RUN_DIR=str(run_dir), TF_CPP_MIN_LOG_LEVEL="3", PYDEVD_DISABLE_FILE_VALIDATION="1")
    os.environ["TQDM_DISABLE"] = "1"  # see `is_watched`
    # glibc keeps what large arrays free; given back and asked for again, it takes a seventh of the drawing
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(2**28), MALLOC_TRIM_THRESHOLD_=str(2**29))
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:joblib.externals.loky.backend.resource_tracker"
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        os.environ.clear()
        os.environ.update(before)


def clean(node: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop error stream, widgets, timing and versions from an executed notebook, and count its cells 1…n."""
    node.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in node.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
    for count, cell in enumerate((cell for cell in node.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
        cell.outputs = [
            one for one in cell.outputs if one.get("name") != "stderr" and WIDGET not in one.get("data", {})
        ]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return node


def read_described(text: str) -> nbformat.NotebookNode:
    """Parse a notebook and give its figures alternative texts: the caption in italics below, else the section's title.

    They are in a code cell's metadata: `alt`, and `mystnb`, where MyST-NB looks.
    """
    node = nbformat.reads(text, as_version=4)
    section = ""
    for cell, below in itertools.pairwise([*node.cells, nbformat.v4.new_markdown_cell()]):
        if cell.cell_type == "markdown":
            section = "".join(re.findall(r"^#+ (.+)$", cell.source, flags=re.MULTILINE)[-1:]) or section
            continue
        caption = re.match(r"\*([^*].+)\*$", below.source.split("\n")[0]) if below.cell_type == "markdown" else None
        cell.metadata.alt = re.sub("[*`]", "", caption[1]) if caption else f"Figure of the section: {section}"
        cell.metadata.mystnb = {"image": {"alt": cell.metadata.alt}}
    return node


def write_html(notebook: Path) -> Path:
    """Write an executed notebook as one HTML file beside it, which loads nothing but MathJax, and that for formulas."""
    from nbconvert.exporters.html import HTMLExporter

    logging.getLogger("traitlets").setLevel(logging.ERROR)  # of figures without a text, which get theirs below
    node = read_described(notebook.read_text(encoding="utf-8"))
    exporter = HTMLExporter(embed_images=True, require_js_url="", exclude_anchor_links=True)
    page, _ = exporter.from_notebook_node(node, resources={"metadata": {"name": notebook.stem}})
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    figures = [cell for cell in code for output in cell.outputs if IMAGES & set(output.get("data", {}))]
    texts = iter(html.escape(cell.metadata.alt) for cell in figures)
    page = re.sub(NO_TEXT, lambda _: next(texts, "Figure"), page)
    # names from data are no formulas
    page = page.replace('class="jp-OutputArea', 'class="tex2jax_ignore jp-OutputArea')
    page = re.sub(r'href="([^":/]+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', page)
    page = page.replace('href="../README.md"', 'href="../index.html"').replace('<script src=""></script>', "")
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    if not re.search(r"\$\$|\$[^$\n]+\$", text):
        page = re.sub(r'<script src="[^"]*mathjax[^"]*">\s*</script>', "", page, flags=re.IGNORECASE)
    write_text(notebook.with_suffix(".html"), page)
    return notebook.with_suffix(".html")
