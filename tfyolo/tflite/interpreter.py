"""TensorFlow's own interpreter of TFLite files, without what it prints at each start."""

import warnings

import tensorflow as tf

from tfyolo.libraries import libraries_silent


def interpreter(**options):
    """A tf.lite.Interpreter with its memory allocated.

    Args:
        options: of tf.lite.Interpreter: model_path or model_content, num_threads, ...

    Raises:
        ValueError, RuntimeError: it is no TFLite file that TensorFlow can run.
    """
    with warnings.catch_warnings():
        # The interpreter's own end, announced at each start; setup.py pins a TensorFlow that has it.
        warnings.simplefilter("ignore")
        with libraries_silent():  # the delegate's line of INFO
            made = tf.lite.Interpreter(**options)
            made.allocate_tensors()
    return made
