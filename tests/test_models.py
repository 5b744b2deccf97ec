"""Every config of configs/, by existing: contracts of the parts, gradients, and errors of options that do not fit."""

import contextlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import EACH_CONFIG, P6, load_config, of_all_scales, random_sample, slow, small, strategy_of
from keras import layers

from tfyolo import heads, structures
from tfyolo import model as models
from tfyolo.backbones import BACKBONES
from tfyolo.config import ConfigError
from tfyolo.darknet.layers import LocallyConnected, WeightedSum
from tfyolo.graph.fusion import fuse
from tfyolo.graph.quantization import FakeQuantize, quantization_aware
from tfyolo.graph.summary import gradient_norms, summarize
from tfyolo.nn.norm import BatchNorm
from tfyolo.structures import as_raw, level_stride
from tfyolo.training.optim import OPTIMIZERS, biases, build_for, undecayed
from tfyolo.training.steps import loss_terms

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module", params=EACH_CONFIG)
def built(request):
    return models.build(small(request.param), NAMES)


def few(*names):
    """For a test whose law hangs on little of the networks: quick of these alone, the other configs are slow."""
    cases = [getattr(each, "values", (each,))[0] for each in EACH_CONFIG]
    return pytest.mark.parametrize("built", [name if name in names else slow(name) for name in cases], indirect=True)


def test_raw_has_the_contracts_shape(built):
    height, width = built.config.model.input_size
    raw = as_raw(built.network.output)
    parts = built.decoder.parts(len(NAMES))
    corners = built.config.model.decoder.name == "corner"
    assert (
        {"cls", "embed", "offset"} == set(parts) if corners else {"box", "cls"} <= set(parts) <= {"box", "obj", "cls"}
    )
    for head in filter(None, (raw.aux and as_raw(raw.aux).parts, raw.parts)):
        assert set(head) == set(parts)
        for part, levels in head.items():
            assert set(levels) == set(built.decoder.levels)
            for level, tensor in levels.items():
                stride = level_stride(level)
                if built.config.model.decoder.name == "ssd" and level > "p4":  # any grid will do
                    assert tensor.shape[1] >= height // stride and tensor.shape[2] >= width // stride
                else:
                    assert tensor.shape[1:3] == (height // stride, width // stride)
                assert tensor.shape[3] in (1, built.decoder.num_anchors) and tensor.shape[4] == parts[part]


def test_candidates_have_the_contracts_shapes(built):
    sample = random_sample(built.config.model.input_size)
    candidates = built.decoder(built.network(sample.image))
    count = candidates.boxes.shape[1]
    assert candidates.boxes.shape == (2, count, 4) and candidates.scores.shape == (2, count, len(NAMES))
    assert count == built.decoder.count(built.network.output) and not built.decoder.weights
    assert np.all((candidates.scores.numpy() >= 0) & (candidates.scores.numpy() <= 1))
    if built.config.model.decoder.name == "corner":  # pairs are made of what the objective reads raw
        assert not candidates.logits and candidates.priors is None
        return
    assert {part: values.shape for part, values in candidates.logits.items()} == {
        part: (2, count, channels) for part, channels in built.decoder.parts(len(NAMES)).items()
    }
    assert candidates.priors.centers.shape == (count, 2) and candidates.priors.strides.shape == (count,)


def test_every_variable_learns(built):
    sample = of_all_scales(built.config.model.input_size)
    with tf.GradientTape() as tape:
        loss = sum(loss_terms(built, sample).values())
    gradients = tape.gradient(loss, built.network.trainable_variables)
    still = [
        variable.path
        for variable, gradient in zip(built.network.trainable_variables, gradients, strict=True)
        if gradient is None or not np.isfinite(gradient).all() or not np.any(gradient)
    ]
    assert not still


def decayed(network):
    """The paths of the variables that weight decay draws to 0."""
    left_out = {variable.path for variable in undecayed(network)}
    return {variable.path for variable in network.trainable_variables} - left_out


def kernels(network):
    """The paths of what convolutions, of whatever kind, and fully connected layers multiply with."""
    convolutions = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense, LocallyConnected)
    return {layer.kernel.path for layer in network.layers if isinstance(layer, convolutions)}


