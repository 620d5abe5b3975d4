"""Keras on TensorFlow, imported in one place and without the notices it prints while it loads; and its devices."""

import contextlib
import gc
import os

from shared.run import CHOICES, check_choice
from shared.run.native_output import quiet_native_output

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only, once it runs
gc.set_threshold(10_000, 50, 50)  # TensorFlow's many objects stay: the search for garbage among them takes seconds
with quiet_native_output():
    import keras
    import tensorflow as tf
    from keras import KerasTensor as Tensor
    from keras import layers, ops
tf.get_logger().setLevel("ERROR")  # no notices that a network is compiled for another batch size

__all__ = ["Tensor", "keras", "layers", "ops", "quiet_native_output", "tf"]


def set_up_devices() -> str:
    """Prepare TensorFlow: GPU memory on demand, mixed precision on GPUs only.

    Call it first: once TensorFlow runs, these are left as they are.
    Returns one line that says which versions and devices will be used.
    """
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"
    with quiet_native_output():  # TensorFlow looks for a driver, and says so where there is none
        gpus = tf.config.list_physical_devices("GPU")
    with contextlib.suppress(RuntimeError):  # TensorFlow is running already
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        keras.config.set_dtype_policy("mixed_float16")
    return f"{versions}; " + (f"{len(gpus)} GPU(s), mixed precision" if gpus else "no GPU found: training on the CPU")


def multi_gpu_scope(strategy: str = "auto") -> contextlib.AbstractContextManager:
    """Return the context in which a model is built and trained so that `fit` uses several GPUs of this machine.

    `strategy` is "none"; "mirrored" for a `tf.distribute.MirroredStrategy` over all GPUs, or over the virtual CPU
    devices where there are several and no GPU; "auto" for mirrored where there are two GPUs or more; else UsageError.
    """
    check_choice("STRATEGY", strategy, CHOICES["strategy"])
    gpus = tf.config.list_logical_devices("GPU")
    if strategy == "none" or (strategy == "auto" and len(gpus) < 2):
        return contextlib.nullcontext()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()
