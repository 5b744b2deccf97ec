"""The SavedModel behind TensorFlow Serving: warm-up requests, batching parameters, older TensorFlows."""

import os
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from test_detect import jpeg

OLD = "TFYOLO_OLD_TENSORFLOW"


@pytest.fixture(scope="module")
def logs():
    reason = "needs tensorflow-serving-api, which is in tfyolo[dev]"
    return pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason=reason)


def warm_up_records(folder):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def test_warm_up_requests_are_what_a_client_would_send(demo, logs):
    """Byte by byte what TensorFlow Serving's own classes write of the same."""
    records = warm_up_records(demo.paths["saved_model"])
    for record in records:
        read = logs.PredictionLog.FromString(record)
        request, again = read.predict_log.request, logs.PredictionLog()
        again.predict_log.request.model_spec.signature_name = request.model_spec.signature_name
        for name, value in request.inputs.items():
            again.predict_log.request.inputs[name].CopyFrom(value)
        assert again.SerializeToString(deterministic=True) == record and len(record) < 10_000
    asked = [logs.PredictionLog.FromString(each).predict_log.request.model_spec.signature_name for each in records]
    assert asked == ["serving_default", "uint8", "bytes"]


def test_warm_up_requests_run_as_the_server_runs_them(demo, logs):
    """By a session and the names of its tensors, from tensors that C++ reads out of the protos."""
    records, size = warm_up_records(demo.paths["saved_model"]), demo.detector.input_size
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(demo.paths["saved_model"]))
        for record in records:
            request = logs.PredictionLog.FromString(record).predict_log.request
            signature = meta.signature_def[request.model_spec.signature_name]
            assert request.inputs.keys() == signature.inputs.keys()
            fed = {}
            for name, proto in request.inputs.items():
                given = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
                fed[signature.inputs[name].name] = value = session.run(given)
                if value.dtype == object:
                    assert value.shape == (1,)
                else:
                    assert value.shape == (1, *size, 3) and np.ptp(value) == 0 < value.max()
            found = session.run({name: each.name for name, each in signature.outputs.items()}, fed)
            assert all(len(value) == 1 for value in found.values())  # which the server's batching asks for
            assert found.get("valid", True)


def batching_parameters():
    """The message of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, as far as it is used."""
    file = descriptor_pb2.FileDescriptorProto(name="b.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message, kinds = file.message_type.add(name="BatchingParameters"), descriptor_pb2.FieldDescriptorProto
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in enumerate(names, 1):
        wrapper = {"type": kinds.TYPE_MESSAGE, "type_name": ".google.protobuf.Int64Value"}
        message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL, **wrapper)
    message.field.add(name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_INT64)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))


def test_batching_parameters_are_the_servers(demo):
    """In the folder of the version, under the name that --enable_per_model_batching_parameters looks for."""
    text = (demo.paths["saved_model"] / "batching_params.pbtxt").read_text(encoding="utf-8")
    read = text_format.Parse(text, batching_parameters()())
    sizes = list(read.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == read.max_batch_size.value
    assert 0 < read.batch_timeout_micros.value < 100_000
    assert read.num_batch_threads.value > 0 and read.max_enqueued_batches.value > 0


def test_requests_that_the_server_joins_are_answered_as_each_alone(demo):
    """It joins them along the first dimension, and fills the batch up with copies."""
    call = demo.loaded.signatures["bytes"]
    contents = [jpeg(image) for image in demo.images] + [b"no picture"]
    together = call(tf.constant([*contents, *contents[:1] * 4]))
    for b, content in enumerate(contents):
        for name, value in call(tf.constant([content])).items():
            np.testing.assert_allclose(together[name][b], value[0], rtol=1e-5, atol=1e-4, err_msg=name)


# Calls a SavedModel's signatures with the arrays of a file, "<signature>/<input>"; writes "<signature>/<output>".
CALL = """
import sys
import numpy as np, tensorflow as tf
loaded, given, found = tf.saved_model.load(sys.argv[1]), np.load(sys.argv[2]), {}
for key in given:
    signature, name = key.split("/")
    value = [given[key].tobytes()] if name == "contents" else given[key]
    for output, tensor in loaded.signatures[signature](**{name: tf.constant(value)}).items():
        found[f"{signature}/{output}"] = tensor.numpy()
np.savez(sys.argv[3], **found)
print(tf.__version__)
"""


def called_in(python, folder, given, scratch):
    """(version of TensorFlow, {"<signature>/<output>": array}) of another Python."""
    np.savez(scratch / "given.npz", **given)
    command = [python, "-c", CALL, str(folder), str(scratch / "given.npz"), str(scratch / "found.npz")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1], dict(np.load(scratch / "found.npz"))


@pytest.mark.slow
def test_an_older_tensorflow_answers_alike(demo, tmp_path):
    if not os.environ.get(OLD):
        pytest.skip(f"needs {OLD}, a Python with tools/old_tensorflow_requirements.txt")
    image = demo.images[0]
    images = np.random.default_rng(0).random((2, *demo.detector.input_size, 3), dtype="float32")
    contents = np.frombuffer(jpeg(image), np.uint8)
    given = {"serving_default/images": images, "uint8/images": image[None], "bytes/contents": contents}
    version, found = called_in(os.environ[OLD], demo.paths["saved_model"], given, tmp_path)
    assert version < tf.__version__
    loaded = tf.saved_model.load(str(demo.paths["saved_model"]))
    for key, value in given.items():
        signature, name = key.split("/")
        expected = loaded.signatures[signature](
            **{name: tf.constant([value.tobytes()] if name == "contents" else value)}
        )
        for output, tensor in expected.items():
            np.testing.assert_allclose(found[f"{signature}/{output}"], tensor, atol=2e-3, err_msg=f"{key} {output}")