def test_weight_decay_is_of_the_kernels_alone(built):
    assert decayed(built.network) == kernels(built.network)


def test_weight_decay_is_of_the_kernels_alone_with_fake_quantization():
    network = quantization_aware(models.build(small("demo"), NAMES)).network
    assert any(type(layer) is FakeQuantize and layer.trainable_variables for layer in network.layers)
    assert decayed(network) == kernels(network)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_step_without_gradients_changes_the_kernels_alone(per_channel, replicas):
    """Biases of a locally connected layer have three dimensions, weights of a weighted sum two; layers hold layers."""
    strategy = strategy_of(replicas)
    with strategy.scope():
        images = keras.Input((8, 8, 4))
        x = LocallyConnected(4, 3, 1, 1, name="local")(images)
        x = WeightedSum(per_channel, "none", name="sum")([x, images])
        x = keras.Sequential([layers.Conv2D(4, 1, name="gamma"), BatchNorm(name="norm")], name="nested")(x)
        network = keras.Model(images, layers.Dense(2, name="dense")(x))
        optimizer = OPTIMIZERS["adamw"](1.0, weight_decay=0.5)
        build_for(network, optimizer)
    variables = network.trainable_variables
    before = [np.asarray(variable) for variable in variables]
    strategy.run(lambda: optimizer.apply([tf.zeros(variable.shape) for variable in variables], variables))
    changed = [v for v, old in zip(variables, before, strict=True) if np.any(np.asarray(v) != old)]
    assert {variable.path.split("/")[-2] for variable in changed} == {"local", "gamma", "dense"}
    assert {variable.path.split("/")[-1] for variable in changed} == {"kernel"}
    assert {variable.path.split("/")[-2] for variable in biases(network)} == {"local", "gamma", "norm", "dense"}


# Which parts go with which: heads by themselves, decoders with an assigner and an objective that read what they give.
ANCHORS = {f"p{level}": [[8 << level >> 2, 6 << level >> 2], [4 << level, 5 << level]] for level in (3, 4, 5)}
BACKBONE_PARTS = (
    "{name: c2f, depth: 0.33, width: 0.125}",
    "{name: darknet53, width: 0.125}",
    "{name: csp_darknet53, width: 0.125}",
)
NECK_PARTS = ("identity", "{name: pan, depth: 0.33}", "up_cat", "spp_pan")
HEAD_PARTS = ("coupled", "linear", "decoupled")
ENDS = [
    (f"{{name: anchor, anchors: {ANCHORS}}}", "best_anchor", "dense"),
    (f"{{name: wide, anchors: {ANCHORS}}}", "task_aligned", "dense"),
    ("{name: dfl, bins: 8}", "task_aligned", "aligned"),
]


# Each neck behind the lightest backbone, each backbone before the lightest neck; quickly each of them once, each head
# and each end. YOLOv8's with its own are in other tests.
QUICK_CROSSINGS = {
    (BACKBONE_PARTS[0], "up_cat", "coupled", 0),
    (BACKBONE_PARTS[0], "spp_pan", "linear", 1),
    (BACKBONE_PARTS[1], "identity", "decoupled", 2),
    (BACKBONE_PARTS[2], "identity", "coupled", 0),
}
CROSSINGS = [
    pytest.param(
        *parts,
        head,
        end,
        id="-".join([*(re.sub(r"\{name: (\w+).*", r"\1", part) for part in (*parts, end[0])), head]),
        marks=[pytest.mark.slow] * ((*parts, head, ENDS.index(end)) not in QUICK_CROSSINGS),
    )
    for parts in [(BACKBONE_PARTS[0], neck) for neck in NECK_PARTS]
    + [(part, "identity") for part in BACKBONE_PARTS[1:]]
    for head in HEAD_PARTS
    for end in ENDS
]


