"""What TensorFlow Serving reads beside a SavedModel: warm-up requests, and how it may batch.

The server replays the requests when it loads a version, before that version answers anybody: each signature's graph is
optimised and its kernels are made then, not while the first client waits.

Sources: https://www.tensorflow.org/tfx/serving/saved_model_warmup; in tensorflow_serving apis/prediction_log.proto,
predict.proto and model.proto for the numbers of the fields, servables/tensorflow/session_bundle_config.proto and
bundle_factory_util.cc for the batching parameters.
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from tfyolo.data.geometry import GREY

WARMUP = "tf_serving_warmup_requests"  # in assets.extra, TFRecord of PredictionLog
BATCHING = "batching_params.pbtxt"  # in the SavedModel's folder, a text proto of BatchingParameters

# One batch takes all cores; the second thread decodes meanwhile. The server pads a batch to the next allowed size, so
# that kernels meet few shapes.
_BATCHING = """\
max_batch_size { value: 8 }
batch_timeout_micros { value: 5000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
allowed_batch_sizes: 1
allowed_batch_sizes: 2
allowed_batch_sizes: 4
allowed_batch_sizes: 8
"""


def write_serving(folder, model):
    """Writes warm-up requests and batching parameters into a SavedModel's folder.

    Args:
        folder: its Path; `assets.extra` is there.
        model: the Model.
    """
    (folder / BATCHING).write_text(_BATCHING, encoding="utf-8")
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / WARMUP)) as writer:
        for signature, name, value in _requests(*model.input_size):
            writer.write(prediction_log(signature, {name: value}))


def _requests(height, width):
    """(signature, its input, a TensorProto) for each signature, of one grey image [1, height, width, 3]."""
    shape, grey = [1, height, width, 3], round(255 * GREY)
    file = io.BytesIO()
    Image.new("RGB", (width, height), (grey,) * 3).save(file, "jpeg")
    yield "serving_default", "images", _filled(tf.float32, shape, GREY)
    yield "uint8", "images", _filled(tf.uint8, shape, grey)
    yield "bytes", "contents", tf.make_tensor_proto(np.array([file.getvalue()], object))


def _filled(dtype, shape, value):
    """A TensorProto of one value throughout, a few bytes long: readers repeat the last value that it holds."""
    proto = tf.make_tensor_proto(value, dtype, [1])
    proto.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return proto


def prediction_log(signature, inputs):
    """The bytes of a PredictionLog of one PredictRequest.

    Args:
        signature: its name.
        inputs: {name: TensorProto}.
    """
    request = _field(1, _field(3, signature.encode()))  # model_spec.signature_name
    for name, value in inputs.items():
        request += _field(2, _field(1, name.encode()) + _field(2, value.SerializeToString()))  # an entry of a map
    return _field(6, _field(1, request))  # predict_log.request


def _field(number, content):
    """A field of a protobuf message that has a length: a string, or a message."""
    length, octets = len(content), bytearray([number << 3 | 2])
    while length > 0x7F:
        octets.append(length & 0x7F | 0x80)
        length >>= 7
    octets.append(length)
    return bytes(octets) + content
