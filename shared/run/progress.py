"""Whether somebody watches: progress bars are drawn for people, not into logs and stored outputs."""

import os
import sys


def is_watched() -> bool:
    """Tell whether a person sees a progress bar: in a terminal, and in a notebook where TQDM_DISABLE is not set.

    The runner sets TQDM_DISABLE for its kernels, so that no executed copy holds a bar.
    """
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    if hasattr(get_shell(), "kernel"):
        return "TQDM_DISABLE" not in os.environ
    return sys.stderr.isatty()
