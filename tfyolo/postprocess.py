"""Post-processing: Candidates -> Detections, in operations that TFLite has too, so that an export equals the model.

    Nms(*, score, ...)                   options are keyword arguments; ValueError if they contradict each other
    score, limit                         options that every one has: the confidence threshold, and D
    suppresses                           whether it is an NMS, and so removes what overlaps, such as TTA's candidates
    nms(candidates) -> Detections

Every shape is known before anything is computed: LiteRT's CompiledModel and LiteRT.js bind no output whose shape
depends on the image, and TFLite's NMS has outputs of fixed length anyway. What is a detection and what padding follows
from the scores.
"""

import math

import numpy as np
import tensorflow as tf

from tfyolo.boxes import diou, pairwise_iou
from tfyolo.config.ranges import NonNegative, Pairs, Positive, Probability
from tfyolo.structures import Detections

FAR = 8192.0  # pixels: in images of unknown size, what lies farther off has no influence on what a box overlaps


class Nms:
    """Non-maximum suppression: greedy, best first. A box may be detected as several classes.

    Of soft_sigma, soft_linear and distance_power, one at most.

    Args:
        score: the confidence threshold, 0..1: detections score above it.
        iou: a box that overlaps a better one by more than this IoU, 0..1, is removed.
        limit: D, the most detections of an image.
        class_limit: the most detections of one class; None: as many as `limit`.
        candidates_limit: how many (box, class) pairs, those that score highest, enter.
        soft_sigma: above 0, overlapping boxes lose score instead of being removed: the Gaussian form of soft-NMS with
            this sigma (Bodla et al. 2017, arXiv:1704.04503).
        soft_linear: boxes that overlap by more than `iou` lose that share of their score (ibid., the linear form).
        distance_power: overlap is IoU - (squared distance of the centres / squared diagonal of the hull) ^ this, so
            that boxes beside each other stay (Zheng et al. 2020, arXiv:1911.08287, section 4.3, with power 1; Darknet's
            beta_nms).
        per_class: True: NMS of each class by itself. False: a box may also remove boxes of other classes.

    Raises:
        ValueError: more than one of the three forms.
    """

    suppresses = True

    def __init__(
        self,
        *,
        score: Probability = 0.001,
        iou: Probability = 0.6,
        limit: Pairs = 300,
        class_limit: Pairs | None = None,
        candidates_limit: Pairs = 2000,
        soft_sigma: NonNegative = 0.0,
        soft_linear: bool = False,
        distance_power: Positive | None = None,
        per_class: bool = True,
    ):
        if (soft_sigma > 0) + soft_linear + (distance_power is not None) > 1:
            raise ValueError("soft_sigma, soft_linear and distance_power: expected one of them at most")
        self.score, self.iou, self.per_class = score, iou, per_class
        self.limit, self.class_limit, self.candidates_limit = limit, class_limit, candidates_limit
        self.soft_sigma, self.soft_linear, self.distance_power = soft_sigma, soft_linear, distance_power

    def __call__(self, candidates):
        """Candidates -> Detections [B, limit, ...]."""
        return _image_by_image(lambda boxes, scores: self._of_image(boxes, scores, candidates.size), candidates)

    def _of_image(self, boxes, scores, size):
        """Candidates of one image, boxes [N, 4], scores [N, K], size [2] or None -> Detections without B."""
        classes = scores.shape[1]
        pair_boxes, pair_scores, labels = pairs = _best_pairs(boxes, scores, self.candidates_limit)
        apart = _apart(pair_boxes, labels, classes, size) if self.per_class else pair_boxes
        if self.soft_linear:
            rows, scores = self._linear(pairwise_iou(apart, apart), pair_scores, labels)
            stays = scores > self.score
        elif self.distance_power is not None:
            rows, scores = tf.range(pair_scores.shape[0]), pair_scores
            stays = _greedy(_overlap(apart, self.distance_power) > self.iou, scores > self.score)
        elif self.soft_sigma:
            rows, scores = self._native(apart, pair_scores, 1.0, self.score)
            stays = scores > self.score
        else:
            # Where scores only give the order, ranks do, of which no two are equal: TFLite takes ties in any order.
            ranks = tf.range(pair_scores.shape[0], 0, -1, tf.float32)
            rows, kept = self._native(apart, tf.where(pair_scores > self.score, ranks, 0.0), self.iou, 0.0)
            stays, scores = kept > 0, tf.gather(pair_scores, rows)
        if self.class_limit is not None and not self.soft_linear:
            own = tf.one_hot(tf.gather(labels, rows), classes) * tf.cast(stays, tf.float32)[:, None]
            stays &= tf.reduce_sum(tf.cumsum(own) * own, axis=1) <= self.class_limit  # its rank within its class
        return _padded(pairs, rows, scores, stays, self.limit)

    def _native(self, boxes, scores, iou, least):
        """TensorFlow's NMS: boxes [k, 4], scores [k] -> (rows [n] int32, their scores), padded with row 0, score 0."""
        rows, scores, _ = tf.raw_ops.NonMaxSuppressionV5(
            boxes=boxes,
            scores=scores,
            max_output_size=self.limit if self.class_limit is None else scores.shape[0],
            iou_threshold=iou,
            score_threshold=least,
            soft_nms_sigma=self.soft_sigma / 2,
            pad_to_max_output_size=True,
        )
        return rows, scores

    def _linear(self, overlap, scores, labels):
        """Linear soft-NMS: overlap [k, k], scores, labels [k] -> (rows [n] int32, best first; their scores, then 0).

        The best of the rest is taken, and what overlaps it by more than `iou` loses that share, until none is above
        `score`. Of a class that has reached its class_limit, nothing is left.
        """
        limit = min(self.limit, scores.shape[0])

        def more(count, left, *_):
            return tf.logical_and(count < limit, tf.reduce_max(left) > self.score)

        def take(count, left, rows, taken):
            best = tf.argmax(left, output_type=tf.int32)
            here = tf.range(limit) == count
            rows, taken = tf.where(here, best, rows), tf.where(here, tf.reduce_max(left), taken)
            shared = tf.gather(overlap, best)
            left = tf.where(shared > self.iou, left * (1 - shared), left)
            left = tf.where(tf.range(scores.shape[0]) == best, -1.0, left)
            if self.class_limit is not None:
                own = tf.gather(labels, best)
                alike = (tf.gather(labels, rows) == own) & (tf.range(limit) <= count)
                found = tf.reduce_sum(tf.cast(alike, tf.int32))
                left = tf.where((labels == own) & (found >= self.class_limit), -1.0, left)
            return count + 1, left, rows, taken

        first = (0, scores, tf.zeros([limit], tf.int32), tf.zeros([limit]))
        _, _, rows, taken = tf.while_loop(more, take, first)
        return rows, taken


