"""Detection in files, one after the other: for each a drawing, rows for JSON, and a line on what was found."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from tfyolo.data.contents import ImageError
from tfyolo.files import write_text
from tfyolo.messages import counted, listed
from tfyolo.predict import media, video
from tfyolo.visualize import image_files

BATCH = 4  # images through the network at once


class Detected(NamedTuple):
    """What was found in one source.

    Attributes:
        source: the path of an image or a video, or the number of a camera.
        drawing: the file that its drawing was written to.
        rows: one for an image, one a frame for a video, as ImageDetections.to_json gives them.
        summary: "2 cat, 1 dog".
        error: why it could not be read; then there are no rows.
    """

    source: str | int
    drawing: Path
    rows: list[dict[str, Any]]
    summary: str = ""
    error: str | None = None


def drawing_paths(sources: Sequence[str], folder: Path) -> list[Path]:
    """The file in a folder for each source's drawing: named like the source, numbered where another has that name."""
    names = {}  # in order
    for path in map(Path, sources):
        suffix = ".mp4" if media.is_video(path) else ".jpg"
        name, number = path.stem + suffix, 2
        while name in names:
            name, number = f"{path.stem}-{number}{suffix}", number + 1
        names[name] = None
    return [folder / name for name in names]


class Saving(NamedTuple):
    """What is kept of detections, beside drawings and rows for JSON.

    Attributes:
        classes: names of those that count; None: all.
        labels: a folder for a YOLO label file of each image or frame; None: none are written.
        crops: a folder for what lies in each box, in a folder for each class; None: none are written.
    """

    classes: Sequence[str] | None = None
    labels: Path | None = None
    crops: Path | None = None

    def saved(self, found, drawing, frame=None):
        """Keeps what there is to keep of ImageDetections.

        Args:
            found: the ImageDetections.
            drawing: the path of their drawing, after which files are named.
            frame: its number, in a video.

        Returns:
            Those of the classes that count.
        """
        found = found if self.classes is None else found.of_classes(self.classes)
        name = drawing.stem if frame is None else f"{drawing.stem}/{frame:06d}"  # which no image is called
        if self.labels:
            file = self.labels / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, found.to_yolo())
        if self.crops:
            for number, (each, crop) in enumerate(zip(found, found.crops(), strict=True), 1):
                folder = self.crops / (re.sub(r"[^\w.-]+", "_", each.name).strip(".")[:80] or "_")  # never a parent
                image_files.save(folder / f"{name}-{number}.jpg", crop)
        return found


EVERYTHING = Saving()


def detect_each(
    detector,
    sources: Sequence[str | int],
    drawings: Sequence[Path],
    *,
    score=0.25,
    limit=None,
    progress=True,
    saving=EVERYTHING,
) -> Iterator[Detected]:
    """Runs a detector over images, videos and cameras, and draws what it finds.

    Args:
        detector: a Detector.
        sources: paths of images and videos, numbers of cameras.
        drawings: the file to draw each into.
        score: the confidence threshold, 0..1.
        limit: the most frames of a video or a camera; None: all.
        progress: shows a bar on standard error; videos have a bar of their own.
        saving: what else is kept.

    Yields:
        A Detected for each source; one that cannot be read has an `error`.
    """
    with tqdm(total=len(sources), unit="file", disable=not progress or len(sources) < 2 or None) as bar:
        for moves, pairs in itertools.groupby(
            zip(sources, drawings, strict=True), lambda pair: media.is_video(pair[0])
        ):
            if not moves:
                for found in _in_images(detector, pairs, score, saving):
                    yield found
                    bar.update()
                continue
            for source, path in pairs:
                try:
                    options = {"score": score, "limit": limit, "progress": progress, "saved": saving.saved}
                    rows = video.detect_video(detector, source, path, **options)
                    yield Detected(source, path, rows, _of_frames(rows, score, saving.classes))
                except (ImageError, media.SourceError) as error:
                    yield Detected(source, path, [], error=str(error))
                bar.update()


def _in_images(detector, pairs, score, saving):
    """A Detected for each (source, drawing) of images, which are read ahead and drawn behind, on all cores."""

    def found_in_batches():
        """(source, drawing, ImageDetections or the error), in order."""
        reading = media.ahead(lambda pair: media.read_image_like(pair[0], detector.max_pixels), pairs)
        while some := list(itertools.islice(reading, BATCH)):
            rows, errors = [], {}
            for i, (_, result) in enumerate(some):
                try:
                    rows.append((*result(), None))
                except ImageError as error:
                    errors[i] = error
            found = iter(detector.find(rows, score) if rows else ())
            yield from ((*pair, errors[i] if i in errors else next(found)) for i, (pair, _) in enumerate(some))

    def drawn(each):
        source, path, found = each
        if isinstance(found, ImageError):
            return Detected(source, path, [], error=str(found))
        found = saving.saved(found, path)
        image_files.save(path, found.draw())
        return Detected(source, path, [found.to_json()], _of_image(found, score, saving.classes))

    for _, result in media.ahead(drawn, found_in_batches()):
        yield result()


def _of_frames(rows, score, classes):
    if not any(row["detections"] for row in rows):
        return f"{counted(len(rows), 'frame')}, {_nothing(score, max(row['best'] for row in rows), classes)}"
    return f"{counted(len(rows), 'frame')}, {counted(sum(len(row['detections']) for row in rows), 'detection')}"


def _of_image(found, score, classes):
    if not len(found.boxes):
        return _nothing(score, found.best, classes)
    return ", ".join(f"{count} {name}" for name, count in found.counts.items())


def _nothing(score, best, classes):
    if classes is not None:  # the highest score may be of another class
        return f"no {listed(classes, 8)} above {score}"
    return f"nothing above {score}; the highest score seen is {best:.3g}"
