"""YOLOv9: published counts, outputs of the original implementation, and checkpoints of the MIT-licensed edition."""

import functools
import importlib.util

import numpy as np
import pytest
from conftest import SHARED, load_config, slow
from torch_files import fake_modules, saved, tensors

from tfyolo import checkpoint
from tfyolo import model as models
from tfyolo.config import ConfigError
from tfyolo.graph.fusion import fuse
from tfyolo.structures import as_raw
from tfyolo.weights.torch import importing, layouts, unpickle

NATIVE = {"t": "yolov9t", "s": "yolov9s", "m": "yolov9m", "c": "yolov9c"}
K80 = [str(i) for i in range(80)]


def layout_lines(size):
    """[(key, shape)] of a published checkpoint."""
    path = SHARED / "weights" / "layouts" / f"yolov9-{size}.txt"
    if not path.is_file():
        pytest.skip("needs the layouts in ../shared, which is not beside this clone")
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(key, tuple(map(int, shape.split("x")))) for key, shape in lines if shape != "scalar"]


def golden_module():
    """The goldens' own weights.py."""
    path = SHARED / "goldens" / "weights.py"
    if not path.is_file():
        pytest.skip("needs the goldens in ../shared, which is not beside this clone")
    spec = importlib.util.spec_from_file_location("golden_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden():
    """(Their state dict for yolov9-t, [2, 160, 128, 3] images, the original's outputs)."""
    module = golden_module()
    state = {key: module.tensor(key, shape) for key, shape in layout_lines("t")}
    images = module.images(160, 128).transpose(0, 2, 3, 1)
    with np.load(SHARED / "goldens" / "yolov9-t.npz") as arrays:
        return state, images, dict(arrays)


def written(state, path):
    """A checkpoint, as torch.save writes it."""
    with pytest.MonkeyPatch.context() as patch:
        fake_modules(patch)
        theirs = tensors(state)
        return saved(path, theirs, theirs.values())


@pytest.fixture(scope="module")
def imported(golden, tmp_path_factory):
    """yolov9t with the golden weights, for images of their size."""
    state, images, _ = golden
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "build", functools.partial(models.build, input_size=images.shape[1:3]))
        return importing.load(written(state, tmp_path_factory.mktemp("golden") / "v9-t.pt"))


def outputs(network, images):
    """[{part: {level: [B, h, w, Z]}}] of the main and, where there is one, the auxiliary head."""
    raw = as_raw(network(images, training=False))
    heads = [raw.parts] + ([as_raw(raw.aux).parts] if raw.aux is not None else [])
    return [
        {part: {level: np.asarray(x)[..., 0, :] for level, x in levels.items()} for part, levels in parts.items()}
        for parts in heads
    ]


def distances(logits):
    """[B, h, w, 64] -> [B, h, w, 4], the means of the distributions: top, left, bottom, right."""
    e = np.exp(logits.reshape(*logits.shape[:-1], 4, 16).astype("float64"))
    return (e / e.sum(-1, keepdims=True)) @ np.arange(16)


# --- the original's outputs -------------------------------------------------------------------------------------------


def test_heads_equal_those_of_the_original(golden, imported):
    _, images, expected = golden
    assert imported.native == "yolov9t" and imported.report[0].endswith("tensors used")
    for name, parts in zip(("main", "aux"), outputs(imported.model.network, images), strict=True):
        for level in ("p3", "p4", "p5"):
            cls, sides = (expected[f"{name}_{level}_{part}"] for part in ("classes", "distances"))
            np.testing.assert_allclose(parts["cls"][level].transpose(0, 3, 1, 2), cls, atol=1e-4 * abs(cls).max())
            ltrb = distances(parts["box"][level])[..., [1, 0, 3, 2]].transpose(0, 3, 1, 2)
            np.testing.assert_allclose(ltrb, sides, atol=1e-4 * abs(sides).max())


@pytest.mark.slow
def test_fused_the_network_is_of_plain_convolutions_and_computes_the_same(golden, imported):
    _, images, _ = golden
    fused = fuse(imported.model)
    kinds = {type(layer).__name__ for layer in fused.network.layers}
    assert "BatchNorm" not in kinds and not any(".rep1" in layer.name for layer in fused.network.layers)
    assert not any(".aux." in layer.name for layer in fused.network.layers)
    (lead,) = outputs(fused.network, images)
    for part, levels in outputs(imported.model.network, images)[0].items():
        for level, x in levels.items():
            np.testing.assert_allclose(lead[part][level], x, atol=1e-4 * abs(x).max())


# --- counts -----------------------------------------------------------------------------------------------------------

