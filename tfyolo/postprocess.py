"""Post-processing: Candidates -> Detections. TensorFlow operations that TFLite has too, so that an export equals the model.

Every shape is known before anything is computed: LiteRT's CompiledModel and LiteRT.js bind no output whose shape depends on the image,
and TFLite's NMS has outputs of fixed length anyway. What is a detection and what padding follows from the scores.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from tfyolo.boxes import diou, pairwise_iou
from tfyolo.config.ranges import NonNegative, Pairs, Positive, Probability
from tfyolo.structures import Candidates, Detections

# To try options on.
ONE_BOX = Candidates(np.zeros((1, 1, 4), "float32"), np.zeros((1, 1, 1), "float32"), {}, None)
FAR = 8192.0  # pixels: what lies farther off, in images of unknown size, says nothing about what a box overlaps


def nms(
    candidates,
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
    """Non-maximum suppression: greedy, best first; a box may be found as several classes.

    score: the least score of a detection. iou: a box that overlaps a better one by more than this goes (of its class, if per_class).
    limit: D. class_limit: how many of these one class may have, at most. candidates_limit: how many (box, class) pairs, the best, enter.
    soft_sigma: above 0, overlapping boxes lose score instead of going (Bodla et al. 2017, arXiv:1704.04503, the Gaussian form with this
    sigma). soft_linear: those that overlap by more than `iou` lose that part of their score (ibid., the linear form). distance_power:
    what counts as overlap is IoU - (squared distance of the middles / squared diagonal of the hull) ^ this: boxes beside each other stay
    (Zheng et al. 2020, arXiv:1911.08287, section 4.3, where it is 1; Darknet's beta_nms). Of the last three, one at most.
    """
    if (soft_sigma > 0) + soft_linear + (distance_power is not None) > 1:
        raise ValueError("soft_sigma, soft_linear and distance_power: expected one of them at most")
    options = (score, iou, limit, class_limit, candidates_limit, soft_sigma, soft_linear, distance_power, per_class)
    return _image_by_image(functools.partial(_nms_image, size=candidates.size, options=options), candidates)


def top(candidates, *, score: Probability = 0.001, limit: Pairs = 300):
    """The best (box, class) pairs, best first, as they are: for heads that answer once for each object, as YOLOv10's.

    score: the least score of a detection. limit: D.
    """
    return _image_by_image(functools.partial(_top_image, options=(score, limit)), candidates)


def _image_by_image(one, candidates):
    # The graph is written out where the batch is known: TFLite gets no loop.
    boxes, scores = candidates.boxes, candidates.scores
    if scores.shape[0] == 1:
        return Detections(*(value[None] for value in one(boxes[0], scores[0])))
    signature = Detections(tf.float32, tf.float32, tf.int32, tf.int32, tf.float32)
    return tf.map_fn(lambda pair: one(*pair), (boxes, scores), fn_output_signature=signature)


def _best_pairs(boxes, scores, limit):
    """boxes [N, 4], scores [N, K] -> boxes [k, 4], scores [k] and labels [k] of the `limit` best pairs, best first."""
    count, classes = scores.shape
    if count is None:  # of pictures whose size is open: rows of nothing, where there are fewer than can be picked
        missing = tf.maximum(limit - tf.shape(scores)[0], 0)
        boxes, scores = (tf.pad(x, [[0, missing], [0, 0]]) for x in (boxes, scores))
        count = limit
    # The best k pairs lie in the k boxes whose best class is best: two small top-k instead of one over N * K.
    k = min(limit, count)
    _, rows = tf.math.top_k(tf.reduce_max(scores, axis=-1), k)
    pairs = tf.reshape(tf.gather(scores, rows), [k * classes])
    pair_scores, pair_index = tf.math.top_k(pairs, min(limit, k * classes))
    return tf.gather(boxes, tf.gather(rows, pair_index // classes)), pair_scores, pair_index % classes


def _top_image(boxes, scores, options):
    """boxes [N, 4], scores [N, K] -> Detections without B."""
    score, limit = options
    pairs = _best_pairs(boxes, scores, limit)
    return _padded(pairs, tf.range(pairs[1].shape[0]), pairs[1], pairs[1] > score, limit)


def _nms_image(boxes, scores, size, options):
    """boxes [N, 4], scores [N, K], size [2] or None, as of Candidates -> Detections without B."""
    score, iou, limit, class_limit, candidates_limit, soft_sigma, soft_linear, distance_power, per_class = options
    pair_boxes, pair_scores, labels = pairs = _best_pairs(boxes, scores, candidates_limit)
    k = pair_scores.shape[0]
    apart = _apart(pair_boxes, labels, scores.shape[1], size) if per_class else pair_boxes
    if distance_power is not None:
        rows, kept_scores = tf.range(k), pair_scores
        stays = _greedy(_overlap(apart, distance_power) > iou, pair_scores > score)
    elif soft_linear:
        rows, kept_scores = _linear(pairwise_iou(apart, apart), pair_scores, labels, score, iou, limit, class_limit)
        stays = kept_scores > score
    else:
        # Where scores only say who comes first, their ranks do, of which no two are alike: TFLite takes equal scores in any order.
        eligible = pair_scores > score
        ranks = tf.where(eligible, tf.range(k, 0, -1, tf.float32), 0.0)
        rows, kept_scores, _ = tf.raw_ops.NonMaxSuppressionV5(
            boxes=apart,
            scores=pair_scores if soft_sigma else ranks,
            max_output_size=limit if class_limit is None else k,
            iou_threshold=1.0 if soft_sigma else iou,
            score_threshold=score if soft_sigma else 0.0,
            soft_nms_sigma=soft_sigma / 2,
            pad_to_max_output_size=True,  # with row 0 and score 0
        )
        stays = kept_scores > (score if soft_sigma else 0.0)
        kept_scores = kept_scores if soft_sigma else tf.gather(pair_scores, rows)
    if class_limit is not None and not soft_linear:
        own = tf.one_hot(tf.gather(labels, rows), scores.shape[1]) * tf.cast(stays, tf.float32)[:, None]
        stays &= tf.reduce_sum(tf.cumsum(own) * own, axis=1) <= class_limit  # the how manieth of its class it is
    return _padded(pairs, rows, kept_scores, stays, limit)


def _apart(boxes, labels, classes, size):
    """Boxes [k, 4], those of different classes moved so far apart that they cannot overlap.

    What of a box lies more than a side's length off the image is cut away: nobody sees it, and a single box that knows no bounds would
    move the others so far that a float32 could not tell their sides. For the same reason the classes stand in a square round the
    origin, not in a row: with 1,203 classes and images of 1,280 pixels a side is exact to 1/256 of a pixel.
    """
    low, high = (-FAR, FAR) if size is None else (-tf.tile(size, [2]), 2 * tf.tile(size, [2]))
    boxes = tf.clip_by_value(boxes, low, high)
    extent = tf.reduce_max(boxes) - tf.reduce_min(boxes) + 1.0
    side = math.ceil(math.sqrt(classes))
    places = tf.cast(tf.stack([labels // side, labels % side], axis=-1), tf.float32) - (side - 1) / 2
    return boxes + tf.tile(places * extent, [1, 2])


def _padded(pairs, rows, scores, stays, limit):
    """Detections of the first `limit` rows that stay, with the scores they now have.

    pairs: as of _best_pairs. rows: [n] int32, of pairs, best first. scores: [n]. stays: [n] bool.
    """
    boxes, pair_scores, labels = pairs
    n = rows.shape[0]
    # Keys of which no two are alike, so that it is all one how a runtime sorts ties.
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


def _linear(overlap, scores, labels, least, iou, limit, class_limit):
    """Soft-NMS with linear decay: overlap [k, k], scores [k] -> (rows [n] int32, best first, the scores they have, 0 behind the last).

    The best of what is left is taken, and what overlaps it by more than `iou` loses that part; until there is none above `least`. Of a
    class that has its class_limit, nothing is left.
    """
    limit = min(limit, scores.shape[0])

    def more(count, left, *_):
        return tf.logical_and(count < limit, tf.reduce_max(left) > least)

    def take(count, left, rows, taken):
        best = tf.argmax(left, output_type=tf.int32)
        here = tf.range(limit) == count
        rows, taken = tf.where(here, best, rows), tf.where(here, tf.reduce_max(left), taken)
        shared = tf.gather(overlap, best)
        left = tf.where(shared > iou, left * (1 - shared), left)
        left = tf.where(tf.range(scores.shape[0]) == best, -1.0, left)
        if class_limit is not None:
            own = tf.gather(labels, best)
            alike = (tf.gather(labels, rows) == own) & (tf.range(limit) <= count)
            found = tf.reduce_sum(tf.cast(alike, tf.int32))
            left = tf.where((labels == own) & (found >= class_limit), -1.0, left)
        return count + 1, left, rows, taken

    begin = (0, scores, tf.zeros([limit], tf.int32), tf.zeros([limit]))
    _, _, rows, taken = tf.while_loop(more, take, begin)
    return rows, taken


def _overlap(boxes, distance_power):
    """[k, 4] -> [k, k], IoU less what the distance of the middles takes away."""
    iou = pairwise_iou(boxes, boxes)
    distance = tf.maximum(iou - diou(boxes[:, None], boxes[None]), 0.0)
    return iou - tf.pow(distance, distance_power)


def _greedy(overlapping, eligible):
    """Which rows stay: overlapping [k, k] bool, eligible [k] bool, sorted by score -> [k] bool.

    A row goes if it overlaps a better one that stays. Who stays is guessed and guessed again from the last guess: in each round the
    next link of every chain comes right, so it ends, after as many rounds as the longest chain has links.
    """
    k = overlapping.shape[0]
    better = tf.constant(np.tri(k, k, -1, dtype=bool))  # [i, j]: j stands before i
    suppressed_by = tf.cast(overlapping & better, tf.float32)

    def guess(stays, _):
        left = tf.squeeze(tf.matmul(suppressed_by, tf.cast(stays, tf.float32)[:, None]), axis=1)
        now = eligible & (left == 0)
        return now, tf.reduce_any(now != stays)

    stays, _ = tf.while_loop(lambda _, changed: changed, guess, guess(eligible, True))
    return stays


POSTPROCESS = {"nms": nms, "top": top}
