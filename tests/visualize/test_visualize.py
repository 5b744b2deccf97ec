"""Pictures, read back pixel by pixel."""

import itertools

import cv2
import numpy as np
import pytest
from conftest import slow
from matplotlib import pyplot
from matplotlib.text import Text

from tfyolo.evaluation.report import Curves
from tfyolo.structures import BACKGROUND, IGNORE
from tfyolo.visualize import drawing, image_files, plots, sheets
from tfyolo.visualize.drawing import FOUND, IGNORED, MISSED, WRONG
from tfyolo.visualize.image_files import DrawingError

GREY = 90


def blank(height=120, width=160):
    return np.full((height, width, 3), GREY, np.uint8)


def differs(picture, image):
    """Rows and columns [N, 2] that were drawn on."""
    return np.argwhere((picture != image).any(axis=-1))


# --- boxes on images --------------------------------------------------------------------------------------------------


def test_edges_lie_where_the_box_ends():
    """Pixel (0, 0) covers [0, 1) x [0, 1): the box (20, 30, 50, 70) covers rows 20 .. 49 and columns 30 .. 69."""
    picture = drawing.draw(blank(), [[20, 30, 50, 70]], [0], None, [""])  # a name without letters has no tag
    expected = blank()
    cv2.rectangle(expected, (30, 20), (69, 49), drawing.color(0), 1)
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("size, line", [((120, 160), 1), ((480, 640), 2), ((1500, 2000), 6)])
def test_lines_grow_inwards_with_the_picture(size, line):
    height, width = size
    image = blank(height, width)
    picture = drawing.draw(image, [[10, 10, height - 10, width - 10]], [1], None, ["", ""])
    drawn = (picture == drawing.color(1)).all(axis=-1)
    assert drawn[height // 2].nonzero()[0].tolist() == [
        *range(10, 10 + line),
        *range(width - 10 - line, width - 10),
    ]
    assert drawn[:, width // 2].sum() == 2 * line


@pytest.mark.parametrize("value", [blank(), np.full((120, 160), GREY, np.uint8), np.full((120, 160, 1), GREY / 255)])
def test_grey_and_floats_are_drawn_on_as_well(value):
    before = value.copy()
    picture = drawing.draw(value, [[20, 30, 90, 140]], [0], [0.5], ["cat"])
    np.testing.assert_array_equal(picture, drawing.draw(blank(), [[20, 30, 90, 140]], [0], [0.5], ["cat"]))
    np.testing.assert_array_equal(value, before)


def test_nothing_to_draw_gives_a_copy():
    image = blank()
    picture = drawing.draw(image, np.zeros([0, 4]), [], [], ["cat"])
    np.testing.assert_array_equal(picture, image)
    assert not np.shares_memory(picture, image)


def test_padding_and_boxes_elsewhere_leave_no_trace():
    boxes = [[10, 10, 50, 50], [-90, -90, -20, -20], [500, 10, 600, 90], [np.nan, 0, 9, 9]]
    np.testing.assert_array_equal(drawing.draw(blank(), boxes, [-1, 0, 0, 0], [0.9] * 4, ["cat"]), blank())


def test_a_box_that_leaves_the_image_is_cut():
    picture = drawing.draw(blank(), [[-50, -50, 60, 80]], [0], None, [""])
    drawn = differs(picture, blank())
    assert drawn.min(axis=0).tolist() == [0, 0] and drawn.max(axis=0).tolist() == [59, 79]


@pytest.mark.parametrize("box", [[0, 0, 20, 20], [100, 140, 120, 160], [0, 140, 30, 160], [50, 60, 50.2, 60.2]])
def test_tags_stay_in_the_picture(box):
    """It is as high and wide as one that has all the room there is, but for a side that falls on the box's own line."""

    def extent(box):
        tagged, plain = (drawing.draw(blank(), [box], [0], None, [name]) for name in ("elephant", ""))
        return np.ptp(differs(tagged, plain), axis=0)

    np.testing.assert_allclose(extent(box), extent([60, 40, 90, 41]), atol=1)


def test_tags_do_not_hide_each_other():
    """Three boxes with one upper left corner: each tag finds a place of its own."""
    boxes, labels = [[40, 40, 100, 150], [40, 40, 90, 120], [40, 40, 75, 135]], [0, 1, 2]

    def painted(names, boxes, labels):
        picture = drawing.draw(blank(), boxes, labels, None, names)
        return np.array([(picture == drawing.color(label)).all(axis=-1).sum() for label in range(3)])

    names, none = ["aaaa", "bbbb", "cccc"], [""] * 3
    together = painted(names, boxes, labels) - painted(none, boxes, labels)
    for label in labels:
        one = [boxes[label]], [label]
        alone = painted(names, *one) - painted(none, *one)
        assert together[label] > 0.7 * alone[label] > 100  # less what lies on its own outline


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (8, 8), (16, 40)])
def test_tiny_images(size):
    picture = drawing.draw(blank(*size), [[0, 0, *size]], [0], [0.5], ["elephant"])
    assert picture.shape == (*size, 3) and tuple(picture[0, 0]) == drawing.color(0)