@pytest.mark.parametrize("backbone, neck, head, end", CROSSINGS)
def test_parts_cross_over(backbone, neck, head, end):
    decoder, assigner, objective = (part.replace("'", "") for part in end)
    overrides = {
        "backbone": backbone,
        "neck": neck,
        "head": head,
        "decoder": decoder,
        "assigner": assigner,
        "objective": objective,
    }
    config = load_config(
        "yolov8n", "model.input_size=64", *(f"model.{kind}={part}" for kind, part in overrides.items())
    )
    model = models.build(config, NAMES)
    sample = of_all_scales((64, 64))
    with tf.GradientTape() as tape:
        terms = loss_terms(model, sample)
        loss = sum(terms.values())
    assert set(terms) == set(model.objective.terms) and np.isfinite(list(terms.values())).all()
    variables = model.network.trainable_variables
    gradients = tape.gradient(loss, variables)
    still = [
        v.path
        for v, g in zip(variables, gradients, strict=True)
        if g is None or not np.isfinite(g).all() or not np.any(g)
    ]
    assert not still


def test_a_dual_heads_two_parts_train_what_is_theirs():
    """The head without NMS trains by itself; all before it trains by the other. Inference has the first alone."""
    model = models.build(small("yolov8n-e2e"), NAMES)
    sample = of_all_scales(model.config.model.input_size)
    with tf.GradientTape(persistent=True) as tape:
        terms = loss_terms(model, sample)
        one, many = (sum(terms[prefix + name] for name in ("box", "cls", "dfl")) for prefix in ("", "aux_"))
    variables = model.network.trainable_variables
    for loss, learns in (
        (one, lambda path: path.startswith("head.p")),
        (many, lambda path: not path.startswith("head.p")),
    ):
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            assert (gradient is not None and bool(np.any(gradient))) == learns(variable.path), variable.path
    used = fuse(model)
    assert set(used.network.output) == {"box", "cls"}
    assert not any(".aux." in layer.name for layer in used.network.layers)


@pytest.mark.parametrize(
    "name, override",
    [("yolov8n", "model.head={name: decoupled, dual: true}"), slow("yolov8n-e2e", "model.objective.aux=null")],
)
def test_auxiliary_outputs_and_their_loss_come_together(name, override):
    with pytest.raises(ConfigError, match=r"model\.objective: expected its option `aux` with a head that gives"):
        models.build(load_config(name, override), NAMES)


def test_auxiliary_features_before_a_head_that_reads_none_are_an_error():
    overrides = ["model.head={name: coupled}", "model.objective={name: dense}", "model.assigner={name: best_anchor}"]
    with pytest.raises(
        ConfigError,
        match=r"model\.neck: .*auxiliary head, which model\.head, coupled, does not read; .* expected aux: false",
    ):
        models.build(load_config("yolov7-w6", *overrides, *P6), NAMES)
    models.build(load_config("yolov7-w6", *overrides, *P6, "model.neck.aux=false"), NAMES)


@pytest.mark.parametrize(
    "aux, message",
    [
        ("{topk: 2.5}", "aux: topk: expected a whole number from 1 to 1000000, received 2.5"),
        slow("{topk: 0}", "aux: topk: expected a whole number from 1 to 1000000, received 0"),
        slow("{top: 3}", "aux: the assigner has no option 'top'; its options: topk, alpha, beta"),
    ],
)
def test_options_of_the_auxiliary_assigner_are_checked(aux, message):
    with pytest.raises(ConfigError, match=rf"model\.objective: {message}"):
        models.build(load_config("yolov8n-e2e", f"model.objective.aux={aux}"), NAMES)


def test_an_option_that_the_post_processing_lacks_is_an_error():
    with pytest.raises(
        ConfigError, match=r"model\.postprocess\.iou: top has no such option; its options: score, limit"
    ):
        models.postprocess(small("yolov8n-e2e"), iou=0.5)


def test_heads_that_read_auxiliary_features_declare_it(monkeypatch):
    """One of a user's own, too: without the mark it is refused what it would leave unread."""

    def mine(features, parts, num_anchors, *, name="head"):
        return heads.implicit(features, parts, num_anchors, name=name)

    assert {name for name, head in heads.HEADS.items() if structures.can_read_aux(head)} == {
        "implicit",
        "corner",
        "grouped",
    }
    monkeypatch.setitem(heads.HEADS, "mine", mine)
    config = load_config("yolov7-w6", "model.head={name: mine}", *P6)
    with pytest.raises(ConfigError, match=r"features for an auxiliary head, which model\.head, mine, does not read"):
        models.build(config, NAMES)
    monkeypatch.setitem(heads.HEADS, "mine", structures.reads_aux(mine))
    assert isinstance(models.build(config, NAMES).network.output, structures.Raw)


