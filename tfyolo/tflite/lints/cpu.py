"""A processor, by the interpreter of TFLite and LiteRT with its own operators.

Facts of TFLite's schema.fbs and of tflite/core/kernels/register.cc in google-ai-edge/LiteRT (2026-11): it takes every
operator of its own and the task libraries' post-processing. Others, of TensorFlow ("Flex") or of a user, need a library
that brings them.
"""

from tfyolo.tflite.lints.rules import Table, same
from tfyolo.tflite.operators import NAMES, TYPES

TABLE = Table(
    title="a processor, by the interpreter",
    types=frozenset(TYPES),
    operators={
        **same(" ".join(name for name in NAMES if name not in ("CUSTOM", "DELEGATE"))),
        **same("TFLite_Detection_PostProcess"),
    },
)
