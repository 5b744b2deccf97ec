"""A saved model, ready for use: pictures in, boxes in the picture's own pixels out; and the commands' work over many files."""

import contextlib
import ctypes
import dataclasses
import functools
import glob
import hashlib
import importlib
import itertools
import json
import os
import sys
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import absl.logging
import cv2
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, ImageShow
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tqdm import tqdm

from tfyolo import checkpoint, flatbuffer, metadata, visualize
from tfyolo import config as configs
from tfyolo.data import pipeline
from tfyolo.data.headers import MOST_PIXELS
from tfyolo.data.sources.files import IMAGES, Tree, visible
from tfyolo.devices import check_process
from tfyolo.files import parse_json, read_regular, what_is
from tfyolo.fusion import fuse
from tfyolo.messages import counted, libraries_silent, printable
from tfyolo.model import Model, load_model, multiple, postprocess, resized
from tfyolo.structures import Candidates, Detections

if TYPE_CHECKING:
    import pandas
    import supervision

# What is read as one picture: a path, the bytes of a file, a PIL image, or an array or tensor [H, W], [H, W, 3] or [H, W, 4] of uint8.
Picture = str | os.PathLike | bytes | Image.Image | np.ndarray | tf.Tensor


class Detector:
    """Pictures in, boxes out; from a run, a SavedModel or a TFLite file alike.

        detector = tfyolo.load("runs/x")
        found = detector("photo.jpg")
        for found in detector.stream("holiday/"): ...

    Any number of threads may call one detector. A process that is forked after it was used cannot, which is a ForkError.

    Attributes:
        classes: names in label order.
        input_size: (H, W) of the network's input.
        config: the Config that it was trained with.
        network: images [B, H, W, 3] float32 0..1 -> whatever postprocess wants.
        postprocess: that -> Detections in pixels of the network's input. In an export the two are one, and postprocess does nothing.
        source: where it was loaded from.
        max_pixels: of an image file; a larger one is an error before it is decoded. To be set where more is meant.
    """

    def __init__(self, config, classes, network, postprocess, source):
        self.config: configs.Config = config
        self.classes: tuple[str, ...] = tuple(map(printable, classes))
        self.input_size: tuple[int, int] = tuple(config.model.input_size)
        self.network, self.postprocess = network, postprocess
        self.source = str(source)
        self.max_pixels = MOST_PIXELS

    @classmethod
    def of(
        cls,
        model: Model,
        source: str | os.PathLike = "a model in memory",
        *,
        flip: bool = False,
        others: Sequence[Model] = (),
        constant: bool = False,
        **options: Any,
    ) -> "Detector":
        """A detector of a Model. It uses the weights that the network has at each call, unless they are made constant.

        Args:
            model: the Model. The detector's input size is the largest of its own and of the others'.
            source: where it is from, for messages.
            flip: test-time augmentation: it looks at the flipped image, too.
            others: test-time augmentation: Models of the same network for other sizes (model.resized), each of which sees the image, too.
                The candidates of all go through one NMS.
            constant: the weights of now become constants of the graph: a single image is faster, later training is not seen.
            options: over the config's post-processing.

        Raises:
            ConfigError, ValueError: an option is unknown or out of its range, or the post-processing has no NMS to join the candidates by.
        """
        models = [model, *others]
        if (flip or others) and model.config.model.postprocess.name == "top":
            raise model.config.error(
                "model.postprocess",
                "expected one that suppresses, for more than one look: top would give each object once a look",
            )
        largest = max(models, key=lambda each: each.config.model.input_size)
        # Batches of a few sizes are traced once for all sizes.
        traced = functools.partial(tf.function, autograph=False, reduce_retracing=True)
        candidates = traced(functools.partial(_seen, models, flip))
        if constant:
            candidates = _with_constants(candidates, largest.config.model.input_size)
        select = traced(postprocess(model.config, **options))
        return cls(largest.config, model.classes, candidates, select, source)

    def __repr__(self):
        height, width = self.input_size
        return (
            f"<Detector {self.config.name} of {self.source}: {counted(len(self.classes), 'class')}, {height} x {width}>"
        )

    @overload
    def __call__(self, image: list | tuple, score: float = 0.25, *, batch: int = 8) -> "list[ImageDetections]": ...

    @overload
    def __call__(self, image: Picture, score: float = 0.25, *, batch: int = 8) -> "ImageDetections": ...

    def __call__(self, image, score=0.25, *, batch=8):
        """Finds the objects in a picture, or in each of a list of them.

        Args:
            image: a path, the bytes of a file, a PIL image, or an array or tensor [H, W, 3], [H, W] or [H, W, 4] of uint8 in RGB order
                (alpha is dropped); or a list of these, or [B, H, W, 3]. A folder, a video or a glob is passed on to stream().
            score: the least score of a detection, 0..1.
            batch: how many of a list go through the network at once.

        Returns:
            ImageDetections, in pixels of the picture; a list of them for a list; an iterator of them for a folder, a video or a glob.

        Raises:
            ImageError: something does not read as a picture.
            ValueError: score is not in 0..1, or batch not above 0.
        """
        _check_unit(score=score)
        _check_above_0(batch=batch)
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            pictures = ((*_read(each, self.max_pixels), None) for each in image)
            return list(self._in_batches(pictures, score, batch))
        if isinstance(image, str | os.PathLike) and _is_many(os.fspath(image)):
            return self.stream(image, score, batch=batch)
        return self._find([(*_read(image, self.max_pixels), None)], score)[0]

    def stream(
        self, source: Picture | int | Iterable[Any], score: float = 0.25, *, batch: int = 8, skipped: list | None = None
    ) -> "Iterator[ImageDetections]":
        """Finds the objects in many pictures, each read only when its turn comes.

        Args:
            source: a folder (pictures and videos directly inside), a video, a glob, a camera's number, a picture, or any iterable of
                these. Of a video or camera, every frame.
            score: the least score of a detection, 0..1.
            batch: how many pictures go through the network at once; of a camera always one.
            skipped: a list that takes (file, reason) of what cannot be read; None: that is an error.

        Returns:
            An iterator of ImageDetections, whose `file`, and in a video `frame`, say where they are from.

        Raises:
            SourceError: a source is not there, at once or, of an iterable, when its turn comes.
            ImageError: a picture cannot be read, when its turn comes.
            ValueError: score is not in 0..1, or batch not above 0.
        """
        _check_unit(score=score)
        _check_above_0(batch=batch)
        if isinstance(source, str | os.PathLike):
            source = find_pictures([source])
        elif isinstance(source, int):
            source, batch = [source], 1
        elif not isinstance(source, Iterable) or isinstance(source, bytes | Image.Image | np.ndarray | tf.Tensor):
            source = [source]
        return self._in_batches(_pictures(source, skipped, self.max_pixels), score, batch)

    def _in_batches(self, pictures, score, batch):
        pictures = iter(pictures)
        while some := list(itertools.islice(pictures, batch)):
            yield from self._find(some, score)

    def _find(self, pictures, score):
        """ImageDetections of each of a batch of (image, file, frame)."""
        check_process()
        images = [image for image, _, _ in pictures]
        prepared = [pipeline.prepare(image, self.input_size, self.config.model.preprocess) for image in images]
        batch, transforms = (tf.stack(each) for each in zip(*prepared, strict=True))
        found = self.postprocess(self.network(batch))
        boxes = restore(found.boxes, transforms, tf.constant([image.shape[:2] for image in images]))
        columns = (boxes, found.scores, found.labels, found.best)
        return [
            self._kept(*row, score, *picture) for *row, picture in zip(*map(np.asarray, columns), pictures, strict=True)
        ]

    def _kept(self, boxes, scores, labels, best, score, image, file, frame):
        # The others lay wholly in the margins of the letterbox, or are padding.
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept = inside & (scores >= score)
        return ImageDetections(boxes[kept], scores[kept], labels[kept], self.classes, float(best), image, file, frame)


