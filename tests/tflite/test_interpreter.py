"""The interpreter: LiteRT's where it is installed, and TensorFlow's own where it is not."""

import sys

import pytest
import tensorflow as tf

from tfyolo.tflite import interpreter as interpreters


def test_it_is_litert_where_that_is_installed():
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    assert interpreters._found() == (litert.Interpreter, litert.OpResolverType)


def test_without_it_it_is_tensorflows(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    if not hasattr(tf.lite, "Interpreter"):
        pytest.skip("this TensorFlow has none any more")
    assert interpreters._found()[0] is tf.lite.Interpreter
