"""Core ML's limits: what keeps a graph from becoming one of Apple's ML programs, whichever converter tries.

Facts of coremltools 9's documentation of its Model Intermediate Language and of its converter (2026-11): tensors have
at most 5 sides; they are float32, float16, int32 or bool, so that a network quantized in TFLite's way has to be
quantized there anew; there are no custom operators. coremltools reads TensorFlow's graphs, not TFLite's files, so that
this says what would be in the way of the same graph, and no list of operators stands here: nearly all have a
counterpart. LiteRT's own Core ML delegate takes far less: version 1 of some 20 operators, float32 alone.
"""

from tfyolo.tflite.lints.rules import Table, rank_at_most, static_shapes

_NONE_THERE = (
    *("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5"),  # Core ML's own works by classes, without soft NMS
    *("UNIQUE", "WHERE", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "RFFT2D", "BUCKETIZE"),
)


def _known(operator):
    return "no counterpart of the same result" if operator.name in _NONE_THERE else None


TABLE = Table(
    title="Core ML's limits",
    types=frozenset({"float32", "float16", "int32", "bool"}),
    rules=(_known, rank_at_most(5), static_shapes),
    operators=None,
)