@pytest.mark.slow
def test_a_network_of_open_size_is_the_network_of_every_size(built):
    if built.config.model.head.name == "grid" or built.config.model.neck.name == "mlfpn":
        with pytest.raises(ConfigError, match=r"expected one input size, .*received any"):
            models.build(built.config, NAMES, input_size=(None, None))
        return
    any_size = models.build(built.config, NAMES, input_size=(None, None))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False)
    def open_graph(images):
        raw = any_size.network(images)
        candidates = any_size.decoder(raw)
        return raw, candidates.boxes, candidates.scores, any_size.postprocess(candidates)

    for factor in (1, 2):
        size = [factor * side for side in built.config.model.input_size]
        fixed = models.build(built.config, NAMES, input_size=size)
        fixed.network.set_weights(built.network.get_weights())
        any_size.network.set_weights(built.network.get_weights())
        images = random_sample(size).image
        raw, boxes, scores, found = open_graph(images)
        for x, y in zip(tf.nest.flatten(raw), tf.nest.flatten(fixed.network(images)), strict=True):
            # The convolutions of either may add up in another order, which many layers of random weights amplify.
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * np.abs(y).max())
        expected = fixed.decoder(raw)
        if built.config.model.decoder.name == "corner":  # pairs of equal scores may change places
            boxes, scores, expected_scores = (tf.reduce_max(x, -1) for x in (scores, scores, expected.scores))
            np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-6)
        else:
            # Of random weights a box may be a thousand images long: float32 has seven digits of it.
            y1, x1, y2, x2 = np.moveaxis(np.asarray(expected.boxes), -1, 0)
            sides = np.stack([y2 - y1, x2 - x1] * 2, axis=-1)
            assert (np.abs(boxes - expected.boxes) <= 1e-3 + 1e-6 * np.abs(sides)).all()
            np.testing.assert_allclose(scores, expected.scores, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.scores, fixed.postprocess(expected).scores, rtol=1e-4, atol=1e-6)


@few("demo", "yolov1", "demo-m2det", "cornernet-small")
def test_sides_are_multiples_of_what_the_network_halves_to(built):
    """At the smallest size and beside it; the decoder's levels alone do not say it."""
    step = models.multiple(built)
    expected = {"hourglass": 4 * 2 ** (len(built.config.model.backbone.options.get("dims", ())) - 1), "vgg16": 16}
    least = max(built.decoder.levels, key=level_stride)
    assert step == expected.get(built.config.model.backbone.name, level_stride(least))
    if built.config.model.head.name != "grid":
        height, width = built.config.model.input_size
        size = height + step, max(width - step, step)
        model = models.resized(built, size)
        sample = random_sample(size)
        assert np.isfinite(built.decoder(model.network(sample.image)).boxes).all()


@pytest.mark.parametrize(
    "make, takes_one",
    [
        (lambda x: layers.Flatten(name="any")(x), True),
        (lambda x: layers.Reshape((-1, x.shape[-1] * x.shape[1] * x.shape[2]), name="any")(x), False),
        (lambda x: layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]), name="any")(x), True),
        (lambda x: LocallyConnected(2, 1, 1, 0, name="any")(x), True),
        # As squeeze and excitation has it.
        (lambda x: layers.Reshape((1, 1, 8), name="any")(layers.GlobalAveragePooling2D()(x)), False),
        (lambda x: layers.Activation("relu", name="head.flatten")(x), False),
    ],
)
def test_which_layers_take_one_size_is_seen_by_what_they_are(make, takes_one):
    config = small("demo")
    x = layers.Conv2D(8, 3)(images := keras.Input((*config.model.input_size, 3)))
    model = models.build(config, NAMES)._replace(network=keras.Model(images, make(x)))
    other = tuple(2 * side for side in config.model.input_size)
    models.check_other_size(model, config.model.input_size)
    with pytest.raises(ConfigError, match="the one size") if takes_one else contextlib.nullcontext():
        models.check_other_size(model, other)


