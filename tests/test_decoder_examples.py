"""The decoders of examples/decoders/ against ours on the same tensors, each in the language that it is written in."""

import functools
import importlib.util
import shutil
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, lively
from test_detect import picture

from tfyolo.data.geometry import FITS, prepare, restore
from tfyolo.decoders.yolov8 import Dfl
from tfyolo.postprocess import Nms
from tfyolo.predict.detector import Detector
from tfyolo.predict.load import load
from tfyolo.structures import Candidates

EXAMPLES, CLIENTS = ROOT / "examples" / "decoders", ROOT / "tests" / "decoder_clients"
DECODER = ROOT / "tfyolo" / "edge" / "decoder.py"
SIZE = (96, 128)
LEVELS = {"p3": 8, "p4": 16, "p5": 32}
PIXELS = 1e-3


class Case(NamedTuple):
    """What a decoder is given.

    Attributes:
        entry: "candidates" (arrays: boxes, scores) or "heads" (class logits, box logits).
        arrays: two of [N, ...], float32, or integers with `steps`.
        steps: (scale, zero point) of each array.
        image: (H, W) of the photograph.
        options: of NMS.
    """

    entry: str
    arrays: tuple
    steps: tuple = ((1.0, 0), (1.0, 0))
    size: tuple = SIZE
    image: tuple = (200, 150)
    fit: str = "letterbox"
    options: dict = {}  # noqa: RUF012, of a tuple's field

    @property
    def numbers(self):
        """The arrays as numbers; the boxes of integers are 0..1."""
        if self.arrays[0].dtype == np.float32:
            return self.arrays
        pairs = zip(self.arrays, self.steps, strict=True)
        first, second = ((array.astype("float32") - zero) * np.float32(scale) for array, (scale, zero) in pairs)
        return (first * np.array([*self.size] * 2, "float32") if self.entry == "candidates" else first), second

    @property
    def asked(self):
        return {"score": 0.25, "iou": 0.6, "limit": 300, "candidates_limit": 2000} | self.options

    def write(self, path):
        head = [self.entry, self.arrays[0].dtype, len(self.arrays[0]), *(each.shape[1] for each in self.arrays)]
        head += [*self.size, *self.image, self.fit, *self.asked.values(), *self.steps[0], *self.steps[1]]
        path.write_bytes(" ".join(map(str, head)).encode() + b"\n" + b"".join(each.tobytes() for each in self.arrays))


# --- the cases --------------------------------------------------------------------------------------------------------


