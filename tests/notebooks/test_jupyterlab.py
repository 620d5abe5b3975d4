"""A notebook as a reader meets it: opened, run and played with in a real JupyterLab in headless Chromium.

By default those with sliders, as nbval runs all of them anyway; MAMMO_LAB_NOTEBOOKS="01 03" names others.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.parameters import select_notebooks

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = select_notebooks(ROOT / "notebooks", os.environ.get("MAMMO_LAB_NOTEBOOKS", "06 07").split())
CONTROLS = {"06_grad_cam": 1, "07_comparison": 2}  # cells with sliders
CHROMIUM = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--window-size=1300,1600",
)  # fmt: skip
SHOTS = os.environ.get("MAMMO_LAB_SHOTS", "")  # a folder for screenshots of the sliders
LIMIT = 600  # seconds a notebook may take

STATE = """
const app = window.jupyterapp, widget = app && app.shell.currentWidget;
if (!widget || !widget.sessionContext || !widget.content.widgets || !widget.context.isReady) return null;
const cells = widget.content.widgets.filter(cell => cell.model.type === 'code').map(cell => cell.model);
const outputs = cells.flatMap(cell => cell.outputs.toJSON()), kernel = (widget.sessionContext.session || {}).kernel;
return {
  path: widget.context.path, cells: cells.length, done: cells.filter(cell => cell.executionCount).length,
  errors: outputs.filter(output => output.output_type === 'error').map(output => `${output.ename}: ${output.evalue}`),
  pictures: outputs.filter(({data}) => data && (data['image/png'] || data['image/jpeg'])).length,
  status: kernel ? kernel.status : 'none',
};
"""
RUN_ALL = """
window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code').forEach(
  cell => { cell.model.outputs.clear(); cell.model.executionCount = null; });
window.jupyterapp.commands.execute('notebook:run-all-cells');
"""
VISIBLE = """
const image = window.jupyterapp.shell.currentWidget.node.querySelector('.jp-OutputArea img');
if (!image) return 0;
image.scrollIntoView();
return Math.min(image.naturalWidth, image.getBoundingClientRect().width);
"""
NEXT_WIDGET = """
const content = window.jupyterapp.shell.currentWidget.content, view = 'application/vnd.jupyter.widget-view+json';
const shows = ({model}) => model.type === 'code' && model.outputs.toJSON().some(({data}) => data && data[view]);
const index = content.widgets.findIndex(  // progress bars are widgets too
  (cell, at) => at > arguments[0] && shows(cell) && cell.model.sharedModel.source.includes('widgets.VBox('));
if (index >= 0) content.scrollToItem(index, 'start');
return index < 0 ? null : {index, node: content.widgets[index].node};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (*CHROMIUM, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield window
    window.quit()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """JupyterLab on a copy of the notebooks (it saves what it shows); gives its address and token."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data"),
        "MAMMO_RUN_DIR": str(folder / "run"), "PYTHONPATH": str(ROOT),
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: answers(port) or process.poll() is not None, seconds=90)
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            yield f"http://127.0.0.1:{port}", token
        finally:
            process.terminate()
            process.wait(30)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(condition, *, seconds):
    """Look twice a second until `condition()` is true; return its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.5)
    return value


@pytest.mark.xdist_group("lab")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_in_jupyterlab(path, server, browser):
    address, token = server
    browser.get(f"{address}/lab/tree/notebooks/{path.name}?token={token}&reset")

    def state():
        return browser.execute_script(STATE) or {"path": "", "status": "starting", "errors": []}

    def is_open():
        return state()["path"].endswith(path.name) and state()["status"] == "idle"

    def is_over():
        now = state()
        return now["errors"] or (now["status"] == "idle" and now["done"] == now["cells"])

    assert wait_until(is_open, seconds=120), state()
    browser.execute_script(RUN_ALL)
    wait_until(is_over, seconds=LIMIT)
    end = state()
    assert end["errors"] == []
    assert end["done"] == end["cells"] > 5
    assert end["pictures"] > 0
    assert browser.execute_script(VISIBLE) > 50
    assert move_sliders(browser) == CONTROLS.get(path.stem, 0)


def move_sliders(browser):
    """Move the first slider of each cell that has one; its picture must change. Returns the number of such cells."""
    count, found = 0, {"index": -1}
    while found := browser.execute_script(NEXT_WIDGET, found["index"]):
        cell, count = found["node"], count + 1

        def pictures(cell=cell):
            return browser.execute_script("return [...arguments[0].querySelectorAll('img')].map(one => one.src)", cell)

        assert wait_until(pictures, seconds=30), "the controls show no picture"
        before = pictures()
        handle = cell.find_element("css selector", ".noUi-handle")
        handle.send_keys("\ue014" * 3)  # arrow to the right
        assert wait_until(lambda before=before: pictures() and pictures() != before, seconds=60), "nothing has moved"
        if SHOTS:
            browser.save_screenshot(f"{SHOTS}/slider_{count}.png")
    return count
