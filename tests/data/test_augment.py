"""Every geometric change moves a painted rectangle and its box alike; colour keeps what it must keep."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import mostly_slow

from tfyolo.config import Augment
from tfyolo.data import augment, geometry
from tfyolo.structures import Sample

COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0]], np.float32)
SIZE = (96, 128)
CANVAS = (104, 80)
RECTANGLE = np.array([[30, 52, 50, 82]], np.float32)
SEEDS = [(7, n) for n in range(6)]


def drawn(size, boxes, labels, seed=0):
    """[H, W, 3] uint8: grey noise, and filled rectangles in the colours of their labels."""
    image = np.random.default_rng(seed).integers(90, 140, (*size, 1)).repeat(3, axis=2).astype(np.uint8)
    for (y1, x1, y2, x2), label in zip(np.asarray(boxes).astype(int), labels, strict=True):
        image[y1:y2, x1:x2] = COLOURS[label] * 255
    return image


def find(image, label):
    """The box round all pixels that are nearer to the label's colour than to grey, as float32; None without any."""
    image = tf.image.convert_image_dtype(image, tf.float32).numpy()
    y, x = np.nonzero(np.linalg.norm(image - COLOURS[label], axis=-1) < 0.43)
    return None if len(y) == 0 else np.array([y.min(), x.min(), y.max() + 1, x.max() + 1], np.float32)


GEOMETRY = {
    "flip": lambda seed: augment.flip(seed, SIZE, 0.5),
    "flip_vertical": lambda seed: augment.flip_vertical(seed, SIZE, 0.5),
    "scale": lambda seed: augment.scale(seed, SIZE, 0.6),
    "translate": lambda seed: augment.translate(seed, SIZE, 0.3),
    "rotate": lambda seed: augment.rotate(seed, SIZE, 180),
    "shear": lambda seed: augment.shear(seed, SIZE, 25),
    "letterbox": lambda seed: geometry.letterbox(SIZE, CANVAS),
    "affine": lambda seed: augment.affine(seed, SIZE, Augment(scale=0.3, translate=0.1, rotate=180, shear=10)),
    "all": lambda seed: (
        augment.affine(seed, SIZE, Augment(scale=0.4, translate=0.1, rotate=30, shear=5))
        @ geometry.letterbox(SIZE, SIZE)
        @ augment.flips(seed, SIZE, Augment(flip=0.5, flip_vertical=0.5))
    ),
}


@pytest.mark.parametrize("name", mostly_slow(GEOMETRY, ["flip", "letterbox", "affine", "all"]))
def test_box_moves_with_what_it_surrounds(name):
    image = drawn(SIZE, RECTANGLE, [3])
    canvas = CANVAS if name == "letterbox" else SIZE
    turned = name in ("rotate", "shear", "affine", "all")

    def move(seed):
        matrix = GEOMETRY[name](seed)
        return geometry.warp(image, matrix, canvas), geometry.transform_boxes(RECTANGLE, matrix)

    for seed, in_graph in zip(SEEDS, tf.data.Dataset.from_tensor_slices(SEEDS).map(move), strict=True):
        moved, boxes = move(seed)
        np.testing.assert_allclose(moved, in_graph[0], atol=1e-4)
        np.testing.assert_allclose(boxes, in_graph[1], atol=1e-3)
        box = boxes.numpy()[0]
        # The hull of what is visible of a turned rectangle is smaller than its clipped hull.
        assert not turned or ((box[:2] > 0).all() and (box[2:] < canvas).all()), "the test needs it inside"
        np.testing.assert_allclose(find(moved, 3), np.clip(box, 0, [*canvas, *canvas]), atol=1.5)


@pytest.mark.parametrize("name", sorted(GEOMETRY.keys() - {"letterbox"}))
def test_geometry_is_a_function_of_its_seed(name):
    matrices = [GEOMETRY[name](seed).numpy() for seed in [*SEEDS, *SEEDS]]
    np.testing.assert_array_equal(matrices[: len(SEEDS)], matrices[len(SEEDS) :])
    assert len({m.tobytes() for m in matrices}) >= 2