def candidates(count=150, classes=3, seed=0, size=SIZE):
    """Boxes [N, 4] in heaps, some of them beyond the image; scores [N, K]."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-0.2, 1.2, (12, 2))[rng.integers(0, 12, count)] * size + rng.normal(0, 4, (count, 2))
    sides = rng.uniform(8, 50, (count, 2))
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)
    return boxes.astype("float32"), rng.uniform(0, 1, (count, classes)).astype("float32") ** 2


def heads(classes=3, seed=0, size=SIZE):
    """Class logits [N, K], box logits [N, 64] with some order in them: a side's distance has one peak."""
    rng = np.random.default_rng(seed)
    count = sum(size[0] // stride * (size[1] // stride) for stride in LEVELS.values())
    peaks = rng.uniform(0, 4, (count, 4, 1)) - np.arange(16)
    box = 4 - np.abs(peaks) + rng.normal(0, 0.7, (count, 4, 16))
    return rng.normal(-0.5, 1.5, (count, classes)).astype("float32"), box.reshape(count, 64).astype("float32")


def quantized(array, low, high, dtype):
    """(integers, (scale, zero point)) that stand for low..high."""
    first = np.iinfo(dtype).min
    scale = (high - low) / 255
    zero = round(first - low / scale)
    return np.clip(np.round(array / scale) + zero, first, first + 255).astype(dtype), (scale, zero)


def in_integers(entry, arrays, dtype):
    ranges = ((0, 1), (0, 1)) if entry == "candidates" else ((-4, 4), (-6, 6))
    first = arrays[0] / np.array([*SIZE] * 2, "float32") if entry == "candidates" else arrays[0]
    pairs = [quantized(array, *span, dtype) for array, span in zip((first, arrays[1]), ranges, strict=True)]
    return Case(entry, tuple(array for array, _ in pairs), tuple(steps for _, steps in pairs), options={"iou": 0.57})


def equal_scores(boxes, scores):
    return boxes, np.full_like(scores, 0.5)


def far(boxes, scores):
    """Every tenth box reaches far beyond the image, to one side or to all."""
    boxes = boxes.copy()
    boxes[::10] *= 1e4
    boxes[5::20, :2], boxes[5::20, 2:] = -1e5, 1e5
    return boxes, scores


CASES = {
    **{f"candidates, {fit}": Case("candidates", candidates(), fit=fit, image=(200, 151)) for fit in FITS},
    **{f"heads, {fit}": Case("heads", heads(), fit=fit, image=(75, 311)) for fit in FITS},
    **{f"{fit} of a line": Case("candidates", candidates(), fit=fit, image=(1, 400)) for fit in FITS},
    **{f"candidates in {dtype}": in_integers("candidates", candidates(), dtype) for dtype in ("int8", "uint8")},
    **{f"heads in {dtype}": in_integers("heads", heads(), dtype) for dtype in ("int8", "uint8")},
    "no box above the threshold": Case("candidates", candidates(), options={"score": 1.0}),
    "no head above the threshold": Case("heads", heads(), options={"score": 0.9999}),
    "N = 0": Case("candidates", (np.zeros((0, 4), "float32"), np.zeros((0, 3), "float32"))),
    "an input without cells": Case("heads", (np.zeros((0, 3), "float32"), np.zeros((0, 64), "float32")), size=(4, 4)),
    "one box": Case("candidates", candidates(1, seed=3), options={"score": 0.01}, image=SIZE),
    "one class": Case("candidates", candidates(classes=1)),
    "one class of heads": Case("heads", heads(classes=1)),
    "all scores equal": Case("candidates", equal_scores(*candidates())),
    "all logits equal": Case("heads", (np.zeros_like(heads()[0]), heads()[1]), options={"limit": 20}),
    "more than enter": Case("candidates", candidates(900), options={"candidates_limit": 60, "score": 0.001}),
    "more than enter, all equal": Case(
        "candidates", equal_scores(*candidates(900, 2)), options={"candidates_limit": 77}
    ),
    "more than are kept": Case("candidates", candidates(900), options={"limit": 7}),
    "beyond the image": Case("candidates", far(*candidates()), image=SIZE, fit="stretch"),
    "many classes": Case("candidates", candidates(200, 80), options={"score": 0.5}),
    "no overlap allowed": Case("candidates", candidates(), options={"iou": 0.0}),
    "any overlap allowed": Case("candidates", candidates(), options={"iou": 1.0}),
}


@functools.cache
def of_heads(case):
    """The Candidates of our decoder, whose distances are those to the top, left, bottom and right."""
    classes, box = CASES[case].numbers
    box = box.reshape(-1, 4, 16)[:, [1, 0, 3, 2]].reshape(-1, 64)
    raw, first = {"box": {}, "cls": {}}, 0
    for level, stride in LEVELS.items():
        h, w = (side // stride for side in CASES[case].size)
        for part, values in (("box", box), ("cls", classes)):
            raw[part][level] = tf.reshape(values[first : first + h * w], [1, h, w, 1, -1])
        first += h * w
    return Dfl()(raw)


@functools.cache
def by_ours(name):
    """(boxes, scores, labels) as a Detector of ours gives them."""
    case = CASES[name]
    if not len(case.arrays[0]):
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    boxes, scores = of_heads(name)[:2] if case.entry == "heads" else (tf.constant(each)[None] for each in case.numbers)
    found = Nms(**case.asked)(Candidates(boxes, scores, None, None, np.array(case.size, "float32")))
    transform = FITS[case.fit].matrix(case.image, case.size)
    boxes = restore(found.boxes, transform[None], tf.constant([case.image]))[0].numpy()
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[kept], found.scores[0].numpy()[kept], found.labels[0].numpy()[kept]


# --- the programs -----------------------------------------------------------------------------------------------------


def python_decoder():
    spec = importlib.util.spec_from_file_location("decoder", DECODER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_python(cases, folder):
    decoder = python_decoder()
    found = {}
    for name, case in cases.items():
        arrays = case.arrays
        if arrays[0].dtype != np.float32:
            arrays = [decoder.dequantized(array, *steps) for array, steps in zip(arrays, case.steps, strict=True)]
            arrays[0] = arrays[0] * (np.array([*case.size] * 2) if case.entry == "candidates" else 1)
        decode = decoder.from_heads if case.entry == "heads" else decoder.from_candidates
        found[name] = decode(*arrays, case.size, case.image, case.fit, **case.asked)
    return found


def needed(tool):
    return shutil.which(tool) or pytest.skip(f"needs {tool}, which is not on this machine")


def javascript(folder):
    return [needed("node"), CLIENTS / "client.mjs"]


def cpp(folder):
    program = folder / "client"
    compiled = [
        needed("g++"),
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        CLIENTS / "client.cpp",
        "-o",
        program,
    ]
    subprocess.run(compiled, check=True)
    return [program]


def java(folder):
    sources = (EXAMPLES / "Decoder.java", CLIENTS / "Client.java")
    subprocess.run([needed("javac"), "-Xlint:all", "-Werror", "-d", folder, *sources], check=True)
    return [needed("java"), "-cp", folder, "Client"]


def by_program(program, cases, folder):
    command, paths = program(folder), [folder / f"{i}.bin" for i in range(len(cases))]
    for case, path in zip(cases.values(), paths, strict=True):
        case.write(path)
    printed = subprocess.run([*command, *paths], check=True, capture_output=True, text=True).stdout
    *blocks, after = printed.split("end\n")
    assert not after
    rows = [np.array(block.split(), "float64").reshape(-1, 6) for block in blocks]
    return {name: (each[:, 2:], each[:, 1], each[:, 0]) for name, each in zip(cases, rows, strict=True)}


LANGUAGES = {
    "python": by_python,
    "javascript": functools.partial(by_program, javascript),
    "cpp": functools.partial(by_program, cpp),
    "java": functools.partial(by_program, java),
}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture(scope="module")
def decoded(language, tmp_path_factory):
    """{case: (boxes, scores, labels)} of one language."""
    return LANGUAGES[language](CASES, tmp_path_factory.mktemp(language))


def assert_equal(found, expected):
    for value, same, off in zip(found, expected, (PIXELS, 1e-6, 0), strict=True):
        np.testing.assert_allclose(value, same, rtol=0, atol=off)


@pytest.mark.parametrize("case", CASES)
def test_equals_ours(case, decoded):
    assert_equal(decoded[case], by_ours(case))


def test_the_cases_are_what_they_are_called():
    counts = {name: len(by_ours(name)[1]) for name in CASES}
    empty = {"no box above the threshold", "no head above the threshold", "N = 0", "an input without cells"}
    assert {name for name, count in counts.items() if count == 0} == empty
    assert counts["more than are kept"] <= 7 and counts["all logits equal"] <= 20
    assert min(count for name, count in counts.items() if "letterbox" in name and "line" not in name) > 20
    boxes = by_ours("candidates, letterbox")[0]
    assert (boxes == 0).any() and (boxes[:, 2] == 200).any()  # some are cut at the photograph's edges


def real_candidates(demo):
    """A Case of the raw file of a small model, and what `tfyolo detect` gives for the same image."""
    detector, image = load(demo.other("none")), picture(150, 90, seed=5)
    prepared, _ = prepare(image, detector.input_size, detector.preprocess)
    found = detector.network(prepared[None])
    arrays = (np.asarray(found.boxes[0]), np.asarray(found.scores[0]))
    return detector, image, Case("candidates", arrays)


def real_heads(demo):
    """A Case of the heads' outputs of a small YOLOv8, whose own order of sides is top, left, bottom, right."""
    model, image = lively("yolov8n"), picture(80, 200, seed=6)
    detector = Detector.of(model)
    prepared, _ = prepare(image, detector.input_size, detector.preprocess)
    logits = model.decoder(model.network(prepared[None], training=False)).logits
    box = np.asarray(logits["box"][0]).reshape(-1, 4, 16)[:, [1, 0, 3, 2]].reshape(-1, 64)
    return detector, image, Case("heads", (np.asarray(logits["cls"][0]), box))


@pytest.fixture(scope="module")
def real(demo):
    """{name: (what our Detector finds, Case)}."""
    found = {}
    for make in (real_candidates, real_heads):
        detector, image, case = make(demo)
        options = {name: getattr(detector.postprocess, name, None) for name in ("iou", "limit", "candidates_limit")}
        options = {name: value for name, value in options.items() if value is not None}
        options |= {"iou": detector.config.model.postprocess.options.get("iou", 0.6), "score": 0.3}
        case = case._replace(size=detector.input_size, image=image.shape[:2], fit=detector.preprocess, options=options)
        found[make.__name__] = detector(image, 0.3), case
    return found


@pytest.mark.slow
def test_equals_the_detector_of_a_real_file(language, real, tmp_path):
    decoded = LANGUAGES[language]({name: case for name, (_, case) in real.items()}, tmp_path)
    for name, (expected, _) in real.items():
        assert len(expected.boxes) > 5
        boxes, scores, labels = decoded[name]
        assert len(boxes) == len(expected.boxes)
        found = [
            ((np.abs(boxes - box).max(axis=1) < PIXELS) & (np.abs(scores - score) < 1e-6) & (labels == label)).any()
            for box, score, label in zip(expected.boxes, expected.scores, expected.labels, strict=True)
        ]
        # Where two scores differ in the seventh digit, it is chance which of two boxes NMS keeps.
        assert np.mean(found) > 0.9


def test_rows_that_do_not_fit_the_input_are_refused():
    classes, box = heads()
    with pytest.raises(ValueError, match="expected 252 rows"):
        python_decoder().from_heads(classes[:-1], box[:-1], SIZE, (10, 10))


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="fit: expected letterbox"):
        python_decoder().from_candidates(*candidates(), SIZE, (10, 10), "crop")


SOURCES = [DECODER, *(path for path in EXAMPLES.iterdir() if path.is_file() and path.suffix != ".md")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_is_short_enough_to_copy(path):
    assert len(path.read_text().splitlines()) < 150
