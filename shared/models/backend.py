"""Keras on TensorFlow, imported in one place, without the notices that TensorFlow prints while it loads."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only, once it runs

from shared.run.native_output import quiet_native_output

with quiet_native_output():
    import keras
    import tensorflow as tf
    from keras import layers, ops

__all__ = ["keras", "layers", "ops", "tf"]
