"""Detection over the frames of a video, drawn into a video."""

import contextlib
import sys
from pathlib import Path

from tqdm import tqdm

from tfyolo.files import atomic_file
from tfyolo.messages import counted, printable
from tfyolo.predict.media import SourceError, frames


def detect_video(detector, source, out, *, score=0.25, limit=None, progress=True, saved=None):
    """Draws detections into a video. Ctrl-C ends it; what was read until then is kept.

    Args:
        detector: a Detector.
        source: a video's path, or a camera's number.
        out: the video to write; its folder is made.
        score: the confidence threshold, 0..1.
        limit: the most frames to read; None: all.
        progress: whether a bar is shown.
        saved: (ImageDetections, out, number of the frame) -> those that count, as Saving.saved; None: all do.

    Returns:
        For each frame the dict of ImageDetections.to_json(), with "frame".

    Raises:
        SourceError: nothing can be read, or `out` cannot be written as a video; then nothing is left.
    """
    images, rate = frames(source, detector.max_pixels)
    import cv2  # not on every device; frames() says so

    out, writer, rows = Path(out), None, []
    bar = tqdm(images, desc=printable(source), unit="frame", total=limit, disable=not progress or None)
    with contextlib.closing(images), contextlib.ExitStack() as written:
        try:
            for number, image in enumerate(bar):
                found = detector(image, score)
                found = saved(found, out, number) if saved else found
                rows.append({**found.to_json(), "file": str(source), "frame": number})
                if writer is None:  # its size is known only now
                    height, width = image.shape[:2]
                    out.parent.mkdir(parents=True, exist_ok=True)
                    aside = written.enter_context(atomic_file(out))
                    writer = cv2.VideoWriter(str(aside), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
                    if not writer.isOpened():
                        raise SourceError(
                            f"{out}: expected a video's name that OpenCV can write {width} x {height} frames to as "
                            f"mp4v, such as found.mp4; received the suffix {out.suffix!r} or a codec that is missing; "
                            "name a .mp4 file"
                        )
                    written.callback(writer.release)  # which completes the file, before it gets its name
                writer.write(cv2.cvtColor(found.draw(), cv2.COLOR_RGB2BGR))
                if limit and number + 1 >= limit:
                    break
        except KeyboardInterrupt:
            bar.write(f"stopped after {counted(len(rows), 'frame')}", file=sys.stderr)
    if not rows:
        raise SourceError(f"{source}: expected a video, not one frame could be read")
    return rows
