"""Checkpoints of PyTorch: written here as torch.save writes them, with torch itself where it is installed."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from conftest import mostly_slow, slow, small
from torch_files import as_module, reported, saved, tensors

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.cli import app
from tfyolo.folders import FolderError
from tfyolo.predict.load import load as load_detector
from tfyolo.structures import Raw, as_raw
from tfyolo.training import train as training
from tfyolo.weights.initial import initialise
from tfyolo.weights.torch import importing as torch_importing
from tfyolo.weights.torch import layouts, unpickle


@pytest.fixture(scope="module", params=["yolov8n", "yolov7-tiny", pytest.param("yolo11n", marks=pytest.mark.slow)])
def native(request):
    return models.build(configs.load(configs.zoo(request.param), ["model.input_size=64"]), ("red", "green"))


STEM = {"yolov8n": 16, "yolo11n": 16, "yolov7-tiny": 32, "yolov7": 32, "yolov7-w6": 64, "yolov7-e6e": 80}
HEAD = {"yolov8n": 22, "yolo11n": 23, "yolov7-tiny": 77, "yolov7": 105, "yolov7-w6": 122, "yolov7-e6e": 265}


def layout_of(name):
    """As it is found for a file, of which it looks at a few tensors."""
    head = f"model.{HEAD[name]}"
    arrays = {"model.0.conv.weight": np.zeros((STEM[name], 3, 3, 3))}
    if name.startswith("yolov7"):
        levels = 4 if name in ("yolov7-w6", "yolov7-e6e") else 3
        arrays |= {f"{head}.m.0.bias": np.zeros(21), f"{head}.anchors": np.ones((levels, 3, 2))}
        arrays |= {f"{head}.ia.0.implicit": np.zeros((1, 8, 1, 1))}
    else:
        arrays[f"{head}.cv3.0.2.bias"] = np.zeros(2)
    layout, classes = layouts.recognise(arrays)
    assert (layout.native, classes) == (name, 2)
    return layout


def their_state(model, seed=0, half=False, without=(), own=False):
    """Random weights for a Model, as a checkpoint of theirs names and lays them: ({their name: array}, {our path:
    array}).

    without: parts of our names that it does not have. own: not random, but the Model's.
    """
    rng = np.random.default_rng(seed)
    theirs, ours, name = {}, {}, model.config.name
    layout = layout_of(name)
    for path, value in checkpoint.weights_of(model.network).items():
        if any(part in path for part in without):
            continue
        if not own:
            value = rng.uniform(0.2, 1, value.shape).astype("float16").astype("float32")
        ours[path] = value
        if ".box.out/" in path:  # top, left, bottom, right -> left, top, right, bottom
            blocks = np.split(value, 4, axis=-1)
            value = np.concatenate([blocks[1], blocks[0], blocks[3], blocks[2]], axis=-1)
        elif name.startswith("yolov7") and (".out/" in path or "implicit_multiply" in path):  # y, x, h, w -> x, y, w, h
            value = value.copy()
            for first in (0, 7, 14):
                value[..., [first, first + 1, first + 2, first + 3]] = value[
                    ..., [first + 1, first, first + 3, first + 2]
                ]
        if "implicit" in path:
            value = value.reshape(1, -1, 1, 1)
        if value.ndim == 4 and "implicit" not in path:
            depthwise = ".depth" in path or ".place." in path
            value = value.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        theirs[layout.theirs(path)] = value.astype("float16") if half else value
    head = f"model.{HEAD[name]}"
    if name.startswith("yolov7"):
        theirs[f"{head}.anchors"] = ANCHORS_THERE[: len(model.decoder.levels)].astype("float16" if half else "float32")
        theirs[f"{head}.anchor_grid"] = np.zeros((len(model.decoder.levels), 1, 3, 1, 1, 2), "float32")
    else:
        theirs[f"{head}.dfl.conv.weight"] = np.arange(16, dtype="float32").reshape(1, 16, 1, 1)
    for each in [each for each in theirs if each.endswith("running_mean")]:
        theirs[each.replace("running_mean", "num_batches_tracked")] = np.array(7)
    return theirs, ours


# Widths and heights, in cells: of p3 (12, 16), (19, 36), (40, 28) pixels.
ANCHORS_THERE = np.array([[[1.5, 2], [2.375, 4.5], [5, 3.5]]] * 4)


@pytest.mark.parametrize(
    "native, form",
    [
        pytest.param(name, form, marks=[pytest.mark.slow] * ((name, form) != ("yolov8n", "model")))
        for name in ("yolov8n", "yolov7-tiny", "yolo11n")
        for form in ("model", "half", "state dict", "training state", "averages")
    ],
    indirect=["native"],
)
def test_every_tensor_arrives(form, native, fake_torch, tmp_path):
    theirs, ours = their_state(native, half=form == "half")
    state = tensors(theirs)
    value = {
        "state dict": lambda: collections.OrderedDict(state),
        "half": lambda: collections.OrderedDict(state),
        "model": lambda: as_module(state, ("red", "green")),
        "training state": lambda: {
            "epoch": 3,
            "model": as_module(state, ("red", "green")),
            "ema": None,
            "best": np.float64(0.5),
        },
        "averages": lambda: {"model": None, "ema": as_module(state, ("red", "green")), "updates": 10},
    }[form]()
    imported = torch_importing.load(saved(tmp_path / "x.pt", value, state.values()))
    assert imported.native == native.config.name
    assert imported.model.classes == (("0", "1") if form in ("state dict", "half") else ("red", "green"))
    for path, array in checkpoint.weights_of(imported.model.network).items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)


@pytest.mark.slow
def test_a_run_of_a_checkpoint_detects(native, fake_torch, tmp_path):
    theirs, _ = their_state(native)
    state = tensors(theirs)
    path = saved(tmp_path / "x.pt", as_module(state, ("red", "green")), state.values())
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    result = CliRunner().invoke(
        app.main, ["import", str(path), "--out", str(tmp_path / "run"), "--names", str(tmp_path / "names.txt")]
    )
    message = f"{native.config.name}, 2 classes, all {len(state)} tensors used"
    assert result.exit_code == 0 and message in result.output, result.output
    found = load_detector(tmp_path / "run")(np.zeros((32, 48, 3), np.uint8))
    assert len(found.boxes) == len(found.scores) and load_detector(tmp_path / "run").classes == ("one", "two")
    with pytest.raises(FolderError, match="new or empty folder"):
        torch_importing.import_run(path, tmp_path / "run")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("model.1.bn.weight"), "model.1.bn.weight is missing"),
        slow(lambda s: s.update({"model.30.weight": np.zeros(3, "f4")}), "model.30.weight is left over"),
        (
            lambda s: s.update({"model.1.bn.bias": np.zeros(3, "f4")}),
            r"model.1.bn.bias: expected \[\d+\].*received \[3\]",
        ),
        slow(lambda s: s["model.0.bn.weight"].fill(np.nan), "model.0.bn.weight holds numbers that are not finite"),
        slow(
            lambda s: s.update({"model.22.dfl.conv.weight": np.ones((1, 16, 1, 1), "f4")}),
            "model.22.dfl.conv.weight is left over",
        ),
        (
            lambda s: s.pop("model.0.conv.weight"),
            r"received \w+( of another layout| network) \(\d+ tensors, the first|model.0.conv.weight is missing",
        ),
        (lambda s: s.clear(), "received nothing; save the model, or its state_dict"),
    ],
)
def test_all_tensors_or_none(change, message, native, fake_torch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_importing, "build", lambda *_: native)  # which stays as it is
    theirs, _ = their_state(native)
    change(theirs)
    state = tensors(theirs)
    with pytest.raises(unpickle.TorchError, match=message) as error:
        torch_importing.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    assert "x.pt" in str(error.value)


def test_what_torch_itself_writes(native, tmp_path):
    pytorch = pytest.importorskip("torch", reason="needs torch, which is an extra: pip install 'tfyolo[torch]'")
    theirs, ours = their_state(native)
    for kind in (pytorch.float32, pytorch.float16, pytorch.bfloat16):
        state = {name: pytorch.tensor(array) for name, array in theirs.items()}
        state = {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()}
        state["model.1.conv.weight"] = pytorch.nn.Parameter(state["model.1.conv.weight"])
        state["model.3.conv.weight"] = state["model.3.conv.weight"].to(memory_format=pytorch.channels_last)
        pytorch.save({"epoch": 1, "model": state}, tmp_path / "x.pt")
        imported = torch_importing.load(tmp_path / "x.pt")
        tolerance = 0 if kind != pytorch.bfloat16 else 1e-2
        for path, array in checkpoint.weights_of(imported.model.network).items():
            np.testing.assert_allclose(array, ours[path], rtol=tolerance, err_msg=path)


def test_fine_tuning_keeps_all_but_what_tells_classes(fake_torch, tmp_path):
    """Also of a branch that is as wide as the classes are many."""
    there = models.build(configs.load(configs.zoo("yolov8n"), ["model.input_size=64"]), [str(i) for i in range(80)])
    models.save_model(tmp_path / "there.h5", there)
    here = models.build(there.config, ("red", "green"))
    report, _, _ = initialise(here, tmp_path / "there.h5")
    anew = [f"head.p{level}.cls.{layer}" for level in (3, 4, 5) for layer in ("conv1.conv", "conv1.norm", "conv2.conv")]
    assert report[2].startswith("head: 36 arrays kept; ") and report[2].endswith("80 classes there, 2 here")
    assert all(layer in report[2] for layer in anew[:3])
    kept, given = checkpoint.weights_of(here.network), checkpoint.weights_of(there.network)
    assert all(np.array_equal(kept[name], given[name]) for name in kept if ".cls." not in name)


@pytest.mark.slow
def test_fine_tuning_on_as_many_other_classes_begins_their_rows_anew(tmp_path):
    there = models.build(configs.load(configs.zoo("yolov8n"), ["model.input_size=64"]), [str(i) for i in range(80)])
    models.save_model(tmp_path / "there.h5", there)
    others = models.build(there.config, [f"class {i}" for i in range(80)])
    assert (
        "head.p3.cls.out, head.p4.cls.out, head.p5.cls.out: the rows of all classes re-initialised"
        in (initialise(others, tmp_path / "there.h5")[0][2])
    )


NAMED = {
    # As the published checkpoints have them.
    "yolov8n": ["model.2.m.0.cv1.conv.weight", "model.22.cv3.2.2.bias", "model.9.cv2.bn.running_var",
    "model.22.cv2.0.1.bn.weight"],
    "yolo11n": ["model.6.m.0.cv3.conv.weight", "model.6.m.0.m.1.cv2.bn.bias", "model.10.m.0.attn.pe.conv.weight",
                "model.10.m.0.ffn.1.conv.weight", "model.23.cv3.1.0.0.conv.weight", "model.23.cv3.1.1.1.bn.weight"],
    "yolov7-tiny": ["model.7.conv.weight", "model.28.bn.running_mean", "model.30.conv.weight", "model.37.bn.bias",
                    "model.66.conv.weight", "model.76.conv.weight", "model.77.m.2.bias", "model.77.im.1.implicit"],
    "yolov7": ["model.2.conv.weight", "model.50.conv.weight", "model.51.cv7.conv.weight", "model.101.bn.weight",
               "model.102.rbr_dense.0.weight", "model.104.rbr_1x1.1.running_var", "model.105.ia.0.implicit"],
    "yolov7-e6e": ["model.1.conv.weight", "model.2.cv1.conv.weight", "model.110.conv.weight", "model.112.cv4.bn.bias",
                   "model.113.conv.weight", "model.115.conv.weight", "model.255.conv.weight", "model.264.conv.weight",
                   "model.265.m2.3.bias", "model.265.im.3.implicit"],
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(NAMED, ["yolov8n"]))
def test_names_are_theirs(name):
    layout, network = layout_of(name), models.build(small(name), ("a",)).network
    names = [layout.theirs(path) for path in checkpoint.weights_of(network)]
    assert len(names) == len(set(names)) and set(NAMED[name]) <= set(names)


def test_an_imported_yolov7_is_used_without_what_trained_it(fake_torch, tmp_path):
    """Of the form that is published for use: implicit knowledge multiplied in. And its anchors are the file's, height
    first.
    """
    there = models.build(configs.load(configs.zoo("yolov7-tiny"), ["model.input_size=64"]), ("red", "green"))
    theirs, ours = their_state(there, without=("implicit",))
    state = tensors(theirs)
    imported = torch_importing.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    weights = checkpoint.weights_of(imported.model.network)
    assert weights.keys() == ours.keys() and not any("implicit" in path for path in weights)
    anchors = imported.model.config.model.decoder.options["anchors"]
    assert anchors["p3"] == [[16, 12], [36, 19], [28, 40]] and anchors["p5"][0] == [64, 48]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, without, aux",
    [("yolov7", (), False), ("yolov7-e6e", (), True), ("yolov7-e6e", ("implicit", ".aux."), False)],
)
def test_a_large_yolov7_arrives(name, without, aux, fake_torch, tmp_path):
    there = models.build(configs.load(configs.zoo(name), ["model.input_size=64"]), ("red", "green"))
    theirs, ours = their_state(there, without=without)
    if not aux and name == "yolov7-e6e":  # the head comes four blocks earlier
        theirs = {each.replace("model.265.", "model.261."): array for each, array in theirs.items()}
    state = tensors(theirs)
    imported = torch_importing.load(saved(tmp_path / "x.pt", dict(state), state.values()))
    weights = checkpoint.weights_of(imported.model.network)
    assert imported.native == name and weights.keys() == ours.keys()
    for path, array in weights.items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)
    assert isinstance(imported.model.network.output, Raw) == aux


# The published descriptions of YOLOv7's networks: block after block, from where it reads and what it is; negative: so
# many back.
def elan_there(convs, joined):
    links = [(-1, "conv")] * (convs - 1)
    return [(-1, "conv"), (-2, "conv"), (-1, "conv"), *links, (joined, "concat"), (-1, "conv")]


def halved(*others):
    return [(-1, "pool"), (-1, "conv"), (-3, "conv"), (-1, "conv/2"), ((-1, -3, *others), "concat")]


def from_above(lateral):
    return [(-1, "conv"), (-1, "up"), (lateral, "conv"), ((-1, -2), "concat")]


TWO, FOUR, ALL = (
    elan_there(*each) for each in [(2, (-1, -2, -3, -4)), (4, (-1, -3, -5, -6)), (4, (-1, -2, -3, -4, -5, -6))]
)
POOLS = [(-1, "pool5"), (-2, "pool9"), (-3, "pool13"), ((-1, -2, -3, -4), "concat")]
DESCRIBED = {
    "yolov7-tiny": (
        [(-1, "conv/2"), (-1, "conv/2"), *TWO, *[(-1, "pool"), *TWO] * 3]
        + [(-1, "conv"), (-2, "conv"), *POOLS, (-1, "conv"), ((-1, -7), "concat"), (-1, "conv")]
        + [*from_above(21), *TWO, *from_above(14), *TWO]
        + [(-1, "conv/2"), ((-1, 47), "concat"), *TWO, (-1, "conv/2"), ((-1, 37), "concat"), *TWO]
        + [(57, "conv"), (65, "conv"), (73, "conv")]
    ),
    "yolov7": (
        [(-1, "conv"), (-1, "conv/2"), (-1, "conv"), (-1, "conv/2"), *FOUR, *[*halved(), *FOUR] * 3, (-1, "sppcspc")]
        + [*from_above(37), *ALL, *from_above(24), *ALL, *halved(63), *ALL, *halved(51), *ALL]
        + [(75, "rep"), (88, "rep"), (101, "rep")]
    ),
    "yolov7-w6": (
        [(-1, "reorg"), (-1, "conv"), *[(-1, "conv/2"), *FOUR] * 5, (-1, "sppcspc")]
        + [*from_above(37), *ALL, *from_above(28), *ALL, *from_above(19), *ALL]
        + [(-1, "conv/2"), ((-1, 71), "concat"), *ALL, (-1, "conv/2"), ((-1, 59), "concat"), *ALL]
        + [(-1, "conv/2"), ((-1, 47), "concat"), *ALL]
        + [(each, "conv") for each in (83, 93, 103, 113, 83, 71, 59, 47)]
    ),
}


def as_described(rows, weights, images, activation):
    """What the last blocks of a description give, [N, h, w, C] each, computed with their tensors under their names."""
    maps = []

    def conv(x, name, stride=1, norm="bn", own="conv.", act=activation):
        kernel = weights[f"{name}.{own}weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        x = tf.nn.conv2d(x, kernel, stride, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        mean, variance, scale, shift = (
            weights[f"{name}.{norm}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return act((x - mean) / np.sqrt(variance + 1e-3) * scale + shift)

    def pool(x, size):
        return tf.nn.max_pool2d(x, size, 1, "SAME")

    for number, (sources, kind) in enumerate(rows):
        name = f"model.{number}"
        read = [
            images if number == 0 else maps[each if each >= 0 else number + each] for each in np.atleast_1d(sources)
        ]
        x = read[0]
        if kind.startswith("conv"):
            x = conv(x, name, 2 if kind == "conv/2" else 1)
        elif kind == "concat":
            x = tf.concat(read, -1)
        elif kind == "pool":
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        elif kind.startswith("pool"):
            x = pool(x, int(kind[4:]))
        elif kind == "up":
            x = tf.repeat(tf.repeat(x, 2, 1), 2, 2)
        elif kind == "reorg":
            x = tf.concat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        elif kind == "sppcspc":
            inner = conv(conv(conv(x, f"{name}.cv1"), f"{name}.cv3"), f"{name}.cv4")
            inner = tf.concat([inner, *(pool(inner, size) for size in (5, 9, 13))], -1)
            inner = conv(conv(inner, f"{name}.cv5"), f"{name}.cv6")
            x = conv(tf.concat([inner, conv(x, f"{name}.cv2")], -1), f"{name}.cv7")
        elif kind == "rep":
            parts = [conv(x, f"{name}.{each}", 1, "1", "0.", tf.identity) for each in ("rbr_dense", "rbr_1x1")]
            x = activation(sum(parts))
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    "name", ["yolov7-tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("yolov7", "yolov7-w6"))]
)
def test_yolov7_is_wired_as_it_is_published(name):
    size = 128 if name == "yolov7-w6" else 64
    model = models.build(configs.load(configs.zoo(name), [f"model.input_size={size}"]), ("red", "green"))
    rng = np.random.default_rng(0)
    for variable in model.network.variables:  # such that all that is read shows in the outputs
        if "norm" in variable.path or "implicit" in variable.path:
            low = -0.5 if "beta" in variable.path or "mean" in variable.path else 0.5
            variable.assign(rng.uniform(low, low + 1, variable.shape))
        elif "kernel" in variable.path:
            variable.assign(rng.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape))
    theirs, _ = their_state(model, own=True)
    images = rng.random((1, size, size, 3), dtype="float32")
    activation = (lambda x: tf.nn.leaky_relu(x, 0.1)) if name == "yolov7-tiny" else tf.nn.silu
    rows = DESCRIBED[name]
    maps = as_described(rows, theirs, images, activation)
    raw, head = model.network(images, training=False), f"model.{len(rows)}"
    outputs = [(as_raw(raw).parts, "m", True)] + ([(raw.aux, "m2", False)] if isinstance(raw, Raw) else [])
    levels = sorted(model.decoder.levels)
    lasts = iter(maps[-len(outputs) * len(levels) :])
    for predicted, kind, implicit in outputs:
        for i, level in enumerate(levels):
            x = next(lasts) + (theirs[f"{head}.ia.{i}.implicit"].reshape(-1) if implicit else 0)
            y = x @ theirs[f"{head}.{kind}.{i}.weight"][:, :, 0, 0].T + theirs[f"{head}.{kind}.{i}.bias"]
            y = y * (theirs[f"{head}.im.{i}.implicit"].reshape(-1) if implicit else 1)
            y = np.asarray(y).reshape(*y.shape[:3], 3, 7)
            boxes = np.asarray(predicted["box"][level])[..., [1, 0, 3, 2]]
            ours = np.concatenate([boxes, predicted["obj"][level], predicted["cls"][level]], -1)
            assert np.std(y) > 1e-2
            np.testing.assert_allclose(ours, y, rtol=1e-3, atol=1e-3 * np.std(y))


def test_a_changed_network_is_named_by_what_was_changed(classes, native, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_importing, "build", lambda *_: native)
    theirs, _ = their_state(native)
    del theirs["model.1.bn.weight"]
    model = as_module(state := tensors(theirs), ("red", "green"))
    model.attention = classes("ultralytics.nn.modules.conv.CBAM")()
    message = reported({"model": model}, state.values(), tmp_path)
    first = "1 of its tensors do not fit, the first: model.1.bn.weight is missing; import it as it was published"
    assert message == f"{native.config.name}, received one with other layers (CBAM): {first}"
    pruned = {name: array[..., :1] if array.ndim == 4 else array for name, array in theirs.items()}
    message = reported(dict(state := tensors(pruned)), state.values(), tmp_path)
    assert (
        message.startswith(f"{native.config.name}, received a network like it: ")
        and "tensors do not fit, the" in message
    )


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".cfg", ".onnx"])
@pytest.mark.parametrize("there", [True, False])
def test_what_has_to_be_imported_first_is_said_before_anything_is_done(suffix, there, tmp_path):
    path = tmp_path / f"their best{suffix}"
    if there:
        path.write_bytes(b"PK\3\4\xff")
    config = configs.load(configs.zoo("demo"), [f"train.init={path}", f"data={tmp_path / 'nowhere'}"])
    ways = (models.load_model, load_detector, lambda path: training.train(config, tmp_path / "run"), configs.load)
    for way in (*ways, lambda path: initialise(None, path)):
        with pytest.raises((checkpoint.CheckpointError, configs.ConfigError)) as error:
            way(path)
        message = f"{path}: {'' if there else 'no such file; '}expected "
        import_it = f"`tfyolo import '{path}'" if suffix != ".onnx" else "import the checkpoint it was made of"
        assert message in str(error.value) and import_it in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