class Top:
    """The best (box, class) pairs, best first, as they are: for heads that give each object once, as YOLOv10's.

    Args:
        score: the confidence threshold, 0..1: detections score above it.
        limit: D, the most detections of an image.
    """

    suppresses = False

    def __init__(self, *, score: Probability = 0.001, limit: Pairs = 300):
        self.score, self.limit = score, limit

    def __call__(self, candidates):
        """Candidates -> Detections [B, limit, ...]."""
        return _image_by_image(self._of_image, candidates)

    def _of_image(self, boxes, scores):
        """Candidates of one image, boxes [N, 4], scores [N, K] -> Detections without B."""
        pairs = _best_pairs(boxes, scores, self.limit)
        return _padded(pairs, tf.range(pairs[1].shape[0]), pairs[1], pairs[1] > self.score, self.limit)


def _image_by_image(of_image, candidates):
    """Detections of a batch from a function of one image: boxes [N, 4], scores [N, K] -> Detections without B."""
    # A batch that is known to be one image becomes a graph without a loop: that is what TFLite gets.
    boxes, scores = candidates.boxes, candidates.scores
    if scores.shape[0] == 1:
        return Detections(*(value[None] for value in of_image(boxes[0], scores[0])))
    signature = Detections(tf.float32, tf.float32, tf.int32, tf.int32, tf.float32)
    return tf.map_fn(lambda pair: of_image(*pair), (boxes, scores), fn_output_signature=signature)