@pytest.mark.parametrize("seed, preprocess", [*((seed, "letterbox") for seed in SEEDS), (SEEDS[0], "stretch")])
def test_mosaic_moves_boxes_with_their_images(seed, preprocess):
    sizes = [(60, 90), (90, 60), (50, 50), (200, 300)]
    boxes = [np.array([[h * 0.3, w * 0.3, h * 0.8, w * 0.7]], np.float32).round() for h, w in sizes]
    images = [drawn(size, box, [label]) for label, (size, box) in enumerate(zip(sizes, boxes, strict=True))]
    gt_boxes, centers = {}, []
    matrices = augment.mosaic(seed, sizes, SIZE, geometry.FITS[preprocess].matrix)
    for label, matrix in enumerate(matrices):
        moved, _, _ = geometry.clip_boxes(geometry.transform_boxes(boxes[label], matrix), [label], [False], SIZE)
        gt_boxes.update((label, box) for box in moved.numpy())
        frame = geometry.transform_boxes(np.array([[0, 0, *sizes[label]]], np.float32), matrix).numpy()[0]
        centers.append(frame[[(2, 3), (2, 1), (0, 3), (0, 1)][label],])  # the corner at the common point
    np.testing.assert_allclose(centers, np.tile(centers[0], (4, 1)), atol=1e-3)
    assert (centers[0] >= np.array(SIZE) / 4).all() and (centers[0] <= np.array(SIZE) * 3 / 4).all()

    joined = geometry.paste(images, matrices, SIZE, geometry.FITS[preprocess])
    for label, box in gt_boxes.items():
        np.testing.assert_allclose(find(joined, label), box, atol=1.5)
    for label in set(range(4)) - set(gt_boxes):  # what is dropped is hardly to be seen
        left = find(joined, label)
        area = np.prod(boxes[label][0, 2:] - boxes[label][0, :2]) * float(tf.linalg.det(matrices[label]))
        assert left is None or np.prod(left[2:] - left[:2]) < 0.2 * area or (left[2:] - left[:2]).min() <= 3


def test_mosaic_has_no_seam():
    """Four images of one colour that cover the canvas are one image of that colour."""
    size = (96, 96)
    white = np.full((96, 96, 3), 255, np.uint8)
    turn = geometry.rotation(20, (48, 48)) @ geometry.about((48, 48), geometry.scaling(2.0))
    matrices = [turn @ matrix for matrix in augment.mosaic((1, 2), [size] * 4, size)]
    middle = geometry.paste([white] * 4, matrices, size, geometry.FITS["letterbox"]).numpy()[30:66, 30:66]
    np.testing.assert_allclose(middle, 255, atol=10)  # cv2 rounds places to 1/32 of a pixel


@pytest.mark.parametrize("zoom", [0.2, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_pasting_is_warping(seed, zoom):
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 3)
    matrix = augment.affine(seed, (120, 160), Augment(scale=0.3, translate=0.3, rotate=30)) @ geometry.scaling(zoom)
    pasted = geometry.paste([smooth], [matrix], (140, 100), geometry.FITS["letterbox"])
    np.testing.assert_allclose(pasted / 255, geometry.warp(smooth, matrix, (140, 100)), atol=0.03)


def test_what_is_pasted_beside_the_canvas_leaves_it_grey():
    white, fit = np.full((40, 50, 3), 255, np.uint8), geometry.FITS["letterbox"]
    outside = geometry.paste([white], [geometry.translation(500, -500)], (20, 30), fit)
    np.testing.assert_array_equal(outside, np.full((20, 30, 3), 114, np.uint8))


@pytest.mark.parametrize("size", [(40_000, 20), (20, 70_000)])
def test_an_image_longer_than_cv2_can_warp(size):
    fit = geometry.FITS["stretch"]
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8).reshape(np.where(np.array(size) > 100, -1, 1))
    image = np.broadcast_to(ramp[..., None], (*size, 3)).copy()
    pasted = geometry.paste([image], [fit.matrix(size, (32, 32))], (32, 32), fit).numpy()[..., 0]
    inner = (pasted if size[1] > size[0] else pasted.T)[10:-10]  # the others fade into the grey
    np.testing.assert_allclose(inner, np.tile(255 * (np.arange(32) + 0.5) / 32, (12, 1)), atol=4)


def test_clip_boxes_by_hand():
    boxes = np.array(
        [
            [10, 10, 30, 40],  # inside
            [-10, 0, 10, 20],  # half
            [-91, 0, 9, 20],  # 9 %
            [-89, 0, 11, 20],  # 11 %
            [-91, 0, 9, 20],  # 9 % of a crowd
            [20, 58.5, 40, 80],  # 1.5 pixels wide: of it 7 %
            [5, 5, 6.9, 30],  # too low to be seen
            [200, 200, 210, 210],  # outside
            [30, 30, 30, 30],  # nothing
        ],
        np.float32,
    )
    crowd = np.array([False] * 4 + [True] + [False] * 4)
    clipped, labels, crowds = geometry.clip_boxes(boxes, np.arange(9), crowd, (50, 60))
    np.testing.assert_array_equal(labels, [0, 1, 3, 4])
    np.testing.assert_array_equal(crowds, [False, False, False, True])
    np.testing.assert_array_equal(clipped, [[10, 10, 30, 40], [0, 0, 10, 20], [0, 0, 11, 20], [0, 0, 9, 20]])