# ../shared/FACTS.md: what is trained, with the 16 places of the bins of three levels, which are no weights here; fused,
# in millions. Of t 2.0 are published, by an edition whose class branches have 80 channels instead of 128.
PLACES = 3 * 16


def trainable(model, part=""):
    """The numbers that are trained in layers whose names hold a text."""
    return sum(int(np.prod(variable.shape)) for variable in model.network.trainable_variables if part in variable.path)


@pytest.mark.slow
def test_published_counts_of_the_smallest(imported):
    assert trainable(imported.model) == 3_717_744 - 2 * PLACES
    assert trainable(imported.model) - trainable(imported.model, ".aux.") == 2_442_672 - PLACES
    narrower = (64 + 96 + 128) * 9 * 48 + 3 * 9 * (128**2 - 80**2) + 3 * 80 * 48
    assert (fuse(imported.model).network.count_params() - narrower) / 1e6 == pytest.approx(2.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("size, expected, published", [("s", None, 7.1), ("m", None, 20.0), ("c", 25_498_784, 25.3)])
def test_published_counts(size, expected, published):
    model = models.build(load_config(NATIVE[size]), K80)
    assert expected is None or trainable(model) == expected - PLACES
    assert fuse(model).network.count_params() / 1e6 == pytest.approx(published, abs=0.05)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["t", pytest.param("c", marks=pytest.mark.slow)])
def test_every_key_of_a_published_checkpoint_is_one_of_our_variables(size, request):
    """With the shape that ours has; less the places of the bins, and c's auxiliary branch."""
    lines = dict(layout_lines(size))
    last = lines["model.22.heads.0.class_conv.2.bias"][0]
    layout, count = layouts.recognise({key: np.broadcast_to(np.float32(0), shape) for key, shape in lines.items()})
    assert (layout.native, count) == (NATIVE[size], last)
    model = request.getfixturevalue("imported").model if size == "t" else models.build(load_config(layout.native), K80)
    ours = {layout.theirs(path): value.shape for path, value in checkpoint.weights_of(model.network).items()}
    expected = {
        key: tuple(shape[i] for i in (2, 3, 1, 0)) if len(shape) == 4 else shape
        for key, shape in lines.items()
        if not key.endswith("num_batches_tracked")
        and "anc2vec" not in key
        and (size != "c" or int(key.split(".")[1]) < 23)
    }
    assert ours == expected and len(ours) == len(checkpoint.weights_of(model.network))


@pytest.fixture(scope="module")
def deployed(golden):
    """What is published for use: the golden weights without the auxiliary branch."""
    return {key: array for key, array in golden[0].items() if int(key.split(".")[1]) < 23}


def test_names_without_the_prefix_are_the_same(golden, imported, tmp_path, monkeypatch):
    assigned = {}
    monkeypatch.setattr(importing, "build", lambda *_: imported.model)
    monkeypatch.setattr(checkpoint, "assign", lambda _, weights, source: assigned.update(weights))
    state = {key.removeprefix("model."): array for key, array in golden[0].items()}
    found = importing.load(written(state, tmp_path / "x.pt"))
    assert found.native == "yolov9t" and f"all {len(state)} tensors used" in found.report[0]
    same = checkpoint.weights_of(imported.model.network)
    assert assigned.keys() == same.keys()
    for path, array in assigned.items():
        np.testing.assert_array_equal(array, same[path], err_msg=path)


@pytest.mark.slow
def test_what_is_published_for_use_has_no_auxiliary_branch_and_any_number_of_classes(deployed, imported, tmp_path):
    state = {key: array[:70] if ".class_conv.2." in key else array for key, array in deployed.items()}
    found = importing.load(written(state, tmp_path / "x.pt"))
    assert "yolov9t, 70 classes without names" in found.report[0]
    assert f"all {len(state)} tensors used" in found.report[0]
    assert as_raw(found.model.network.output).aux is None
    same = checkpoint.weights_of(imported.model.network)
    for path, array in checkpoint.weights_of(found.model.network).items():
        np.testing.assert_array_equal(array, same[path][..., : array.shape[-1]], err_msg=path)


