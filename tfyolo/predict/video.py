"""Detection over the frames of a video, drawn into a video."""

import contextlib
import sys
from pathlib import Path

import cv2
from tqdm import tqdm

from tfyolo.files import atomic_file
from tfyolo.messages import counted, printable
from tfyolo.predict.media import SourceError, frames


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
                    aside = written.enter_context(atomic_file(out))
                    writer = cv2.VideoWriter(str(aside), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
                    if not writer.isOpened():
                        raise SourceError(
                            f"{out}: expected a video's name that OpenCV can write {width} x {height} frames to as mp4v, such as "
                            f"found.mp4; received the suffix {out.suffix!r} or a codec that is missing; name a .mp4 file"
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
