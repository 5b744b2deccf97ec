"""The interpreter of TFLite files: ai-edge-litert's where it is installed, else TensorFlow's own, which is to go."""

import warnings

from tfyolo.libraries import libraries_silent


def interpreter(*, delegates=True, **options):
    """An Interpreter with its memory allocated, without what it prints at each start.

    Args:
        delegates: False: without XNNPACK, so that every tensor of the graph is seen as it is.
        options: of ai_edge_litert's Interpreter, which are those of tf.lite: model_path or model_content, num_threads.

    Raises:
        ValueError, RuntimeError: it is no TFLite file that it can run.
    """
    kind, resolvers = _found()
    if not delegates:
        options["experimental_op_resolver_type"] = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite's announces its own end at each start
        with libraries_silent():  # the delegate's line of INFO
            made = kind(**options)
            made.allocate_tensors()
    return made


def _found():
    """(the class, the enumeration of its operation resolvers)."""
    try:
        from ai_edge_litert import interpreter as litert
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter, tf.lite.experimental.OpResolverType
    return litert.Interpreter, litert.OpResolverType
