"""Post-processing: Candidates -> Detections. TensorFlow operations that TFLite has too, so that an export equals the model."""

import functools

import numpy as np
import tensorflow as tf

from tfyolo.boxes import diou, pairwise_iou
from tfyolo.structures import Candidates, Detections

# To try options on.
ONE_BOX = Candidates(np.zeros((1, 1, 4), "float32"), np.zeros((1, 1, 1), "float32"), {}, None)
FAR = 8192.0  # pixels: what of a box lies farther off the picture's corner says nothing about what it overlaps


def nms(
    candidates,
    *,
    score: float = 0.001,
    iou: float = 0.6,
    limit: int = 300,
    class_limit: int | None = None,
    candidates_limit: int = 2000,
    soft_sigma: float = 0.0,
    soft_linear: bool = False,
    distance_power: float | None = None,
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
    _check_numbers(limit=limit, class_limit=class_limit, candidates_limit=candidates_limit)
    options = (score, iou, limit, class_limit, candidates_limit, soft_sigma, soft_linear, distance_power, per_class)
    return _image_by_image(functools.partial(_nms_image, options=options), candidates)


def top(candidates, *, score: float = 0.001, limit: int = 300):
    """The best (box, class) pairs, best first, as they are: for heads that answer once for each object, as YOLOv10's.

    score: the least score of a detection. limit: D.
    """
    _check_numbers(limit=limit)
    return _image_by_image(functools.partial(_top_image, options=(score, limit)), candidates)


def _check_numbers(**options):
    for name, value in options.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected a number above 0, received {value}")


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
    found = tf.reduce_sum(tf.cast(pairs[1] > score, tf.int32))
    return _padded(pairs, tf.range(found), pairs[1][:found], limit)


def _nms_image(boxes, scores, options):
    """boxes [N, 4], scores [N, K] -> Detections without B."""
    score, iou, limit, class_limit, candidates_limit, soft_sigma, soft_linear, distance_power, per_class = options
    pair_boxes, pair_scores, labels = pairs = _best_pairs(boxes, scores, candidates_limit)
    apart = pair_boxes
    if per_class:
        # Boxes of different classes are moved so far apart that they cannot overlap; but not so far, for the sake of a single box
        # that knows no bounds, that a float32 cannot tell the others' sides.
        apart = tf.clip_by_value(pair_boxes, -FAR, FAR)
        extent = tf.reduce_max(apart) - tf.reduce_min(apart) + 1.0
        apart = apart + tf.cast(labels, tf.float32)[:, None] * extent
    if distance_power is not None:
        kept = _greedy(_overlap(apart, distance_power) > iou, pair_scores > score)
        kept_scores = tf.gather(pair_scores, kept)
    elif soft_linear:
        kept, kept_scores = _linear(pairwise_iou(apart, apart), pair_scores, labels, score, iou, limit, class_limit)
    else:
        kept, kept_scores = tf.image.non_max_suppression_with_scores(
            apart,
            pair_scores,
            limit if class_limit is None else candidates_limit,
            iou_threshold=1.0 if soft_sigma else iou,
            score_threshold=score,
            soft_nms_sigma=soft_sigma / 2,
        )
    if class_limit is not None and not soft_linear:
        own = tf.gather(labels, kept)
        better = tf.linalg.band_part(tf.cast(own[:, None] == own, tf.float32), -1, 0)  # of its class, itself too
        rows = tf.where(tf.reduce_sum(better, axis=1) <= class_limit)[:, 0]
        kept, kept_scores = tf.gather(kept, rows), tf.gather(kept_scores, rows)
    return _padded(pairs, kept[:limit], kept_scores[:limit], limit)


def _padded(pairs, kept, kept_scores, limit):
    """Detections of the rows that are kept, with the scores they now have."""
    boxes, scores, labels = pairs
    found = tf.shape(kept)[0]
    rest = [[0, limit - found]]
    # Reshaped, which only tells the shape, because TFLite has no ensure_shape.
    return Detections(
        boxes=tf.reshape(tf.pad(tf.gather(boxes, kept), [*rest, [0, 0]]), [limit, 4]),
        scores=tf.reshape(tf.pad(kept_scores, rest), [limit]),
        labels=tf.reshape(tf.pad(tf.gather(labels, kept), rest, constant_values=-1), [limit]),
        count=found,
        best=scores[0],
    )


def _linear(overlap, scores, labels, least, iou, limit, class_limit):
    """Soft-NMS with linear decay: overlap [k, k], scores [k] -> (the rows that stay, [count] int32, the scores they now have).

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
            found = tf.reduce_sum(tf.cast(tf.gather(labels, rows[: count + 1]) == own, tf.int32))
            left = tf.where((labels == own) & (found >= class_limit), -1.0, left)
        return count + 1, left, rows, taken

    begin = (0, scores, tf.zeros([limit], tf.int32), tf.zeros([limit]))
    count, _, rows, taken = tf.while_loop(more, take, begin)
    return rows[:count], taken[:count]


def _overlap(boxes, distance_power):
    """[k, 4] -> [k, k], IoU less what the distance of the middles takes away."""
    iou = pairwise_iou(boxes, boxes)
    distance = tf.maximum(iou - diou(boxes[:, None], boxes[None]), 0.0)
    return iou - tf.pow(distance, distance_power)


def _greedy(overlapping, eligible):
    """The rows that stay, best first: overlapping [k, k] bool, eligible [k] bool, sorted by score -> [count] int32.

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
    return tf.cast(tf.where(stays)[:, 0], tf.int32)


POSTPROCESS = {"nms": nms, "top": top}