def test_names_in_any_script_show_their_letters():
    box = [[60, 20, 110, 150]]
    drawn = [
        drawing.draw(blank(), box, [0], None, [name]).tobytes() for name in ("zaz", "žáž", "зая", "ζαζ", "???", "猫")
    ]
    assert len(set(drawn)) == 6


def test_a_label_without_a_name_shows_its_number():
    np.testing.assert_array_equal(
        drawing.draw(blank(), [[60, 20, 110, 150]], [7], None, ["cat"]),
        drawing.draw(blank(), [[60, 20, 110, 150]], [7], None, ["cat"] * 7 + ["class 7"]),
    )


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4, 2), np.uint8), r"\[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
    ],
)
def test_what_is_no_image_is_an_error(image, message):
    with pytest.raises(DrawingError, match=message):
        drawing.draw(image, [], [], [], [])


def test_a_figure_of_no_known_kind_is_an_error(tmp_path):
    with pytest.raises(DrawingError, match=r"\.xyz: expected a suffix .* received 'xyz'"):
        plots.confusion_matrix(np.ones((2, 2), int), 0.5, ["one"], tmp_path / "matrix.xyz")
    assert not list(tmp_path.iterdir())


def test_small_images_are_enlarged_with_their_boxes():
    image, boxes = blank(48, 96), np.array([[12, 24, 36, 48]])
    image[12:36, 24:48] = 250
    large, there, none = sheets.enlarged(image, boxes, np.zeros([0, 4]))
    assert large.shape == (240, 480, 3) and there.tolist() == [[60, 120, 180, 240]] and none.shape == (0, 4)
    bright = np.argwhere(large[..., 0] > 170)
    np.testing.assert_allclose([*bright.min(0), *bright.max(0) + 1], there[0], atol=1)
    same, theirs = sheets.enlarged(blank(480, 640), boxes)
    assert same.shape == (480, 640, 3) and theirs is boxes


@pytest.mark.parametrize("size, expected", [((48, 96), (120, 240)), ((960, 480), (240, 120))])
def test_images_are_brought_to_a_side_with_their_boxes(size, expected):
    image, (y, x) = blank(*size), np.array(size) // 4
    image[y : 2 * y, x : 3 * x] = 250
    there, boxes = sheets.resized(image, [[y, x, 2 * y, 3 * x]], side=240)
    assert there.shape == (*expected, 3)
    bright = np.argwhere(there[..., 0] > 170)
    np.testing.assert_allclose([*bright.min(0), *bright.max(0) + 1], boxes[0], atol=1)


def test_labelled_boxes_have_their_classes_colours_and_ignored_ones_are_grey_below_them():
    boxes = np.array([[20, 30, 50, 70], [60, 30, 90, 70], [60, 30, 95, 75]])
    picture = drawing.draw_ground_truth(blank(), boxes, [0, 1, 2], np.array([False, False, True]), ["", "", "name"])
    corner = [tuple(picture[box[2] - 1, box[3] - 1]) for box in boxes]
    assert corner == [drawing.color(0), drawing.color(1), IGNORED] and tuple(picture[60, 30]) == drawing.color(1)


