"""Post-processing: Candidates -> Detections. TensorFlow operations that TFLite has too, so that an export equals the model."""

import tensorflow as tf

from tfyolo.structures import Detections


def nms(
    candidates,
    *,
    score: float = 0.001,
    iou: float = 0.6,
    limit: int = 300,
    candidates_limit: int = 2000,
    soft_sigma: float = 0.0,
    per_class: bool = True,
):
    """Non-maximum suppression: greedy, best first; a box may be found as several classes.

    score: the least score of a detection. iou: a box that overlaps a better one by more than this goes (of its class, if per_class).
    limit: D. candidates_limit: how many (box, class) pairs, the best, enter. soft_sigma: above 0, overlapping boxes lose score instead
    of going (Bodla et al. 2017, arXiv:1704.04503, the Gaussian form with this sigma).
    """
    # One image at a time, the graph written out where the batch is known: TFLite gets no loop.
    scores, boxes = candidates.scores, candidates.boxes
    options = (score, iou, limit, candidates_limit, soft_sigma, per_class)
    if scores.shape[0] == 1:
        one = _nms_image(boxes[0], scores[0], *options)
        return Detections(*(value[None] for value in one))
    signature = Detections(tf.float32, tf.float32, tf.int32, tf.int32, tf.float32)
    return tf.map_fn(lambda pair: _nms_image(*pair, *options), (boxes, scores), fn_output_signature=signature)


def _nms_image(boxes, scores, score, iou, limit, candidates_limit, soft_sigma, per_class):
    """boxes [N, 4], scores [N, K] -> Detections without B."""
    count, classes = scores.shape
    # The best k pairs lie in the k boxes whose best class is best: two small top-k instead of one over N * K.
    k = min(candidates_limit, count)
    _, rows = tf.math.top_k(tf.reduce_max(scores, axis=-1), k)
    pairs = tf.reshape(tf.gather(scores, rows), [k * classes])
    pair_scores, pair_index = tf.math.top_k(pairs, min(candidates_limit, k * classes))
    pair_boxes = tf.gather(boxes, tf.gather(rows, pair_index // classes))
    labels = pair_index % classes

    apart = pair_boxes
    if per_class:
        # Boxes of different classes are moved so far apart that they cannot overlap.
        extent = tf.reduce_max(pair_boxes) - tf.reduce_min(pair_boxes) + 1.0
        apart = pair_boxes + tf.cast(labels, tf.float32)[:, None] * extent
    kept, kept_scores = tf.image.non_max_suppression_with_scores(
        apart,
        pair_scores,
        limit,
        iou_threshold=1.0 if soft_sigma else iou,
        score_threshold=score,
        soft_nms_sigma=soft_sigma / 2,
    )
    found = tf.shape(kept)[0]
    rest = [[0, limit - found]]
    # Reshaped, which only tells the shape, because TFLite has no ensure_shape.
    return Detections(
        boxes=tf.reshape(tf.pad(tf.gather(pair_boxes, kept), [*rest, [0, 0]]), [limit, 4]),
        scores=tf.reshape(tf.pad(kept_scores, rest), [limit]),
        labels=tf.reshape(tf.pad(tf.gather(labels, kept), rest, constant_values=-1), [limit]),
        count=found,
        best=pair_scores[0],
    )


POSTPROCESS = {"nms": nms}