def _check_unit(**values):
    for name, value in values.items():
        try:
            good = 0 <= value <= 1
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name}: expected a number from 0 to 1, received {value!r}")


def _check_above_0(**values):
    for name, value in values.items():
        if not (isinstance(value, int | np.integer) and value > 0):
            raise ValueError(f"{name}: expected a whole number above 0, received {value!r}")


def _scaled(model, scale):
    if scale == 1:
        return model
    step = multiple(model)
    return resized(model, tuple(max(1, round(scale * side / step)) * step for side in model.config.model.input_size))


def _seen(models, flip, images):
    """The Candidates of all of Models, each for pictures of a size; of the mirrored ones, too. images: [B, H, W, 3], of the largest."""
    size, found = images.shape[1:3], []
    for model in models:
        own = model.config.model.input_size
        view = images if own == size else tf.image.resize(images, own, antialias=True)
        factor = np.array([*size] * 2, "float32") / np.array([*own] * 2, "float32")
        seen = model.decoder(model.network(view, training=False))
        found.append(seen._replace(boxes=seen.boxes * factor) if own != size else seen)
        if flip:
            seen = model.decoder(model.network(view[:, :, ::-1], training=False))
            y1, x1, y2, x2 = tf.unstack(seen.boxes * factor, axis=-1)
            found.append(seen._replace(boxes=tf.stack([y1, size[1] - x2, y2, size[1] - x1], axis=-1)))
    if len(found) == 1:
        return found[0]
    boxes, scores = (tf.concat([getattr(seen, name) for seen in found], axis=1) for name in ("boxes", "scores"))
    return Candidates(boxes, scores, {}, None, np.array(size, "float32"))