def test_tags_leave_most_of_the_image_visible():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (300, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1)
    labels = np.zeros(300, int)
    tagged, plain = (drawing.draw(blank(480, 480), boxes, labels, None, [name]) for name in ("a long name", ""))
    assert 0.1 < len(differs(tagged, plain)) / 480**2 < drawing.COVERED + 0.02
    first = drawing.draw(blank(480, 480), boxes[:1], labels[:1], None, ["a long name"])
    rows, columns = np.nonzero((first == drawing.color(0)).all(axis=-1))
    assert (tagged[rows, columns] == drawing.color(0)).all(axis=-1).mean() > 0.9  # the most important has its tag


def test_colours_stay_and_differ():
    colors = [drawing.color(label) for label in range(80)]
    assert colors[:3] == [(242, 61, 36), (36, 72, 242), (106, 196, 29)]  # the same in every run and version
    assert len(set(colors)) == 80 and np.array(colors).min() >= 0 and np.array(colors).max() <= 255
    first = np.array(colors[:12], int)
    distance = np.abs(first[:, None] - first[None]).sum(axis=-1) + 1000 * np.eye(12, dtype=int)
    assert distance.min() > 50


def test_matches_have_four_colours():
    image = blank(400, 400)
    ground_truth = [[10, 10, 60, 60], [110, 10, 160, 60], [210, 10, 260, 60]]
    boxes = [[10, 110, 60, 160], [110, 110, 160, 160], [210, 110, 260, 160]]
    picture = drawing.draw_matches(
        image,
        np.array(ground_truth),
        [0, 0, 0],
        [False, False, True],
        np.array(boxes),
        [0, 0, 0],
        [0.9, 0.8, 0.7],
        ["cat"],
        [0, BACKGROUND, IGNORE],  # the first matches the first object
    )
    corner = [tuple(picture[box[2] - 1, box[3] - 1]) for box in ground_truth + boxes]
    assert corner == [(GREY,) * 3, MISSED, IGNORED, FOUND, WRONG, IGNORED]
    assert len({FOUND, WRONG, MISSED, IGNORED}) == 4 and (image == GREY).all()
    assert all((picture[-60:] == shade).all(axis=-1).any() for shade in (FOUND, WRONG, MISSED, IGNORED))  # the legend


def test_errors_are_drawn_over_what_is_right():
    box = np.array([[10, 10, 60, 60]])
    both = np.concatenate([box, box])
    for gt_index in ([0, BACKGROUND], [BACKGROUND, 0]):
        picture = drawing.draw_matches(blank(), box, [0], [False], both, [0, 0], [0.9, 0.8], [""], np.array(gt_index))
        assert tuple(picture[59, 59]) == WRONG


def test_matches_of_nothing():
    empty = np.zeros([0, 4]), np.zeros(0, int)
    picture = drawing.draw_matches(blank(), *empty, np.zeros(0, bool), *empty, np.zeros(0), ["cat"], np.zeros(0, int))
    assert picture.shape == blank().shape


# --- maps and sheets --------------------------------------------------------------------------------------------------


def test_a_heatmap_is_warm_where_the_map_is_high():
    image = blank(64, 96)
    values = np.zeros((4, 6))
    values[1, 4] = 1
    picture = sheets.heatmap(image, values).astype(int)
    assert picture.shape == image.shape and (image == GREY).all()
    red = picture[..., 0]
    y, x = np.unravel_index(red.argmax(), red.shape)
    assert 16 <= y < 32 and 64 <= x < 80  # cell (1, 4) of cells of 16 pixels
    assert red[20:28, 68:76].min() > red[:, :32].max() + 50
    strange = np.where(values > 0, np.inf, np.nan)
    np.testing.assert_array_equal(sheets.heatmap(image, strange), picture)


def test_a_grid_shows_every_image_once():
    images = [np.full((10 + i, 20 - i, 3), 40 * i, np.uint8) for i in range(5)]
    sheet = sheets.grid(images, 3, padding=2)
    assert sheet.shape == (2 * (14 + 2) + 2, 3 * (20 + 2) + 2, 3)
    for i, image in enumerate(images):
        rows, columns = np.nonzero((sheet == 40 * i).all(axis=-1))
        assert len(rows) == image.shape[0] * image.shape[1]
        assert rows.min() // 17 == i // 3 and columns.min() // 22 == i % 3
    with pytest.raises(DrawingError, match="received 0 images"):
        sheets.grid([], 3)


