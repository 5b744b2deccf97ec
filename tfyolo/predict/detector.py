"""A detector: images in, boxes in the image's own pixels out."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Union, overload

import numpy as np
from PIL import Image

from tfyolo import config as configs
from tfyolo.data.headers import MOST_PIXELS
from tfyolo.devices import check_process
from tfyolo.messages import counted, printable
from tfyolo.predict import imaging
from tfyolo.predict.detections import ImageDetections
from tfyolo.predict.media import each_file, each_image, find_images, is_many, read_image_like

if TYPE_CHECKING:  # a device that only detects has no TensorFlow
    import tensorflow as tf

    from tfyolo.model import Model

# One image: a path, the bytes of a file, a PIL image, or an array or tensor [H, W], [H, W, 3] or [H, W, 4] of uint8.
ImageLike = Union[str, os.PathLike, bytes, Image.Image, np.ndarray, "tf.Tensor"]


class Detector:
    """Images in, boxes out; from a run, a SavedModel or a TFLite file alike.

        detector = tfyolo.load("runs/x")
        found = detector("photo.jpg")
        for found in detector.stream("holiday/"): ...

    Any number of threads may call one detector. A process forked after it was used cannot: that is a ForkError.

    Attributes:
        classes: names in label order.
        input_size: (H, W) of the network's input.
        preprocess: how images are brought to it, a key of data.geometry.FITS.
        config: the Config that it was trained with.
        network: images [B, H, W, 3] float32 0..1 -> what postprocess takes.
        postprocess: that -> Detections in pixels of the network's input. An export with NMS included does all in
            `network`; its postprocess returns what it gets.
        source: where it was loaded from.
        max_pixels: of an image file; a larger one is an error before it is decoded. Set it to allow more.
    """

    def __init__(self, config, classes, network, postprocess, source):
        self.config: configs.Config = config
        self.classes: tuple[str, ...] = tuple(map(printable, classes))
        self.input_size: tuple[int, int] = tuple(config.model.input_size)
        self.preprocess: str = config.model.preprocess
        self.network, self.postprocess = network, postprocess
        self.source = str(source)
        self.max_pixels = MOST_PIXELS

    @classmethod
    def of(
        cls,
        model: "Model",
        source: str | os.PathLike = "a model in memory",
        *,
        flip: bool = False,
        others: Sequence["Model"] = (),
        constant: bool = False,
        **options: Any,
    ) -> "Detector":
        """A detector of a Model. It uses the weights that the network has at each call, unless they are made constant.

        Args:
            model: the Model. The detector's input size is the largest of its own and of the others'.
            source: where it is from, for messages.
            flip: test-time augmentation (TTA): run on the flipped image, too.
            others: TTA: Models of the same network for other sizes (model.resized), to run on the image, too. The
                candidates of all go through one NMS.
            constant: turn the weights into constants of the graph now: a single image is faster, later training has no
                effect.
            options: over the config's post-processing.

        Raises:
            ConfigError: an option is unknown or out of its range, or TTA meets a post-processing without NMS, which
                cannot join the candidates.
            ValueError: an option has a wrong value.
        """
        from tfyolo.predict.in_memory import functions_of

        config, network, select = functions_of([model, *others], flip=flip, constant=constant, **options)
        return cls(config, model.classes, network, select, source)

    def __repr__(self):
        height, width = self.input_size
        return (
            f"<Detector {self.config.name} of {self.source}: {counted(len(self.classes), 'class')}, {height} x {width}>"
        )

    @overload
    def __call__(self, image: list | tuple, score: float = 0.25, *, batch: int = 8) -> "list[ImageDetections]": ...

    @overload
    def __call__(self, image: ImageLike, score: float = 0.25, *, batch: int = 8) -> "ImageDetections": ...

    def __call__(self, image, score=0.25, *, batch=8):
        """Finds the objects in an image, or in each of a list of them.

        Args:
            image: a path, the bytes of a file, a PIL image, or an array or tensor [H, W, 3], [H, W] or [H, W, 4] of
                uint8 in RGB order (alpha is dropped); or a list of these, or [B, H, W, 3]. A folder, a video or a glob
                goes to stream().
            score: the confidence threshold, 0..1.
            batch: how many of a list go through the network at once.

        Returns:
            ImageDetections, in pixels of the image; a list of them for a list; an iterator of them for a folder, a
            video or a glob.

        Raises:
            ImageError: something cannot be read as an image.
            ValueError: score is not in 0..1, or batch not above 0.
        """
        _check_unit(score=score)
        _check_above_0(batch=batch)
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            rows = ((*read_image_like(each, self.max_pixels), None) for each in image)
            return list(self._in_batches(rows, score, batch))
        if isinstance(image, str | os.PathLike) and is_many(os.fspath(image)):
            return self.stream(image, score, batch=batch)
        return self.find([(*read_image_like(image, self.max_pixels), None)], score)[0]

    def stream(
        self,
        source: ImageLike | int | Iterable[Any],
        score: float = 0.25,
        *,
        batch: int = 8,
        skipped: list | None = None,
    ) -> "Iterator[ImageDetections]":
        """Finds the objects in many images, each read when its turn comes, files a few before it.

        Args:
            source: a folder (images and videos directly inside), a video, a glob, a camera's number, an image, or any
                iterable of these. A video or camera gives every frame.
            score: the confidence threshold, 0..1.
            batch: how many images go through the network at once; of a camera always one.
            skipped: a list that gets (file, reason) of what cannot be read; None: that is an error.

        Returns:
            An iterator of ImageDetections; `file`, and in a video `frame`, say where each is from.

        Raises:
            SourceError: a source is missing: raised at once, or for an iterable when its turn comes.
            ImageError: an image cannot be read, when its turn comes.
            ValueError: score is not in 0..1, or batch not above 0.
        """
        _check_unit(score=score)
        _check_above_0(batch=batch)
        if isinstance(source, str | os.PathLike):
            return self._in_batches(each_file(find_images([source]), skipped, self.max_pixels), score, batch)
        if isinstance(source, int):
            source, batch = [source], 1
        elif not isinstance(source, Iterable) or _is_image(source):
            source = [source]
        return self._in_batches(each_image(source, skipped, self.max_pixels), score, batch)

    def _in_batches(self, rows, score, batch):
        rows = iter(rows)
        while some := list(itertools.islice(rows, batch)):
            yield from self.find(some, score)

    def find(self, rows: Sequence[tuple[np.ndarray, str | None, int | None]], score: float) -> "list[ImageDetections]":
        """Finds the objects in images that are read, all at once.

        Args:
            rows: (image [H, W, 3] uint8 RGB, its file or None, its frame in a video or None) of each.
            score: the confidence threshold, 0..1.

        Returns:
            The ImageDetections of each.
        """
        check_process()
        images = [image for image, _, _ in rows]
        batch, transforms = imaging.prepared(images, self.input_size, self.preprocess)
        found = self.postprocess(self.network(batch))
        boxes = imaging.restored(found.boxes, transforms, [image.shape[:2] for image in images])
        columns = (boxes, found.scores, found.labels, found.best)
        found = zip(*map(np.asarray, columns), rows, strict=True)
        return [self._kept(*detections, score, *row) for *detections, row in found]

    def _kept(self, boxes, scores, labels, best, score, image, file, frame):
        # A box without an extent is padding, or lay wholly in the margins of the letterbox.
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept = inside & (scores >= score)
        return ImageDetections(boxes[kept], scores[kept], labels[kept], self.classes, float(best), image, file, frame)


def _is_image(source):
    return isinstance(source, bytes | Image.Image) or hasattr(source, "__array__")


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