def _with_constants(candidates, size):
    """The tf.function with its weights as constants: oneDNN brings a variable into its own layout at each call, a constant once.

    candidates: tf.function, images [B, H, W, 3] -> Candidates. size: (H, W).
    """
    signature = [tf.TensorSpec([None, *size, 3], tf.float32, "images")]
    boxes_and_scores = tf.function(lambda images: candidates(images)[:2], input_signature=signature, autograph=False)
    frozen = convert_variables_to_constants_v2(boxes_and_scores.get_concrete_function())

    @tf.function(input_signature=signature, autograph=False)
    def run(images):
        return Candidates(*frozen(images), {}, None, np.array(size, "float32"))

    return run


class Detection(NamedTuple):
    """One object in a picture.

    name: its class. label: the class's number. score: 0..1. box: (y1, x1, y2, x2) in pixels of the picture.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageDetections:
    """What was found in one picture, best first: len() says how much, and iteration gives a Detection for each.

    boxes: [D, 4] float32 (y1, x1, y2, x2) in pixels of the picture. scores: [D] float32 in 0..1. labels: [D] int32.
    classes: the names in label order. best: the highest score of any candidate, found or not. image: [H, W, 3] uint8 RGB.
    file: the picture's path, None if it came from memory. frame: its number in the video `file`, else None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    best: float
    image: np.ndarray
    file: str | None
    frame: int | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray | list) -> "ImageDetections": ...

    def __getitem__(self, index):
        """The Detection at a place; of a slice, a mask or a list of places, the ImageDetections that are left."""
        if not isinstance(index, int | np.integer):
            rows = {name: getattr(self, name)[index] for name in ("boxes", "scores", "labels")}
            return dataclasses.replace(self, **rows)
        label = int(self.labels[index])
        return Detection(self.classes[label], label, float(self.scores[index]), tuple(self.boxes[index].tolist()))

    def __repr__(self):
        height, width = self.image.shape[:2]
        where = (self.file or "picture") + (f" frame {self.frame}" if self.frame is not None else "")
        told = ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "nothing"
        return f"<ImageDetections {where}, {height} x {width}: {told}; best score {self.best:.3g}>"

    @property
    def names(self) -> list[str]:
        """The class of each detection, by name."""
        return [self.classes[label] for label in self.labels]

    @property
    def counts(self) -> dict[str, int]:
        """{class: how many of it}, in the order of the best of each."""
        return dict(Counter(self.names))

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """[D, 4] float32 (x1, y1, x2, y2): the order that most other tools read."""
        return self.boxes[:, [1, 0, 3, 2]]

    def draw(self) -> np.ndarray:
        """The picture with boxes, classes and scores: [H, W, 3] uint8 RGB."""
        return visualize.draw(self.image, self.boxes, self.labels, self.scores, self.classes)

    def to_json(self) -> dict[str, Any]:
        """{"file", "height", "width", "best", "detections": [{"class", "label", "score", "box_xyxy"}]} of plain numbers."""
        height, width = self.image.shape[:2]
        rows = zip(self.names, self.labels, self.scores, self.boxes_xyxy, strict=True)
        detections = [
            {
                "class": name,
                "label": int(label),
                "score": round(float(score), 4),
                "box_xyxy": [round(float(v), 2) for v in box],
            }
            for name, label, score, box in rows
        ]
        return {
            "file": self.file,
            "height": height,
            "width": width,
            "best": round(self.best, 4),
            "detections": detections,
        }

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the picture with its boxes as the suffix says (.jpg, .png, ...), or to_json() if it is .json: whole or not at all.

        The folder is made. Returns the path. Raises PictureError for any other suffix.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_text(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False))
        else:
            visualize.save(path, self.draw())
        return path

    def show(self) -> None:
        """Shows the picture with its boxes: in a notebook below its cell, elsewhere in the system's viewer.

        Raises SourceError where there is none.
        """
        drawn = Image.fromarray(self.draw())
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is not None and hasattr(shell, "kernel"):
            sys.modules["IPython"].display.display(drawn)
        elif not ImageShow.show(drawn, title=self.file):
            raise SourceError("expected a program that shows pictures, found none on this machine; use save(path)")

    def to_supervision(self) -> "supervision.Detections":
        """supervision.Detections, with the names as data["class_name"]. Needs `pip install supervision`, else ImportError."""
        library = _library("supervision", "to_supervision")
        names = np.array(self.names, dtype=str)
        labels = self.labels.astype(int)
        return library.Detections(self.boxes_xyxy, confidence=self.scores, class_id=labels, data={"class_name": names})

    def to_pandas(self) -> "pandas.DataFrame":
        """A DataFrame with columns name, label, score, y1, x1, y2, x2. Needs `pip install pandas`, else ImportError."""
        library = _library("pandas", "to_pandas")
        columns = {"name": self.names, "label": self.labels, "score": self.scores}
        return library.DataFrame(columns | dict(zip(("y1", "x1", "y2", "x2"), self.boxes.T, strict=True)))