def test_a_title_stands_above_the_image():
    image = blank(120, 200)
    said, silent = (sheets.titled(image, title) for title in ("objectness, p3", ""))
    np.testing.assert_array_equal(said[-120:], image)
    strip = said[:-120]
    assert strip.shape == silent[:-120].shape and (silent[:-120] == 255).all() and (strip < 100).any()
    assert sheets.titled(image, "a title that is much too long " * 9).shape == said.shape


def test_a_gallery_fills_its_width_with_every_image_in_shape():
    shapes = [(100, 50), (50, 100), (80, 80), (30, 90), (64, 64)]
    sheet = sheets.gallery([np.full((*s, 3), 20 + 40 * i, np.uint8) for i, s in enumerate(shapes)], 3, 400)
    assert sheet.shape[1] == 400
    for i, (height, width) in enumerate(shapes):
        rows, columns = np.nonzero((sheet == 20 + 40 * i).all(axis=-1))
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(width / height, rel=0.05)
    assert (sheet[:, :4] == 255).all() and not (sheet[4:-4, 4:8] == 255).all(axis=(1, 2)).all()
    with pytest.raises(DrawingError, match="received none"):
        sheets.gallery([], 3, 400)


def test_saved_is_what_is_read_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    image_files.save(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "a.png"))[..., ::-1], image)
    image_files.save(tmp_path / "b.jpg", blank())
    assert (tmp_path / "b.jpg").read_bytes()[:2] == b"\xff\xd8"
    with pytest.raises(DrawingError, match=r"'\.txt'"):
        image_files.save(tmp_path / "c.txt", image)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "b.jpg", "new"]


# --- figures ----------------------------------------------------------------------------------------------------------


def curves(K, empty=()):
    recall, scores = np.linspace(0, 1, 101), np.linspace(0, 1, 201)
    level = np.linspace(0.3, 1, K)[:, None]
    precision, f1 = level * (1 - recall**4), level * np.sin(np.pi * scores)
    precision[list(empty)] = f1[list(empty)] = np.nan
    return Curves(recall, precision, scores, f1, np.full(201, np.nan) if len(empty) == K else np.sin(np.pi * scores))