@pytest.mark.slow
def test_an_auxiliary_branch_that_only_training_reads_is_left_aside_and_reported(tmp_path, monkeypatch):
    """c's begins with a second backbone, which the network here has not."""
    config = load_config("yolov9c", "model.backbone.width=0.125", "model.input_size=64")
    small = models.build(config, ("a", "b"))
    layout = layouts.recognise(
        {
            "model.0.conv.weight": np.zeros((64, 3, 3, 3)),
            "model.2.conv2.0.conv1.conv.weight": np.zeros((1, 1, 1, 1)),
            "model.22.heads.0.class_conv.2.bias": np.zeros(2),
        }
    )[0]
    monkeypatch.setattr(importing, "build", lambda *_: small)
    monkeypatch.setattr(importing, "recognise", lambda _: (layout, 2))
    state = {}
    for path, value in checkpoint.weights_of(small.network).items():
        state[layout.theirs(path)] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    branch = {f"model.{i}.conv.weight": np.full((4, 4, 1, 1), np.nan, "float32") for i in (23, 41, 100)}
    report, licence = importing.load(written(state | branch, tmp_path / "c.pt")).report
    assert f"{len(state)} tensors used, 3 left aside: an auxiliary branch" in report and "MIT" in licence
    with pytest.raises(unpickle.TorchError, match=r"model\.10\.conv\.weight is left over"):
        importing.load(written(state | {"model.10.conv.weight": np.zeros(3, "float32")}, tmp_path / "c.pt"))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("model.1.bn.weight"), r"model\.1\.bn\.weight is missing"),
        slow(lambda s: s.update({"model.31.x": np.zeros(3, "f4")}), r"model\.31\.x is left over"),
        (
            lambda s: s.update({"model.22.heads.1.anc2vec.anc2vec.weight": np.ones((1, 16, 1, 1, 1), "f4")}),
            r"model\.22\.heads\.1\.anc2vec\.anc2vec\.weight is left over",
        ),
        slow(
            lambda s: s.update({"model.9.conv5.bn.bias": np.zeros(3, "f4")}),
            r"model\.9\.conv5\.bn\.bias: expected \[128\].*received \[3\]",
        ),
        (
            lambda s: s.update({"model.22.heads.0.anchor_conv.1.conv.weight": np.zeros((64, 64, 3, 3), "f4")}),
            r"anchor_conv\.1\.conv\.weight: expected \[3, 3, 16, 64\].*received \[3, 3, 64, 64\]",
        ),
        slow(lambda s: s["model.0.bn.weight"].fill(np.nan), r"model\.0\.bn\.weight holds numbers that are not finite"),
        (lambda s: s.pop("model.0.conv.weight"), r"received YOLOv9 of another layout"),
    ],
)
def test_all_tensors_or_none(change, message, golden, imported, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "build", lambda *_: imported.model)  # which stays as it is
    state = {key: array.copy() for key, array in golden[0].items()}
    change(state)
    with pytest.raises(unpickle.TorchError, match=message):
        importing.load(written(state, tmp_path / "x.pt"))


@pytest.mark.parametrize("count", [0, 200_000])
def test_a_number_of_classes_that_cannot_be_is_named(count, golden, tmp_path):
    state = dict(golden[0])
    for i in range(3):
        state[f"model.22.heads.{i}.class_conv.2.bias"] = np.zeros(count, "f4")
    with pytest.raises(unpickle.TorchError, match=r"x\.pt: expected yolov9t, its anchors or classes cannot be"):
        importing.load(written(state, tmp_path / "x.pt"))


def damaged(rng, state):
    """A state dict in which some tensors are lost, doubled, renamed, or have another shape or values."""
    lost = set(rng.choice(list(state), rng.integers(0, 3)))
    state = {name: array for name, array in state.items() if name not in lost}
    for name in rng.choice(list(state), rng.integers(1, 4), replace=False):
        array = state[name]
        changes = [
            {name: array[: len(array) // 2]},
            {name: array.reshape(-1)[None]},
            {name: array[:0]},
            {name: np.array(1, "float32")},
            {name: array * np.float32(np.nan)},
            {f"{name}.{name}": array},
            {f"model.{10**9}.conv.weight": array},
            {"model.\n\0\ud800": array},
        ]
        state |= changes[rng.integers(len(changes))]
    return state


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_damaged_state_dicts_are_named(rounds, golden, imported, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "build", lambda *_: imported.model)
    rng = np.random.default_rng(rounds)
    for _ in range(rounds):
        state = damaged(rng, golden[0])
        monkeypatch.setattr(importing, "read", lambda _, state=state: state)
        with pytest.raises(unpickle.TorchError, match=r"x\.pt: expected ") as error:
            importing.load(tmp_path / "x.pt")
        assert all(line.isprintable() for line in str(error.value).splitlines())


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.backbone.channels=[64, 128]", r"channels: expected four numbers, of p2 to p5, received 2"),
        slow(
            "model.decoder={name: anchor, anchors: {p3: [[8, 8]], p4: [[16, 16]], p5: [[32, 32]]}}",
            r"grouped: expected a decoder of sides without anchors and objectness",
        ),
    ],
)
def test_what_does_not_fit_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        models.build(load_config("yolov9t", override), ("a",))