def _best_pairs(boxes, scores, limit):
    """The `limit` best of N x K pairs, best first: boxes [N, 4], scores [N, K] -> boxes [k, 4], scores, labels [k]."""
    count, classes = scores.shape
    if count is None:  # images of an open size: rows of zeros, where there are fewer than can be picked
        missing = tf.maximum(limit - tf.shape(scores)[0], 0)
        boxes, scores = (tf.pad(x, [[0, missing], [0, 0]]) for x in (boxes, scores))
        count = limit
    # The best k pairs lie in the k boxes whose best class is best: two small top-k instead of one over N * K.
    k = min(limit, count)
    _, rows = tf.math.top_k(tf.reduce_max(scores, axis=-1), k)
    pairs = tf.reshape(tf.gather(scores, rows), [k * classes])
    pair_scores, pair_index = tf.math.top_k(pairs, min(limit, k * classes))
    return tf.gather(boxes, tf.gather(rows, pair_index // classes)), pair_scores, pair_index % classes


def _apart(boxes, labels, classes, size):
    """Boxes [k, 4], those of different classes moved so far apart that they cannot overlap.

    A box is clipped a side's length off the image: nobody sees more of it, and one unbounded box would move the others
    so far that float32 could not resolve their sides. For the same reason the classes stand in a square round the
    origin, not in a row: with 1,203 classes and images of 1,280 pixels, sides are exact to 1/256 of a pixel.
    """
    low, high = (-FAR, FAR) if size is None else (-tf.tile(size, [2]), 2 * tf.tile(size, [2]))
    boxes = tf.clip_by_value(boxes, low, high)
    extent = tf.reduce_max(boxes) - tf.reduce_min(boxes) + 1.0
    side = math.ceil(math.sqrt(classes))
    places = tf.cast(tf.stack([labels // side, labels % side], axis=-1), tf.float32) - (side - 1) / 2
    return boxes + tf.tile(places * extent, [1, 2])


def _padded(pairs, rows, scores, stays, limit):
    """Detections of the first `limit` rows that stay, with the scores they now have.

    pairs: from _best_pairs. rows: [n] int32, of pairs, best first. scores: [n]. stays: [n] bool.
    """
    boxes, pair_scores, labels = pairs
    n = rows.shape[0]
    # No two keys are equal, so that a runtime's order of ties does not matter.
    keys, order = tf.math.top_k(tf.where(stays, tf.range(n, 0, -1), 0), min(limit, n))
    there = keys > 0
    rows, rest = tf.gather(rows, order), [[0, limit - min(limit, n)]]
    return Detections(
        boxes=tf.pad(tf.where(there[:, None], tf.gather(boxes, rows), 0.0), [*rest, [0, 0]]),
        scores=tf.pad(tf.where(there, tf.gather(scores, order), 0.0), rest),
        labels=tf.pad(tf.where(there, tf.gather(labels, rows), -1), rest, constant_values=-1),
        count=tf.reduce_sum(tf.cast(there, tf.int32)),
        best=pair_scores[0],
    )


def _overlap(boxes, distance_power):
    """[k, 4] -> [k, k], IoU less the penalty for the distance of the centres."""
    iou = pairwise_iou(boxes, boxes)
    distance = tf.maximum(iou - diou(boxes[:, None], boxes[None]), 0.0)
    return iou - tf.pow(distance, distance_power)


def _greedy(overlapping, eligible):
    """Which rows stay: overlapping [k, k] bool, eligible [k] bool, sorted by score -> [k] bool.

    A row is removed if it overlaps a better one that stays. Each round guesses from the last guess. It gets the next
    link of every chain of overlaps right, so the rounds end when the longest chain does.
    """
    k = overlapping.shape[0]
    better = tf.constant(np.tri(k, k, -1, dtype=bool))  # [i, j]: j precedes i
    suppressed_by = tf.cast(overlapping & better, tf.float32)

    def guess(stays, _):
        left = tf.squeeze(tf.matmul(suppressed_by, tf.cast(stays, tf.float32)[:, None]), axis=1)
        now = eligible & (left == 0)
        return now, tf.reduce_any(now != stays)

    stays, _ = tf.while_loop(lambda _, changed: changed, guess, guess(eligible, True))
    return stays


POSTPROCESS = {"nms": Nms, "top": Top}