@pytest.mark.parametrize("K, empty", [(1, ()), (1, (0,)), (3, (1,)), slow(200, (5,))])
def test_figures_are_drawn_for_any_number_of_classes(tmp_path, K, empty):
    classes = [f"класс {k}" if k else "猫" for k in range(K)]
    matrix = np.random.default_rng(0).integers(0, 50, (K + 1, K + 1)) * (len(empty) < K)
    plots.pr_curves(curves(K, empty), classes, tmp_path / "pr.png")
    plots.f1_curves(curves(K, empty), classes, tmp_path / "f1.svg")
    plots.confusion_matrix(matrix, 0.25, classes, tmp_path / "confusion.png")
    for name in ("pr.png", "confusion.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert min(picture.shape[:2]) > 300 and max(picture.shape[:2]) < 3000
    assert "<svg" in (tmp_path / "f1.svg").read_text()
    assert len(list(tmp_path.iterdir())) == 3 and not pyplot.get_fignums()


def test_a_curve_has_the_colour_of_its_class(tmp_path):
    """The one of the class without ground truth is missing, those after it keep their colours."""
    plots.pr_curves(curves(3, empty=(1,)), ["cat", "dog", "emu"], tmp_path / "pr.png")
    picture = cv2.imread(str(tmp_path / "pr.png"))[..., ::-1].astype(int)
    count = [(np.abs(picture - drawing.color(k)).max(axis=-1) < 8).sum() for k in range(3)]
    assert count[0] > 200 and count[1] == 0 and count[2] > 200


def test_the_confusion_matrix_is_dark_where_ground_truth_was_predicted(tmp_path):
    def dark(matrix):
        plots.confusion_matrix(np.array(matrix), 0.25, ["cat", "dog"], tmp_path / "c.png")
        picture = cv2.imread(str(tmp_path / "c.png"))[..., ::-1].astype(int)
        return picture[..., 2] - picture[..., 0] > 60

    right, missed = dark([[9, 0, 0], [0, 9, 0], [0, 0, 0]]), dark([[0, 0, 9], [0, 0, 9], [0, 0, 0]])
    y, x = np.argwhere(right & ~missed).T
    assert np.corrcoef(y, x)[0, 1] == pytest.approx(0.75, abs=0.02)  # two squares that touch at a corner
    y_missed, x_missed = np.argwhere(missed & ~right).T
    assert x_missed.min() > x.max() - 3 and abs(y_missed.mean() - y.mean()) < 3


@pytest.mark.parametrize(
    "classes, occur, shown, note",
    [(3, [0, 1, 2], [0, 1, 2], ""), (80, [3, 70], [3, 70], "2 of 80 classes occur"),
     (80, range(25), range(25), "25 of 80 classes occur"),
     (80, range(60), range(40, 60), "the 20 with most errors of 80 classes"),
     (2, [], [0, 1], "0 of 2 classes occur")],
)  # fmt: skip
def test_a_confusion_matrix_shows_the_classes_that_occur_or_the_worst(
    classes, occur, shown, note, tmp_path, monkeypatch
):
    figures = []
    monkeypatch.setattr(plots, "_write_figure", lambda figure, path: figures.append(figure))
    matrix = np.zeros((classes + 1, classes + 1), int)
    for k in occur:
        matrix[k, k], matrix[k, -1], matrix[-1, k] = 500 - k, k, k  # the later, the more errors
    plots.confusion_matrix(matrix, 0.5, [f"class {k}" for k in range(classes)], tmp_path / "c.png")
    axes = figures[0].axes[0]
    names = [[label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())]
    assert names == [[*(f"class {k}" for k in shown), last] for last in ("background", "missed")]
    assert axes.get_title().partition("\n")[2] == note
    numbers = {tuple(map(int, text.get_position())): int(text.get_text()) for text in axes.texts}
    assert all(numbers[n, n] == 500 - k for n, k in enumerate(shown) if occur)


HISTORY = (
    "epoch,stage,lr,seconds,images_per_second,loss,loss_box,loss_class,gradient_norm,AP,AP50,AP75\n"
    "1,0,0.001,9,30,3.5,2,1.5,7,,,\n2,0,0.0005,9,30,2.5,1.5,1,7,0.2,0.4,0.1\n3,1,0.0001,9,30,2,1,1,7,nan,nan,nan\n"
)


@pytest.mark.parametrize("rows", [slow(2), 3, slow(4)])
def test_training_curves_of_any_length(tmp_path, rows):
    """One epoch, none of them evaluated, a new stage, an AP that cannot be said: all are ordinary."""
    (tmp_path / "history.csv").write_text("".join(line + "\n" for line in HISTORY.splitlines()[:rows]))
    plots.training_curves(tmp_path / "history.csv", tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))[..., ::-1].astype(int)
    _, ap, lr = np.array_split(np.abs(picture - drawing.color(0)).max(axis=-1) < 8, 3, axis=1)
    assert lr.sum() > 20 and (ap.sum() > 20)  # the legend alone shows AP's colour


def test_training_curves_of_nothing(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY.splitlines()[0])
    with pytest.raises(DrawingError, match=r"history.csv: expected a run's history.csv.*received 0 rows"):
        plots.training_curves(tmp_path / "history.csv", tmp_path / "curves.png")


def test_names_of_points_that_lie_together_do_not(monkeypatch):
    """As exports of one run do, in AP and in milliseconds."""
    drawn = []
    monkeypatch.setattr(plots, "_write_figure", lambda figure, path: drawn.append(figure))
    names = (
        "keras",
        "saved_model",
        "model.tflite",
        "model-float16.tflite",
        "model-dynamic.tflite",
        "model-int8.tflite",
    )
    plots.scatter("speed.png", {name: (33.6 + k / 10, 0.5813) for k, name in enumerate(names)}, "milliseconds", "AP")
    (figure,) = drawn
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text().split("  ")[0] in names]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == len(names)
    assert all(not a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