def test_clip_boxes_takes_none():
    clipped, labels, crowd = geometry.clip_boxes(
        tf.zeros([0, 4]), tf.zeros([0], tf.int32), tf.zeros([0], bool), (50, 60)
    )
    assert clipped.shape == (0, 4) and labels.shape == (0,) and crowd.shape == (0,)


# --- matrices by hand -------------------------------------------------------------------------------------------------


def test_letterbox_by_hand():
    np.testing.assert_allclose(geometry.letterbox((480, 640), (320, 320)), [[0.5, 0, 40], [0, 0.5, 0], [0, 0, 1]])
    np.testing.assert_allclose(geometry.letterbox((10, 10), (20, 40)), [[2, 0, 0], [0, 2, 10], [0, 0, 1]])


def test_rotation_is_counter_clockwise():
    image = np.random.default_rng(0).integers(0, 256, (31, 31, 3), np.uint8)
    turned = geometry.warp(image, geometry.rotation(90, (15.5, 15.5)), (31, 31))
    np.testing.assert_allclose(turned, np.rot90(image) / 255, atol=1e-3)


@pytest.mark.parametrize("flip, flipped", [(augment.flip, np.fliplr), (augment.flip_vertical, np.flipud)])
def test_flips_are_exact(flip, flipped):
    image = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
    for probability, expected in ((1.0, flipped(image)), (0.0, image)):
        moved = geometry.warp(image, flip((1, 2), (21, 34), probability), (21, 34))
        np.testing.assert_allclose(moved, expected / 255, atol=1e-6)


@pytest.mark.parametrize(
    "amount, function, measure",
    [
        (0.5, augment.scale, lambda m: m[0, 0] - 1),
        (0.2, augment.translate, lambda m: m[0, 2] / SIZE[0]),
        (0.2, augment.translate, lambda m: m[1, 2] / SIZE[1]),
        (30.0, augment.rotate, lambda m: np.degrees(np.arctan2(m[1, 0], m[0, 0]))),
        (30.0, augment.shear, lambda m: np.degrees(np.arctan(m[0, 1]))),
        (30.0, augment.shear, lambda m: np.degrees(np.arctan(m[1, 0]))),
    ],
)
def test_amounts_are_uniform_between_their_limits(amount, function, measure):
    drawn = tf.function(lambda number: function((number, 1), SIZE, amount))
    values = np.array([measure(drawn(tf.constant(n)).numpy()) for n in range(200)]) / amount
    assert (np.abs(values) <= 1 + 1e-4).all()
    assert abs(values.mean()) < 0.15 and abs(values.std() - 1 / np.sqrt(3)) < 0.06


# --- colour -----------------------------------------------------------------------------------------------------------

PALE = np.random.default_rng(3).uniform(0.4, 0.6, (8, 8, 3))
OFF = {"hue": 0.0, "saturation": 0.0, "value": 0.0}


def recoloured(seed, **gains):
    return PALE @ augment.colour(seed, **OFF | gains).numpy().T


def as_hue(image):
    """Complex numbers whose angle is the hue and whose length the colourfulness: the part across the grey axis."""
    return image @ np.exp(2j * np.pi * np.arange(3) / 3)


