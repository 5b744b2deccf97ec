"""What is found in an image: boxes, scores, classes; drawn, saved, handed on to other libraries."""

import dataclasses
import importlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from PIL import Image, ImageShow

from tfyolo.files import write_text
from tfyolo.messages import listed
from tfyolo.predict.media import SourceError
from tfyolo.visualize import drawing, image_files

if TYPE_CHECKING:
    import pandas
    import supervision


class Detection(NamedTuple):
    """One object in an image.

    Attributes:
        name: its class.
        label: the class's number.
        score: 0..1.
        box: (y1, x1, y2, x2) in pixels of the image.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageDetections:
    """What was found in one image, best first: len() counts, iteration gives a Detection for each.

    Attributes:
        boxes: [D, 4] float32 (y1, x1, y2, x2) in pixels of the image.
        scores: [D] float32 in 0..1.
        labels: [D] int32.
        classes: the names in label order.
        best: the highest score of any candidate, above the confidence threshold or not.
        image: [H, W, 3] uint8 RGB.
        file: the image's path, None if it came from memory.
        frame: its number in the video `file`, else None.
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
        """The Detection at an index; for a slice, a mask or a list of indices, the ImageDetections that are left."""
        if not isinstance(index, int | np.integer):
            rows = {name: getattr(self, name)[index] for name in ("boxes", "scores", "labels")}
            return dataclasses.replace(self, **rows)
        label = int(self.labels[index])
        return Detection(self.classes[label], label, float(self.scores[index]), tuple(self.boxes[index].tolist()))

    def __repr__(self):
        height, width = self.image.shape[:2]
        where = (self.file or "image") + (f" frame {self.frame}" if self.frame is not None else "")
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items()) or "nothing"
        return f"<ImageDetections {where}, {height} x {width}: {counts}; best score {self.best:.3g}>"

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

    def of_classes(self, names: Sequence[str]) -> "ImageDetections":
        """The detections of some classes alone.

        Args:
            names: of classes.

        Raises:
            ValueError: the model knows no such class.
        """
        if unknown := [name for name in names if name not in self.classes]:
            raise ValueError(
                f"expected classes of the model, {listed(self.classes, 80)}, received {listed(unknown, 8)}"
            )
        return self[np.isin(self.labels, [self.classes.index(name) for name in names])]

    def to_yolo(self) -> str:
        """The lines of a YOLO label file: label, the box's middle (x, y), width and height, in 0..1 of the image."""
        height, width = self.image.shape[:2]
        x1, y1, x2, y2 = (self.boxes_xyxy / [width, height, width, height]).T
        rows = zip(self.labels, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, strict=True)
        return "".join(f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for label, x, y, w, h in rows)

    def crops(self) -> list[np.ndarray]:
        """What of the image lies in each box, [h, w, 3] uint8 RGB; at least one pixel."""
        height, width = self.image.shape[:2]
        found = []
        for y1, x1, y2, x2 in self.boxes.tolist():
            top, left = min(int(y1), height - 1), min(int(x1), width - 1)
            found.append(self.image[top : max(math.ceil(y2), top + 1), left : max(math.ceil(x2), left + 1)])
        return found

    def draw(self) -> np.ndarray:
        """The image with boxes, classes and scores: [H, W, 3] uint8 RGB."""
        return drawing.draw(self.image, self.boxes, self.labels, self.scores, self.classes)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, as detections.json holds them.

        Returns:
            {"file", "height", "width", "best", "detections": [{"class", "label", "score", "box_xyxy"}]}; scores have
            four decimals, boxes two.
        """
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
        """Writes the image with its boxes, or to_json(): complete or not at all.

        Args:
            path: of the file, by its suffix an image (.jpg, .png, ...) or .json; its folder is made.

        Returns:
            The path.

        Raises:
            DrawingError: the suffix is unknown.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self.to_json(), indent=1, ensure_ascii=False))
        else:
            image_files.save(path, self.draw())
        return path

    def show(self) -> None:
        """Shows the image with its boxes: in a notebook below its cell, elsewhere in the system's viewer.

        Raises:
            SourceError: the system has no viewer.
        """
        drawn = Image.fromarray(self.draw())
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is not None and hasattr(shell, "kernel"):
            sys.modules["IPython"].display.display(drawn)
        elif not ImageShow.show(drawn, title=self.file):
            raise SourceError("expected a program that shows pictures, found none on this machine; use save(path)")

    def to_supervision(self) -> "supervision.Detections":
        """The detections for the library supervision, with the names as data["class_name"].

        Raises:
            ImportError: the library is missing; `pip install supervision`.
        """
        library = _library("supervision", "to_supervision")
        names = np.array(self.names, dtype=str)
        labels = self.labels.astype(int)
        return library.Detections(self.boxes_xyxy, confidence=self.scores, class_id=labels, data={"class_name": names})

    def to_pandas(self) -> "pandas.DataFrame":
        """A DataFrame with columns name, label, score, y1, x1, y2, x2.

        Raises:
            ImportError: the library is missing; `pip install pandas`.
        """
        library = _library("pandas", "to_pandas")
        columns = {"name": self.names, "label": self.labels, "score": self.scores}
        return library.DataFrame(columns | dict(zip(("y1", "x1", "y2", "x2"), self.boxes.T, strict=True)))


def _library(name, method):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{method}() needs {name}: pip install {name} ({error})", name=name) from error