def _library(name, method):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{method}() needs {name}: pip install {name} ({error})", name=name) from error


# --- what is a picture ----------------------------------------------------------------------------------------------------------


def _read(image, most_pixels=MOST_PIXELS):
    """(picture [H, W, 3] uint8 RGB upright, its path or None) of a Picture. ImageError if it is none, or a file of more pixels."""
    if isinstance(image, str | os.PathLike):
        return pipeline.read_image(image, most_pixels), os.fspath(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return pipeline.read_image(bytes(image), most_pixels), None
    if isinstance(image, Image.Image):
        return _of_pil(image), None
    if hasattr(image, "__array__"):
        return _of_array(np.asarray(image)), None
    raise pipeline.ImageError(
        "expected a picture: a path, the bytes of a file, a PIL image, or an array or tensor [H, W, 3] of uint8; received "
        f"{type(image).__name__}"
    )


def _of_array(image):
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or 0 in image.shape
        or image.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        first = image.ndim == 3 and image.shape[0] in (1, 3)
        hint = "; put the channels last" if first and image.shape[2] not in (1, 3, 4) else ""
        if image.dtype.kind == "f":
            hint += "; of values from 0 to 1, (255 * image).round().astype('uint8') makes one"
        raise pipeline.ImageError(
            f"expected a picture [H, W, 3], [H, W] or [H, W, 4] of uint8 in RGB order, received {image.dtype} {list(image.shape)}{hint}"
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3] if image.shape[2] == 4 else image


def _of_pil(image):
    """The same pixels as read_image gives of its file: upright, alpha dropped, of 16 bits the upper eight."""
    if image.mode in ("I", "F"):  # what is white in them is not said
        raise pipeline.ImageError(f"expected a PIL image of a mode such as RGB or L, received {image.mode}; convert it")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return _of_array((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))
    except OSError as error:
        raise pipeline.ImageError(f"a PIL image that cannot be read in full: {error}") from error


def _is_many(path):
    """Whether a path means more than a picture."""
    return os.path.isdir(path) or path.lower().endswith(VIDEOS) or (glob.has_magic(path) and not os.path.exists(path))


def _pictures(sources, skipped, most_pixels):
    """(image, file, frame) of every picture and frame of sources, as of Detector.stream, one after the other."""
    for source in sources:
        many = isinstance(source, str | os.PathLike) and _is_many(os.fspath(source))
        for each in find_pictures([source]) if many else [source]:
            try:
                yield from _frames_of(each, most_pixels)
            except (pipeline.ImageError, SourceError) as error:
                if skipped is None:
                    raise
                skipped.append((each, str(error)))


def _frames_of(source, most_pixels):
    is_path = isinstance(source, str | os.PathLike)
    if isinstance(source, int) or (is_path and os.fspath(source).lower().endswith(VIDEOS)):
        file, number = os.fspath(source) if is_path else None, -1
        for number, image in enumerate(frames(file if is_path else source, most_pixels)[0]):
            yield image, file, number
        if number < 0:
            raise SourceError(f"{source}: expected a video, not one frame could be read")
    else:
        yield (*_read(source, most_pixels), None)


def restore(boxes, transform, size):
    """Boxes in pixels of the network's input -> pixels of the file, cut to its edges.

    boxes: [B, D, 4]. transform: [B, 3, 3], as in Sample. size: [B, 2] (H, W) of the files' pictures.
    """
    inverse = tf.linalg.inv(transform)
    # Letterboxing keeps a box a box: two corners will do.
    corners = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 2])  # [B, 2D, 2]
    corners = tf.einsum("bij,bnj->bni", inverse[:, :2, :2], corners) + inverse[:, None, :2, 2]
    limits = tf.cast(size, tf.float32)[:, None, :]
    return tf.reshape(tf.clip_by_value(corners, 0.0, limits), tf.shape(boxes))