def test_no_change_of_colour():
    np.testing.assert_allclose(recoloured((1, 2)), PALE, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_hue_turns_about_the_grey_axis(seed):
    changed = recoloured(seed, hue=0.2)
    turns = as_hue(changed) / as_hue(PALE)
    np.testing.assert_allclose(turns, turns[0, 0], atol=1e-4)
    assert abs(abs(turns[0, 0]) - 1) < 1e-4 and 1e-3 < abs(np.angle(turns[0, 0])) <= 0.2 * 2 * np.pi
    np.testing.assert_allclose(changed.sum(-1), PALE.sum(-1), atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_saturation_stretches_away_from_grey(seed):
    luma = PALE @ [0.299, 0.587, 0.114]
    gains = (recoloured(seed, saturation=0.7) - luma[..., None]) / (PALE - luma[..., None])
    np.testing.assert_allclose(gains, gains[0, 0, 0], rtol=1e-2)
    assert 0.3 <= gains.mean() <= 1.7 and abs(gains.mean() - 1) > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_value_is_a_gain(seed):
    gains = recoloured(seed, value=0.4) / PALE
    np.testing.assert_allclose(gains, gains[0, 0, 0], rtol=1e-5)
    assert 0.6 <= gains.mean() <= 1.4 and abs(gains.mean() - 1) > 1e-3


def test_recolouring_is_the_matrix_rounded_and_cut():
    image = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    matrix = np.array([[1.3, 0.1, -0.2], [0.0, 0.9, 0.2], [0.3, -0.3, 1.1]], np.float32)
    expected = np.clip(image @ matrix.T, 0, 255)
    assert (expected == 0).any() and (expected == 255).any()
    np.testing.assert_allclose(augment.recolour(image, matrix), expected, atol=0.6)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_mixup_keeps_both():
    def sample(value, labels):
        boxes = np.arange(4 * len(labels), dtype=np.float32).reshape(-1, 4)
        image = tf.fill([2, 2, 3], tf.constant(value, tf.uint8))
        return Sample(image, boxes, labels, [label == 2 for label in labels], value, tf.eye(3))

    shares = []
    for n in range(200):
        mixed = augment.mixup((n, 5), sample(200, [0, 1]), sample(0, [2]))
        assert np.ptp(mixed.image) == 0
        shares.append(int(mixed.image[0, 0, 0]) / 200)
    np.testing.assert_array_equal(mixed.labels, [0, 1, 2])
    np.testing.assert_array_equal(mixed.crowd, [False, False, True])
    np.testing.assert_array_equal(mixed.boxes, [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]])
    # Beta(8, 8) has mean 1/2 and variance 1 / (4 * 17).
    assert abs(np.mean(shares) - 0.5) < 0.03 and abs(np.std(shares) - 0.121) < 0.02


# --- the warp itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [1.0, 4.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_warp_is_cv2_warp_affine(seed, zoom):
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 2)
    matrix = augment.affine(seed, (60, 80), Augment(scale=0.3, translate=0.2, rotate=90, shear=10)).numpy()
    if zoom > 1:  # a small image, enlarged: its soft edge is wide
        smooth = smooth[:11, :14]
        matrix = matrix @ geometry.translation(20, 20).numpy() @ geometry.scaling(zoom).numpy()
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # cv2 counts from the pixels' centres, and x first
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    matrix_xy = swap @ np.linalg.inv(half) @ matrix @ half @ swap
    expected = cv2.warpAffine(
        smooth.astype(np.float32) / 255,
        matrix_xy[:2],
        (90, 70),
        flags=cv2.INTER_LINEAR,
        borderValue=[geometry.GREY] * 3,
    )
    moved = geometry.warp(smooth, matrix, (70, 90)).numpy()
    np.testing.assert_allclose(moved, expected, atol=0.02)  # cv2 rounds places to 1/32 of a pixel
    np.testing.assert_allclose(geometry.warp(smooth.astype(np.float32) / 255, matrix, (70, 90)), moved, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_by_a_whole_number_is_the_mean(factor):
    image = np.random.default_rng(0).integers(0, 256, (48, 72, 3), np.uint8)
    size = (48 // factor, 72 // factor)
    mean = image.reshape(size[0], factor, size[1], factor, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(geometry.warp(image, geometry.scaling(1 / factor), size), mean, atol=1e-4)


@pytest.mark.parametrize("factor", [2.0, 2.5, 3.4, 5.7])
@pytest.mark.parametrize("axis", [0, 1])
def test_shrinking_skips_no_pixel(factor, axis):
    """Black and white lines become grey. Bilinear interpolation alone makes broad stripes of them, black and white."""
    lines = np.zeros((200, 200, 3), np.uint8)
    lines[(slice(None, None, 2), slice(None))[:: 1 - 2 * axis]] = 255
    small = geometry.warp(lines, geometry.scaling(1 / factor), (int(200 / factor) - 1,) * 2)
    assert np.abs(small.numpy() - 0.5).max() < 0.2


def test_what_is_outside_is_grey():
    image = np.full((10, 10, 3), 255, np.uint8)
    outside = geometry.warp(image, geometry.translation(500, -500), (20, 30))
    np.testing.assert_allclose(outside, np.full((20, 30, 3), 114 / 255), atol=1e-6)
    boxed = geometry.warp(image, geometry.letterbox((10, 10), (10, 30)), (10, 30)).numpy()
    np.testing.assert_allclose(boxed[:, :10], 114 / 255, atol=1e-6)
    np.testing.assert_allclose(boxed[:, 10:20], 1.0, atol=1e-6)
    np.testing.assert_allclose(boxed[:, 20:], 114 / 255, atol=1e-6)
