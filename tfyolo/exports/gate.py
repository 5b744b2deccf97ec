"""The gate: every export is run beside the model and compared, and evaluated where there are data."""

import statistics
import time

import numpy as np
import tensorflow as tf

from tfyolo.evaluation.metrics import score_shift
from tfyolo.evaluation.run import evaluated
from tfyolo.exports.targets import WITH_NMS, ExportError, RefusedError, size_of
from tfyolo.graph.fusion import fuse
from tfyolo.model import without_quantization
from tfyolo.predict.detector import Detector
from tfyolo.predict.load import load
from tfyolo.structures import Detections

THRESHOLD = 0.25  # the confidence threshold of detect


class Gate:
    """Runs what was written, beside the Model.

    Attributes:
        model: the Model.
        validation: the Source on which AP is compared, or None.
        max_drop: the most AP that may be lost, 0..1; None: that of the target's precision.
        typical: () -> a batch of images of the data or None; called for targets alone whose errors depend on them.
    """

    def __init__(self, model, validation, max_drop, typical):
        self.typical = typical
        self.model, self.validation, self.max_drop = model, validation, max_drop
        # After QAT, targets that are not quantized are compared with the model without fake quantization.
        unquantized, own = without_quantization(model), Detector.of(fuse(model))
        self.detectors = {True: own, False: own if unquantized is model else Detector.of(fuse(unquantized))}
        self.references = {}  # {Detector: its Evaluated}
        height, width = model.input_size
        # Noise of all scales, as in images.
        rng = np.random.default_rng(0)
        layers = [tf.image.resize(rng.random((3, 2**k, 2**k, 3)), (height, width)).numpy() for k in (1, 3, 5, 8)]
        self.noise = _with_black(np.mean(layers, axis=0))

    def check(self, target, path):
        """Runs a file beside the Model.

        Args:
            target: its Target.
            path: where it was written.

        Returns:
            The report: {"bytes", "best_score_off", "scores_off", "boxes_off", "ms", "keras_ms"}; with data "AP",
                "keras_AP", "drop", "F1", "keras_F1", "score_shift".

        Raises:
            RefusedError: outputs lie too far from the model's, or lose too much AP or F1, or scores are others.
            ExportError: outputs contradict themselves.
        """
        quantized = target.limits.quantized
        own, detector = self.detectors[quantized], load(path)
        typical = self.typical() if target.limits.depends_on_images else None
        images, what = (self.noise, "noise") if typical is None else (_with_black(typical[:3]), "the data")
        report = {"bytes": size_of(path), **self._compared(target, own, detector, images)}
        report |= {"ms": _milliseconds(detector, self.noise), "keras_ms": _milliseconds(own, self.noise)}
        self._check_distances(target, report, what)
        if self.validation is not None and own not in self.references:
            self.references[own] = evaluated(own, self.validation, progress=False)
        reference = self.references.get(own)
        if reference and not np.isnan(reference.report.metrics["AP"]):  # as it is without ground truth
            report |= _figures(reference, evaluated(detector, self.validation, progress=False))
            self._check_figures(target, report)
        return report

    def _check_figures(self, target, report):
        """Raises RefusedError if a file loses too much AP or F1, or its scores are others."""
        most = self.max_drop if self.max_drop is not None else target.limits.max_drop
        for name, most_of_it in (("AP", most), ("F1", 2 * most)):
            own, drop = report[f"keras_{name}"], report[f"keras_{name}"] - report[name]
            if not drop <= most_of_it:
                where = f" at confidence threshold {THRESHOLD:g}" if name == "F1" else ""
                raise RefusedError(
                    f"{target.name}: its {name}{where} is {report[name]:.4f}, {drop:.4f} below the model's {own:.4f}; "
                    f"at most {most_of_it:g} may be lost (--max-drop). The file was not kept. {_advice(target)}",
                    report,
                )
        shift, limit = report["score_shift"], max(target.limits.max_shift, most)
        if abs(shift) > limit:
            raise RefusedError(
                f"{target.name}: the scores of what it finds with the model are {abs(shift):.3f} "
                f"{'lower' if shift < 0 else 'higher'} in the mean; at most {limit:g} is allowed (--max-drop). The "
                f"file was not kept. {_advice(target)}",
                report,
            )

    def _compared(self, target, own, detector, images):
        """How far every output of the file lies from the model's, at most."""
        score, quantized, size = target.limits.score_off, target.limits.quantized, self.model.input_size
        every = []
        for image in images:
            outputs = [each.network(image[None]) for each in (own, detector)]
            if target.limits.integer and target.nms == "none":  # which knows no box beyond the image
                outputs[0] = outputs[0]._replace(
                    boxes=tf.clip_by_value(outputs[0].boxes, 0.0, np.array([*size] * 2, "f4"))
                )
            found = [
                tf.nest.map_structure(lambda x: np.asarray(x)[0], each.postprocess(output))
                for each, output in zip((own, detector), outputs, strict=True)
            ]
            if fault := _malformed(found[1], len(self.model.classes), self.model.postprocess.score):
                raise ExportError(f"{target.name}: {fault}. The file was not kept. Please report it.")
            pairs = [found, [_as_detections(each) for each in outputs]] if target.nms not in WITH_NMS else [found]
            for mine, theirs in pairs:
                if mine.boxes.shape != theirs.boxes.shape:
                    shapes = f"boxes {list(theirs.boxes.shape)} where the model has {list(mine.boxes.shape)}"
                    raise ExportError(f"{target.name}: it gives {shapes}. The file was not kept. Please report it.")
                more = theirs.best - mine.best
                if image.any():
                    apart = max(_apart(mine, theirs, score), _apart(theirs, mine, score))
                    every.append([abs(more), np.abs(mine.scores - theirs.scores).mean(), apart])
                else:  # cells are alike, and of boxes of one score it is chance which stay
                    # Black is unlike anything calibrated: int8 may see less there, but not more.
                    every.append([max(more, 0.0) if quantized else abs(more), 0.0, 0.0])
        names = ("best_score_off", "scores_off", "boxes_off")
        return dict(zip(names, map(float, np.max(every, axis=0)), strict=True))  # NaN, if one is

    def _check_distances(self, target, off, what):
        """Raises RefusedError if outputs lie too far from the model's. what: the images that they were compared on."""
        score, pixels = target.limits.score_off, target.limits.boxes_off * max(self.model.input_size) / 100
        if not (off["best_score_off"] <= score and off["scores_off"] <= score and off["boxes_off"] <= pixels):
            raise RefusedError(
                f"{target.name}: on images of {what} its best score is off by {off['best_score_off']:.3g}, its scores "
                f"by {off['scores_off']:.3g} (at most {score:g}), its boxes by {off['boxes_off']:.3g} pixels (at most "
                f"{pixels:.3g}). The file was not kept. {_advice(target)}",
                off,
            )