@few("demo", "yolov1", "cornernet-small")
def test_save_and_load_give_the_same_outputs(built, tmp_path):
    models.save_model(tmp_path / "model.h5", built)
    again = models.load_model(tmp_path / "model.h5")
    images = random_sample(built.config.model.input_size).image
    assert again.classes == NAMES and again.config == built.config
    tf.nest.map_structure(np.testing.assert_array_equal, built.network(images), again.network(images))


@few("demo", "yolov1", "demo-m2det")
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights_and_candidates(built):
    model = models.build(built.config, NAMES, precision="bfloat16")
    assert {variable.dtype for variable in model.network.trainable_variables} == {"float32"}
    kernels = [layer for layer in model.network.layers if hasattr(layer, "kernel")]
    assert {layer.compute_dtype for layer in kernels} == {"bfloat16"}
    candidates = model.decoder(model.network(random_sample(built.config.model.input_size).image))
    assert candidates.boxes.dtype == candidates.scores.dtype == tf.float32
    assert keras.config.dtype_policy().name == "float32"  # nothing of it leaks


@pytest.mark.parametrize(
    "name, override, message",
    [
        ("yolov3", "model.input_size=[416,400]", "model.input_size: expected multiples of 32"),
        ("yolov3", "model.backbone=alexnet", "model.backbone.name: expected one of darknet_v1, darknet53"),
        (
            "yolov3",
            "model.backbone.widht=1.0",
            "model.backbone.widht: darknet53 has no such option; its options: width",
        ),
        (
            "yolov3",
            "model.backbone.width=wide",
            "model.backbone.width: expected a number > 0 and <= 100, received 'wide'",
        ),
        ("yolov3", "model.decoder.anchors={p4: [[1,2]], p5: [[3,4]]}", "expected the levels 3 (p3, p4, p5)"),
        ("yolov3", "model.decoder.anchors.p3=[[1,2]]", "the same number of anchors at every level"),
        ("yolov3", "model.decoder.anchors.p3=[[1,2,3]]", "model.decoder.anchors"),
        ("yolov3", "model.backbone.width=0", "model.backbone.width: expected a number > 0 and <= 100, received 0"),
        ("demo", "model.objective.box=l1", "model.objective: box: expected one of squared, iou, giou, diou, ciou"),
        ("yolov3", "model.head.activation=gelu", "model.head: activation: expected one of linear, leaky, relu"),
        (
            "yolov4",
            "model.backbone.first_stage=plain",
            "model.backbone.first_stage: expected one of csp, residual, received 'plain'",
        ),
        ("yolov4-tiny-3l", "model.backbone.finest=p4", "model.decoder: expected the levels 2 (p4, p5)"),
        (
            "yolov4",
            "model.decoder.scale_yx={p3: 2}",
            "scale_yx: expected a number for each of p3, p4, p5, received {'p3'",
        ),
        (
            "demo",
            "model.objective.obj_gain={p4: 4}",
            "model.objective: obj_gain: expected a number for each of p4",
        ),
        ("demo", "model.postprocess.limit=0", "model.postprocess.limit: expected a whole number from 1 to 100000"),
        (
            "demo",
            "model.postprocess={name: nms, soft_sigma: 0.5, soft_linear: true}",
            "model.postprocess: soft_sigma, soft_linear and distance_power: expected one of them at most",
        ),
        ("yolov3", "model.classes=[x, y]", "model.classes: expected the data's 3 (a, b, c), received 2 (x, y)"),
    ],
)
def test_options_that_do_not_fit_are_errors_of_the_config(name, override, message):
    with pytest.raises(ConfigError) as error:
        narrow = ["model.backbone.width=0.125"] if name == "yolov3" else []  # which is made in less time
        models.build(load_config(name, *narrow, override), NAMES)
    assert message in str(error.value)