def load(
    path: str | os.PathLike,
    *,
    threads: int | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    **options: Any,
) -> Detector:
    """A Detector from what training, importing or exporting has left.

    Args:
        path: a run's folder (its best.h5, else last.h5), a .h5 file, a SavedModel's folder or a .tflite file.
        threads: of a TFLite file; None: as many as there are cores. TensorFlow's own are set in tf.config.threading.
        flip: a run looks at the mirrored picture, too.
        scales: a run looks at the picture in so many times the size that it was trained with, each; sides are rounded to what the
            network takes.
        options: over the config's post-processing (`iou=`, `score=`, `soft_sigma=`, `per_class=`); an export has its own inside.

    Raises:
        CheckpointError: there is no model of tfyolo's at the path, or it is damaged.
        ForkError: TensorFlow cannot work in this process.
        ConfigError, ValueError: an option is unknown, or is no number from 0 to 1 where it has to be.
    """
    if not isinstance(path, str | os.PathLike):
        raise checkpoint.CheckpointError(f"expected the path of a run or an export, received {path!r}")
    check_process()
    path = Path(path)
    exported = path.suffix == ".tflite" or (path.is_dir() and (path / "saved_model.pb").exists())
    if exported and (flip or tuple(scales) != (1.0,)):
        raise checkpoint.CheckpointError(f"{path}: an export looks once; to flip and to scale, name the run")
    if path.is_dir() and (path / "saved_model.pb").exists():
        return _load_saved_model(path, options)
    if path.suffix == ".tflite":
        return _load_tflite(path, threads or os.cpu_count(), options)
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise checkpoint.CheckpointError(f"scales: expected numbers above 0, at least one, received {list(scales)}")
    model = load_model(path)
    first, *others = (fuse(_scaled(model, scale)) for scale in scales)
    return Detector.of(first, source=path, flip=flip, others=others, constant=True, **options)