def _figures(reference, found):
    """What the report says of an Evaluated file beside the Evaluated model."""
    own, ap = reference.report, found.report.metrics["AP"]
    return {
        "AP": ap,
        "keras_AP": own.metrics["AP"],
        "drop": own.metrics["AP"] - ap,
        "F1": found.report.f1_at(THRESHOLD),
        "keras_F1": own.f1_at(THRESHOLD),
        "score_shift": score_shift(reference.found, found.found, THRESHOLD),
    }


def _with_black(images):
    """The images [n, H, W, 3] and a black one, rounded to the integers that some files read.

    The black one shows what follows few detections.
    """
    images = np.concatenate([images, np.zeros_like(images[:1])])
    return (np.round(255 * np.clip(images, 0, 1)) / 255).astype("float32")


def _malformed(found, classes, least):
    """What is wrong with Detections of one image that contradict themselves; None if nothing is."""
    above = int(np.sum(found.scores > least))
    if int(found.count) != above:
        return f"its count is {int(found.count)}, where {above} of its scores are above {least:g}"
    if found.boxes[above:].any() or found.scores[above:].any() or (found.labels[above:] != -1).any():
        return f"behind its {above} detections stand others, where boxes and scores are to be 0 and labels -1"
    labels = found.labels[:above]
    if (
        not np.isfinite(found.boxes).all()
        or np.any(np.diff(found.scores) > 0)
        or np.any((labels < 0) | (labels >= classes))
    ):
        return f"its detections are not finite, not best first or not of labels below {classes}"
    return None


def _as_detections(candidates):
    """Candidates, best first, each with its best class; [N] of the first image."""
    boxes, scores = (np.asarray(x)[0] for x in (candidates.boxes, candidates.scores))
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    return Detections(boxes[order], best[order], scores.argmax(axis=1)[order], len(order), best.max(initial=0.0))


def _advice(target):
    if not target.limits.quantized:
        return "Please report it."
    return (
        "More, or more typical, images for --data may help; quantization-aware training does: tfyolo train RUN "
        "model.quantize=true"
    )


def _apart(mine, theirs, margin, least=0.3):
    """Pixels between the clear detections of one and the nearest of the other's of their class, the median."""
    clear = np.flatnonzero(mine.scores >= least + margin)
    found = []
    for i in clear[:50]:
        same = theirs.labels == mine.labels[i]
        gaps = np.abs(theirs.boxes[same] - mine.boxes[i]).max(axis=1)
        found.append(gaps.min() if len(gaps) else max(mine.boxes[i].max(), 1.0))
    return float(np.median(found)) if found else 0.0


def _milliseconds(detector, images, calls=12):
    """The median of one image, from the network's input to detections."""
    taken = []
    for i in range(calls + 2):
        start = time.perf_counter()
        found = detector.postprocess(detector.network(images[i % len(images)][None]))
        np.asarray(found.boxes)
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken[2:]), 3)
