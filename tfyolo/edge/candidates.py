"""Decoding and NMS on a device, of files that leave them to it: edge.decoder under the config's post-processing."""

import numpy as np

from tfyolo.config import parts
from tfyolo.config.schema import Part
from tfyolo.edge import decoder
from tfyolo.structures import Candidates, Detections


def logits_read(config):
    """A function that decodes integer heads: {output: array} -> Candidates.

    Args:
        config: the Config of the model.
    """
    size = tuple(config.model.input_size)

    def read(found):
        images = zip(found["class_logits"], found["box_logits"], strict=True)
        decoded = (decoder.decoded(*image, size) for image in images)
        boxes, scores = (np.stack(each).astype("float32") for each in zip(*decoded, strict=True))
        return Candidates(boxes, scores, None, None, np.array(size, "float32"))

    return read


def postprocess(config, **options):
    """The config's post-processing: Candidates -> Detections.

    Args:
        config: the Config.
        options: in place of the config's.

    Raises:
        ConfigError: an option is unknown or out of its range, or is one that only TensorFlow's has.
    """
    part = config.model.postprocess
    known = parts.options_of(parts.builders("postprocess")[part.name])
    own = parts.check_options(config, "model.postprocess", part, known)
    given = parts.check_options(config, "model.postprocess", Part(name=part.name, **options), known)
    options = {name: each.default for name, each in known.items()} | own | given
    taken = {"score", "limit", "iou", "candidates_limit"}
    for name in options.keys() - taken:
        if options[name] != known[name].default:
            raise config.error(
                f"model.postprocess.{name}",
                f"expected {known[name].default!r} where there is no TensorFlow, received {options[name]!r}; export "
                "with NMS inside (--nms builtin), or pip install 'tfyolo[train]'",
            )
    options = {name: options[name] for name in options.keys() & taken}
    if part.name == "top":  # nothing overlaps by more than 1
        options |= {"iou": 1.0, "candidates_limit": options["limit"]}

    def select(candidates):
        rows = [
            _padded(decoder.nms(boxes, scores, candidates.size, **options), scores, options["limit"])
            for boxes, scores in zip(candidates.boxes, candidates.scores, strict=True)
        ]
        return Detections(*map(np.stack, zip(*rows, strict=True)))

    return select


def _padded(found, scores, limit):
    """Detections of one image from (boxes, scores, labels) of edge.decoder.nms."""
    count = len(found[2])
    padded = [
        np.concatenate([each, np.full((limit - count, *each.shape[1:]), value, each.dtype)])
        for each, value in zip(found, (0, 0, -1), strict=True)
    ]
    return Detections(*padded, count=np.int32(count), best=scores.max(initial=0))