# The name under which describe() lies inside an export: in a SavedModel's assets.extra, and in the zip at a TFLite file's end.
EXPORT_META = "tfyolo.json"


def _exported(path, text):
    """(config, classes, {"nms", "precision"} as of exports.Form, checksum or None) of what lies inside an export. text: bytes."""
    try:
        meta = parse_json(text)
        config, classes, form = configs.from_json(meta["config"]), meta["classes"], meta.get("export", {})
        if not all(isinstance(name, str) for name in [*classes, *form.values()]):
            raise TypeError("its classes have no names")
    except configs.ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise checkpoint.CheckpointError(
            f"{path}: its {EXPORT_META} is not as tfyolo wrote it; export it anew"
        ) from error
    return config, classes, {"nms": "builtin", "precision": "float32"} | form, meta.get("sha256")


def checksums(folder):
    """{file: SHA-256} of all that a SavedModel is loaded from."""
    files = [Path(folder) / "saved_model.pb", *sorted((Path(folder) / "variables").glob("*"))]
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _check_options(path, options):
    if options:
        raise checkpoint.CheckpointError(
            f"{path}: an export has its post-processing inside; {', '.join(options)} can only be set on a run"
        )


def _load_saved_model(path, options):
    described = path / "assets.extra" / EXPORT_META
    if any(not file.is_file() for file in path.rglob("*") if not file.is_dir()):
        raise checkpoint.CheckpointError(
            f"{path}: expected a SavedModel's folder, received one with what is no regular file in it"
        )
    if not described.exists():
        raise checkpoint.CheckpointError(
            f"{path}: expected a SavedModel that tfyolo has exported, but {described} is missing"
        )
    _check_options(path, options)
    config, classes, _, written = _exported(path, read_regular(described))
    if written is not None and written != checksums(path):
        raise checkpoint.CheckpointError(f"{path}: {_OTHER_BYTES}")
    told = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # a warning that nobody can train what is loaded
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # of a dozen kinds, none of them TensorFlow's own
        raise checkpoint.CheckpointError(
            f"{path}: expected a SavedModel that tfyolo has exported, but it does not load; export it anew"
        ) from error
    finally:
        absl.logging.set_verbosity(told)
    signature = loaded.signatures["serving_default"]

    def network(images, _keep=loaded):
        found = signature(images=tf.convert_to_tensor(images))
        return Detections(**{name: found[name] for name in Detections._fields})

    return Detector(config, classes, network, lambda detections: detections, path)


_OTHER_BYTES = "its bytes are not those that were exported: damaged, or changed since. Copy it again, or export it anew"


def _load_tflite(path, threads, options):
    if not path.is_file():
        raise checkpoint.CheckpointError(f"{path}: expected a TFLite file, found none")
    content = path.read_bytes()
    try:
        files, size = metadata.files_behind(content)
        text = files[EXPORT_META]
    except (metadata.DamagedError, KeyError) as error:
        raise _no_tflite(path, error if isinstance(error, metadata.DamagedError) else f"no {EXPORT_META}") from error
    config, classes, form, written = _exported(path, text)
    graph = memoryview(content)[:size]
    if written is not None and written != metadata.checksum(graph):
        raise checkpoint.CheckpointError(f"{path}: {_OTHER_BYTES}")
    try:
        flatbuffer.check(graph)  # exports of earlier versions have no checksum, and those of others may have any
    except flatbuffer.FlatbufferError as error:
        raise _no_tflite(path, error) from error
    del content, graph  # the interpreter maps the file
    if form["nms"] != "none":
        _check_options(path, options)
    interpreter = _Interpreter(path, threads)
    told, taken = interpreter.outputs, interpreter.inputs.get("images")
    size = (*config.model.input_size, 3)
    if (
        form["nms"] not in _OUTPUTS
        or set(told) != _OUTPUTS[form["nms"]]
        or taken is None
        or tuple(taken["shape"][1:]) != size
    ):
        raise _no_tflite(path, f"its inputs and outputs are not those of an export of {EXPORT_META}'s model")

    def run(images):
        """{output: [B, ...]}: as many pictures at once as the file takes, whole numbers where it has them."""
        images = np.asarray(images, "float32")
        if taken["dtype"] == np.uint8:
            images = np.round(255 * images).astype("uint8")
        at_once, found = taken["shape"][0], []
        for i in range(0, len(images), at_once):
            part = images[i : i + at_once]
            rest = at_once - len(part)
            each = interpreter(np.concatenate([part, np.repeat(part[-1:], rest, 0)]) if rest else part)
            found.append({name: value[: len(part)] for name, value in each.items()})
        return {name: _dequantized(np.concatenate([each[name] for each in found]), told[name]) for name in told}

    return Detector(config, classes, *_reading(form, run, config, options), path)


