"""Hold back what compiled libraries write past Python. TensorFlow does so on import, whatever its log level is."""

import contextlib
import os
import sys
import warnings


@contextlib.contextmanager
def quiet_native_output():
    """Send file descriptors 1 and 2 nowhere, and keep Python's warnings back, as long as the block runs.

    For short calls that have nothing to say: loading TensorFlow, converting a model. Errors still raise.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
