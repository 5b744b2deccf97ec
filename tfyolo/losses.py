"""Losses: elementwise functions, and the objectives that sum them up, term by term.

    objective(raw, candidates, sample, total=local) -> {name: weighted scalar}

Each term is this replica's part of the sum over the global batch, already divided by a count over the global batch; so the gradients
of the replicas add up to the gradient of the whole batch. total(x) sums a count over all replicas; alone, it is the identity.
"""

from keras import ops

from tfyolo.boxes import OVERLAPS, area, intersection
from tfyolo.decoders import by_level, check_levels
from tfyolo.structures import BACKGROUND, IGNORE


def local(x):
    """The total over one replica: the count itself."""
    return x


def bce(targets, logits):
    """Binary cross-entropy of logits, elementwise, in the form that does not overflow."""
    return ops.maximum(logits, 0.0) - logits * targets + ops.log1p(ops.exp(-ops.absolute(logits)))


def focal(targets, logits, alpha=0.25, gamma=2.0):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002, eq. 5), elementwise: the easy examples count less.

    targets in 0..1. alpha weighs positives against negatives.
    """
    p = ops.sigmoid(logits)
    p_t = targets * p + (1 - targets) * (1 - p)
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    # The floor keeps the gradient of the power finite where p_t rounds to 1.
    return weight * ops.power(ops.maximum(1 - p_t, 1e-9), gamma) * bce(targets, logits)


def squared(targets, values):
    """Squared error, elementwise."""
    return ops.square(targets - values)


TERMS = {"bce": bce, "focal": focal, "squared": squared}


def softmax_cross_entropy(targets, logits):
    """Cross-entropy of one class out of K: targets that add up to 1, logits [..., K] -> [...]."""
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


class Dense:
    """Box, objectness and class terms over all candidates; each a sum over the batch, divided by its number of pictures, as in Darknet.

    box: "squared" (errors of the codes, arXiv:1506.02640 eq. 3) or 1 - overlap: "iou", "giou", "diou", "ciou".
    obj, cls: "bce", "focal" or "squared"; cls also "softmax", cross-entropy of one class out of K. The objectness to be learned is the
    assignment's quality; the classes are learned where a candidate answers for a truth.
    box_gain, obj_gain, cls_gain: factors on the terms, Darknet's iou_, obj_ and cls_normalizer. obj_gain: of all levels or {level: gain}.
    noobj_gain: a further factor on the objectness term of background candidates.
    small_boxes: weigh each box term by 2 - the box's share of the picture (YOLOv3).
    label_smoothing: pulls class targets from 0 and 1 towards one half, or towards 1 / K under "softmax".
    Candidates inside a crowd are not told that they hold nothing.
    """

    def __init__(
        self,
        decoder,
        assigner,
        *,
        box: str = "ciou",
        obj: str = "bce",
        cls: str = "bce",
        box_gain: float = 1.0,
        obj_gain: float | dict[str, float] = 1.0,
        noobj_gain: float = 1.0,
        cls_gain: float = 1.0,
        small_boxes: bool = True,
        label_smoothing: float = 0.0,
    ):
        for name, value, choices in (
            ("box", box, ["squared", *OVERLAPS]),
            ("obj", obj, TERMS),
            ("cls", cls, [*TERMS, "softmax"]),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, received {value!r}")
        check_levels("obj_gain", obj_gain, decoder.levels)
        self.decoder, self.assigner = decoder, assigner
        self.box, self.obj, self.cls = box, TERMS[obj], cls
        self.box_gain, self.obj_gain, self.noobj_gain, self.cls_gain = box_gain, obj_gain, noobj_gain, cls_gain
        self.small_boxes, self.label_smoothing = small_boxes, label_smoothing

    terms = ("box", "obj", "cls")

    def __call__(self, raw, candidates, sample, total=local):
        labels = ops.where(sample.crowd, -1, sample.labels)  # [B, M]
        assignment = self.assigner(candidates, sample.boxes, labels)
        index = assignment.gt_index  # [B, N]
        positive = index >= 0
        index = ops.where(
            ops.logical_and(index == BACKGROUND, self._inside_crowd(candidates.boxes, sample)), IGNORE, index
        )

        truth = ops.maximum(index, 0)
        boxes = ops.take_along_axis(sample.boxes, ops.expand_dims(truth, -1), axis=1)  # [B, N, 4]
        labels = ops.take_along_axis(sample.labels, truth, axis=1)  # [B, N]
        height, width = sample.image.shape[-3:-1]
        images = total(ops.cast(ops.shape(sample.image)[0], "float32"))

        def mean(values):
            return ops.sum(values) / images

        # Rows without a truth get their own box for one: every value stays finite, so nothing leaks through the mask's gradient.
        boxes = ops.where(positive[..., None], boxes, ops.stop_gradient(candidates.boxes))
        box = self._box_term(candidates, boxes)
        if self.small_boxes:
            box = box * (2 - area(boxes) / (height * width))

        objectness = self.obj(ops.stop_gradient(assignment.quality), candidates.logits["obj"][..., 0])
        gain = by_level(self.obj_gain, candidates.priors) * ops.where(positive, 1.0, self.noobj_gain)  # [B, N]
        gain = gain * ops.cast(index != IGNORE, "float32")

        classes = self._class_term(candidates.logits["cls"], labels)
        return {
            "box": self.box_gain * mean(ops.where(positive, box, 0.0)),
            "obj": mean(gain * objectness),
            "cls": self.cls_gain * mean(ops.where(positive, classes, 0.0)),
        }

    def _box_term(self, candidates, boxes):
        if self.box == "squared":
            codes = self.decoder.activate(candidates.logits["box"])
            return ops.sum(squared(self.decoder.encode(boxes, candidates.priors), codes), axis=-1)
        return 1 - OVERLAPS[self.box](candidates.boxes, boxes)

    def _class_term(self, logits, labels):
        """[B, N, K], [B, N] -> [B, N]."""
        K = logits.shape[-1]
        middle = 1 / K if self.cls == "softmax" else 0.5
        targets = ops.one_hot(labels, K) * (1 - self.label_smoothing) + middle * self.label_smoothing
        if self.cls == "softmax":
            return softmax_cross_entropy(targets, logits)
        return ops.sum(TERMS[self.cls](targets, logits), axis=-1)

    @staticmethod
    def _inside_crowd(boxes, sample):
        """Whether half of a candidate's box lies in a crowd: [B, N] bool."""
        crowds = ops.where(sample.crowd[..., None], sample.boxes, 0.0)
        shared = intersection(ops.expand_dims(boxes, 2), ops.expand_dims(crowds, 1))  # [B, N, M]
        return ops.stop_gradient(ops.any(shared > 0.5 * ops.expand_dims(area(boxes), -1), axis=-1))


OBJECTIVES = {
    "dense": Dense,
}