def _no_tflite(path, reason):
    return checkpoint.CheckpointError(
        f"{path}: expected a TFLite file that tfyolo has exported; this one is damaged or another program's ({reason})"
    )


class _Interpreter:
    """The network of a TFLite file: images as it takes them -> {output: array}.

    One thread at a time, since an interpreter writes every answer into the same memory. A process that was forked makes one of its own:
    the threads of the other's are not there.

    Attributes:
        inputs, outputs: {name: {"shape", "dtype", "quantization", ...}}.
    """

    def __init__(self, path, threads):
        self.path, self.threads, self.state = path, threads, _identity(path)
        self.lock = threading.Lock()
        self.runner = self._started()
        self.inputs, self.outputs = self.runner.get_input_details(), self.runner.get_output_details()
        _INTERPRETERS.add(self)

    def _started(self):
        try:
            with warnings.catch_warnings():
                # The interpreter's own end, announced at each start; setup.py pins a TensorFlow that has it.
                warnings.simplefilter("ignore")
                with libraries_silent():  # the delegate's line of INFO
                    interpreter = tf.lite.Interpreter(str(self.path), num_threads=self.threads)
                    interpreter.allocate_tensors()
            return interpreter.get_signature_runner()
        except (ValueError, RuntimeError, KeyError) as error:
            raise _no_tflite(self.path, _line(error)) from error

    def __call__(self, images):
        with self.lock:
            if self.runner is None:
                if _identity(self.path) != self.state:
                    raise checkpoint.CheckpointError(
                        f"{self.path}: was loaded in the process that this one was forked from, and replaced since; load it anew"
                    )
                self.runner = self._started()
            try:
                return self.runner(images=images)
            except (ValueError, RuntimeError) as error:
                raise _no_tflite(self.path, _line(error)) from error

    def renew(self):
        # Never taken down, not at the process's end either: that would wait for the threads that it had in the other process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.runner))
        self.lock, self.runner = threading.Lock(), None


_INTERPRETERS = weakref.WeakSet()