def test_weights_load_all_or_nothing(tmp_path):
    models.save_model(tmp_path / "model.h5", models.build(small("demo"), NAMES))
    other = models.build(small("demo"), ("a", "b"))
    before = [value.copy() for value in other.network.get_weights()]
    from tfyolo import checkpoint

    _, weights = checkpoint.load(tmp_path / "model.h5", "weights")
    with pytest.raises(
        checkpoint.CheckpointError, match=r"shape: head.p4.out/kernel is .*nothing was loaded|nothing was loaded"
    ):
        checkpoint.assign(other.network, weights)
    for value, old in zip(other.network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"\x89HDF\r\n\x1a\n" + b"\0" * 50])
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, content):
    from tfyolo import checkpoint

    path = tmp_path / "best.h5"
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="expected a file of weights that tfyolo has written"):
        models.load_model(tmp_path)


def test_the_summary_of_an_unscaled_yolov8():
    """The figures of the literature, at 640 pixels."""
    config = load_config("yolov8n", "model.backbone.depth=1.0", "model.backbone.width=1.0", "model.neck.depth=1.0")
    described = summarize(models.build(config, [str(i) for i in range(80)]))
    stages = {row["stage"]: row for row in described["stages"]}
    assert stages["backbone.p1"]["output"] == [320, 320, 64]
    kept = {"backbone.p3": [80, 80, 256], "backbone.p4": [40, 40, 512], "backbone.sppf": [20, 20, 1024]}
    assert {name: stages[name]["output"] for name in kept} == kept
    assert stages["neck.p4.merge"]["inputs"] == ["neck.p4.up", "backbone.p4"]
    assert stages["neck.p4.merge"]["output"] == [40, 40, 1536] and stages["neck.p4"]["output"] == [40, 40, 512]
    assert [stages[f"head.p{level}.box"]["stride"] for level in (3, 4, 5)] == [8, 16, 32]
    assert described["candidates"] == 8400 and stages["head.p4.cls"]["output"] == [40, 40, 1, 80]


def test_every_stage_stands_after_those_it_reads(built):
    described = summarize(built)
    known = {"images"}
    for row in described["stages"]:
        assert row["inputs"] and set(row["inputs"]) <= known and row["output"]
        known.add(row["stage"])
    assert sum(row["parameters"] for row in described["stages"]) == built.network.count_params()
    assert sum(row["flops"] for row in described["stages"]) == described["flops"]
    sample = random_sample(built.config.model.input_size)
    assert described["candidates"] == built.decoder(built.network(sample.image)).boxes.shape[1]


def test_the_summary_counts_layers_of_a_users_own_names(monkeypatch):
    """Whose backbone comes from elsewhere: no name of its says where it stands."""

    def theirs(images, *, name="backbone"):
        x = layers.Conv2D(8, 3, 8, "same", name="their_stem")(images)
        return {"p3": layers.DepthwiseConv2D(3, padding="same", name="their_block")(x)}

    monkeypatch.setitem(BACKBONES, "theirs", theirs)
    overrides = ("model.input_size=64", "model.neck=identity", "model.decoder.levels=[p3]")
    config = load_config("yolov8n", "model.backbone={name: theirs}", *overrides)
    model = models.build(config, NAMES)
    described = summarize(model)
    assert described["stages"][0] == {
        "stage": "backbone", "inputs": ["images"], "output": [8, 8, 8], "stride": 8.0,
        "parameters": 3 * 3 * 3 * 8 + 8 + 3 * 3 * 8 + 8, "flops": 2 * 64 * (3 * 3 * 3 * 8 + 3 * 3 * 8),
    }  # fmt: skip
    assert sum(row["parameters"] for row in described["stages"]) == model.network.count_params()
    assert "backbone" in gradient_norms(model, [np.ones(v.shape) for v in model.network.trainable_variables])


@few("demo", "yolov1")
def test_gradient_norms_of_stages_add_up_to_the_whole(built):
    sample = random_sample(built.config.model.input_size)
    with tf.GradientTape() as tape:
        loss = sum(loss_terms(built, sample).values())
    gradients = tape.gradient(
        loss, built.network.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    norms = gradient_norms(built, gradients)
    assert set(norms) <= {row["stage"] for row in summarize(built)["stages"]}
    assert np.sqrt(sum(norm**2 for norm in norms.values())) == pytest.approx(
        float(tf.linalg.global_norm(gradients)), rel=1e-4
    )
