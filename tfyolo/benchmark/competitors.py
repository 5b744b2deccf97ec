"""What takes turns beside a run's exports: the network in Keras, files that are made for it, OpenCV."""

import numpy as np
import tensorflow as tf

from tfyolo import checkpoint
from tfyolo.benchmark.turns import export_measure, in_one, in_two
from tfyolo.exports import export as exports
from tfyolo.exports import targets, tflite
from tfyolo.exports.layouts import LAYOUTS
from tfyolo.graph.fusion import fuse
from tfyolo.model import weights_file
from tfyolo.predict.detector import Detector
from tfyolo.tflite.interpreter import interpreter


def keras_measure(model, image):
    """The measurement of a Model in Keras; image: [H, W, 3], as the network takes it."""
    detector, images = Detector.of(model, constant=True), tf.constant(image[None])
    return in_two(lambda: detector.network(images), lambda found: detector.postprocess(found).boxes.numpy())


def saved_model_measure(model, image, threads, scratch):
    """The measurement of a Model as a SavedModel, by its signature; threads are TensorFlow's own."""
    loaded, images = tf.saved_model.load(str(first_export("saved_model", model, scratch))), tf.constant(image[None])
    serve = loaded.signatures["serving_default"]
    return in_one(lambda _keep=loaded: serve(images=images)["boxes"].numpy())


def tflite_measure(model, image, threads, scratch):
    """The measurement of a Model as TFLite files, with NMS and without, as it is: not fused first."""
    scratch.mkdir(parents=True, exist_ok=True)
    path, bare = scratch / "model.tflite", scratch / "network.tflite"
    for file, nms in ((path, "builtin"), (bare, "none")):
        file.write_bytes(tflite.to_tflite(model, LAYOUTS[nms, False]))
    files = (str(file) for file in (path, bare))
    runners = [interpreter(model_path=file, num_threads=threads).get_signature_runner() for file in files]
    return in_one(*(lambda runner=runner: runner(images=image[None]) for runner in runners))


def fused_tflite_measure(model, image, threads, scratch):
    """The measurement of a Model as export writes it to TFLite."""
    return tflite_measure(tflite.for_tflite(model), image, threads, scratch)


def first_export(name, model, scratch):
    """The path of a Model's export, the first by default of an exporter. name: a key of EXPORTERS."""
    (made,) = exports.export(model, scratch, targets.asked_targets([name])[:1]).values()
    return made.path


def opencv_measure(run, model, image, threads, scratch):
    """The measurement of a run from Darknet in OpenCV, NMS by OpenCV too."""
    import cv2

    from tfyolo.weights.darknet import importing

    weights, cfg = importing.write(scratch / "net.weights", run)
    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    outputs, classes = net.getUnconnectedOutLayersNames(), len(model.classes)
    blob = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    nms = model.postprocess
    threshold, iou, limit = nms.score, nms.iou, nms.candidates_limit

    def network():
        net.setInput(blob)
        return net.forward(outputs)

    def select(found):
        rows = np.concatenate([row.reshape(-1, 5 + classes) for row in found])
        boxes, labels = np.nonzero(rows[:, 5:] > threshold)
        xywh = rows[boxes, :4].astype("float64") * np.tile(image.shape[1::-1], 2)
        xywh[:, :2] -= xywh[:, 2:] / 2
        return cv2.dnn.NMSBoxesBatched(xywh, rows[boxes, 5 + labels], labels, threshold, iou, top_k=limit)

    return in_two(network, select)


# Exporters whose files are timed without what their Detector does around them.
MEASURES = {"saved_model": saved_model_measure, "tflite": fused_tflite_measure}


def exporter_measures(model, image, threads, scratch):
    """{name: measurement} of a Model in every format that EXPORTERS writes by default, users' own among them.

    Args:
        model: the Model.
        image: [H, W, 3], as the network takes it.
        threads: of each, a count.
        scratch: a folder for the files.
    """
    measures = {}
    for name, exporter in targets.EXPORTERS.items():
        if not exporter.defaults:
            continue
        if name in MEASURES:
            measures[name] = MEASURES[name](model, image, threads, scratch / name)
        else:
            measures[name] = export_measure(first_export(name, model, scratch / name), image, threads)
    return measures


def competitors(run, model, image, threads, scratch, *, files=True, unfused=False):
    """What takes turns.

    Args:
        run: a run's folder or a .h5 file.
        model: its Model.
        image: [H, W, 3], as the network takes it.
        threads: of each, a count.
        scratch: a folder for files that are made.
        files: whether one of every exporter is made, which needs no data.
        unfused: whether the network takes part before fusion, too.

    Returns:
        ({name: measurement}, [what is missing and why]).
    """
    import cv2

    found = {"keras": keras_measure(fuse(model), image)}
    if files:
        found |= exporter_measures(model, image, threads, scratch)
    if unfused:
        found["keras, unfused"] = keras_measure(model, image)
        found["tflite, unfused"] = tflite_measure(model, image, threads, scratch / "unfused")
    notes = []
    if "darknet" not in checkpoint.read_meta(weights_file(run)):
        notes.append("opencv: left out, the run was not imported from Darknet")
    elif not hasattr(cv2.dnn, "readNetFromDarknet"):
        notes.append(f"opencv: left out, OpenCV {cv2.__version__} reads no Darknet networks")
    else:
        found["opencv"] = opencv_measure(run, model, image, threads, scratch)
    return found, notes