def _after_fork():
    for interpreter in _INTERPRETERS:
        interpreter.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _identity(path):
    """By which a file is told from one that has taken its name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _line(error):
    return " ".join(str(error).split())


def _dequantized(values, details):
    scale, zero = details["quantization"]
    return values if values.dtype.kind == "f" or not scale else (values.astype("float32") - zero) * np.float32(scale)


# The outputs of a TFLite file, by exports.Form's nms.
_OUTPUTS = {
    "builtin": {*Detections._fields},
    "none": {"boxes", "scores"},
    "task": {"location", "category", "score", "number of detections"},
}


def _reading(form, run, config, options):
    """(network, postprocess) of a Detector, from what a TFLite file gives. form: {"nms", "precision"}, as of exports.Form."""
    sides = np.array([*config.model.input_size] * 2, "float32")

    def candidates(images):
        found = run(images)
        # In whole numbers boxes are parts of the picture.
        boxes = found["boxes"] * (sides if form["precision"] == "full-int8" else 1)
        return Candidates(tf.constant(boxes), tf.constant(found["scores"]), None, None, sides[:2])

    def task(images):
        found = run(images)
        count = found["number of detections"].astype("int32")
        padding = np.arange(found["score"].shape[1]) >= count[:, None]  # what stands there may be anything
        boxes = np.where(padding[..., None], 0, found["location"]) * sides
        scores, labels = np.where(padding, 0, found["score"]), np.where(padding, -1, found["category"]).astype("int32")
        return Detections(boxes, scores, labels, count, scores.max(axis=1, initial=0))

    def same(detections):
        return detections

    if form["nms"] == "none":
        return candidates, postprocess(config, **options)
    return task if form["nms"] == "task" else lambda images: Detections(**run(images)), same


# --- many files -----------------------------------------------------------------------------------------------------------------

PICTURES = IMAGES
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


class SourceError(ValueError):
    """What is to be looked at cannot be found or opened."""


def find_pictures(sources):
    """The files that sources mean, in order: files, folders (pictures and videos directly inside), globs.

    Raises SourceError for a source that means nothing.
    """
    files = []
    for source in map(str, sources):
        if os.path.isdir(source):
            found = Tree(source).files(source, PICTURES + VIDEOS)
        elif os.path.exists(source):
            found = [source]
        else:
            given = source.split(os.sep)
            found = [
                path
                for path in sorted(glob.glob(source, recursive=True))
                if all(visible(part) or part in given for part in path.split(os.sep))
            ]
        if not found:
            kind = "folder without pictures" if os.path.isdir(source) else "name that no file answers to"
            raise SourceError(f"{source}: expected a picture, a video, a folder or a glob, received a {kind}")
        files += found
    return files


def check(source, most_pixels=MOST_PIXELS):
    """Raises SourceError or ImageError if a file is no picture and no video, or a camera (its number) does not open."""
    if isinstance(source, int) or source.lower().endswith(VIDEOS):
        frames(source, most_pixels)
    else:
        pipeline.read_image(source, most_pixels)


def frames(source, most_pixels=MOST_PIXELS):
    """The frames of a video file (its path) or a camera (its number): [H, W, 3] uint8 RGB; and how many a second.

    Raises SourceError if it does not open, or if its frames have more than most_pixels.
    """
    if not isinstance(source, int) and not os.path.isfile(source):  # where OpenCV may wait for ever
        raise SourceError(f"{source}: expected a camera or a video, received {what_is(source)}")
    with libraries_silent():  # what is wrong is said below, once
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        what = f"camera {source}" if isinstance(source, int) else source
        raise SourceError(f"{what}: expected a camera or a video that OpenCV can read, it does not open")

    height, width = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    if height * width > most_pixels:
        capture.release()
        raise SourceError(
            f"{source}: expected frames of at most {most_pixels:,} pixels, received {height:,} x {width:,} (H x W)"
        )

    def each():
        try:
            while (frame := capture.read())[0]:
                yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    return each(), capture.get(cv2.CAP_PROP_FPS) or 25.0


def detect_video(detector, source, out, *, score=0.25, limit=None, progress=True):
    """Draws what is found in a video or by a camera into the video file `out`; gives a row of to_json() per frame, with "frame".

    limit: the most frames to read. Ctrl-C ends it; what was read until then is kept. The folder of `out` is made; where nothing can be
    read, nothing is left. Raises SourceError.
    """
    pictures, rate = frames(source, detector.max_pixels)
    out, writer, rows = Path(out), None, []
    bar = tqdm(pictures, desc=printable(source), unit="frame", total=limit, disable=not progress or None)
    with contextlib.closing(pictures), contextlib.ExitStack() as written:
        try:
            for number, picture in enumerate(bar):
                found = detector(picture, score)
                rows.append({**found.to_json(), "file": str(source), "frame": number})
                if writer is None:  # only now its size is known
                    height, width = picture.shape[:2]
                    out.parent.mkdir(parents=True, exist_ok=True)
                    aside = written.enter_context(checkpoint.atomic(out))
                    writer = cv2.VideoWriter(str(aside), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
                    written.callback(writer.release)  # which completes the file, before it gets its name
                writer.write(cv2.cvtColor(found.draw(), cv2.COLOR_RGB2BGR))
                if limit and number + 1 >= limit:
                    break
        except KeyboardInterrupt:
            bar.write(f"stopped after {counted(len(rows), 'frame')}", file=sys.stderr)
    if not rows:
        raise SourceError(f"{source}: expected a video, not one frame could be read")
    return rows
