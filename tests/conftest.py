"""What tests share: small models of every config, and the way to the real data that may lie beside the clone."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as messages.import_tensorflow does

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

# Two logical CPUs, for the tests of two replicas; everything else runs on the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from torch_files import fake_torch, named_classes  # noqa: F401  (fixtures)

from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.cli import app
from tfyolo.data import demo
from tfyolo.structures import Sample
from tfyolo.training import job

ROOT = Path(__file__).parents[1]
# Another's with other numbers for depth and width: what differs is counted.
SCALED = (
    *(f"{family}{size}" for family in ("yolov8", "yolo11") for size in "smlx"),
    *(f"yolox-{size}" for size in ("tiny", "m", "l", "x")),
    "yolov7x",
    "yolov7-e6",
    "yolov7-d6",
    "yolov9s",
    "yolov9m",
    "m2det512-vgg",
    "m2det800-vgg",
    "m2det-small",
    "lite1",
)
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml") if path.stem not in SCALED)
# The deepest take minutes to trace; what they are made of is in the others too. The baselines differ in one block from
# yolov7-tiny.
BASELINES = ("vovnet-tiny", "csp-vovnet-tiny", "densenet-tiny", "resnext-tiny")
DEEP = ("yolov3-spp", "yolov4", "yolov4-csp", "yolov7", "yolov7-w6", "yolov7-e6e", "yolov8n-e2e", "yolo11n", *BASELINES)
DEEP += (
    "yolox-nano",
    "lite0",
    "mobilenetv3",
    "cornernet-hg104",
    "demo-cornernet",
    "m2det320-vgg",
    "yolov9t",
    "yolov9c",
)
# Made of what other quick ones are made of.
DEEP += ("yolov3", "yolov4-tiny", "yolov4-tiny-3l", "demo-yolov7", "demo-yolov1", "yolox-s")
EACH_CONFIG = [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in CONFIGS]
SHARED = ROOT.parent / "shared"


def slow(*values):
    """A case of a parametrised test that is a variation of one that stays quick."""
    return pytest.param(*values, marks=pytest.mark.slow)


def mostly_slow(cases, quick):
    """The cases of a test of one parameter, slow but for those named."""
    assert {*quick} <= {*cases}
    return [case if case in quick else slow(case) for case in cases]


def spanning(*axes):
    """The combinations of several parameters' values; those that are quick have each value once at least."""
    quick = {tuple(n % len(axis) for axis in axes) for n in range(max(map(len, axes)))}
    return [
        pytest.param(*(axis[i] for axis, i in zip(axes, at, strict=True)), marks=[pytest.mark.slow] * (at not in quick))
        for at in np.ndindex(*map(len, axes))
    ]


def environment():
    """Of a process that imports modules of the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def shared():
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real data in ../shared, which is not beside this clone")
    return SHARED


def load_config(name, *overrides):
    return configs.load(ROOT / "configs" / f"{name}.yaml", overrides)


P6 = [
    *("model.backbone.width=0.125", "model.backbone.hidden=8", "model.neck.width=0.125", "model.neck.hidden=16"),
    "model.input_size=[128,64]",
]


def small(name, **extra):
    """A config of the zoo, as it is but for its width and size: small enough to build by the dozen."""
    overrides = {
        "yolov3": ["model.backbone.width=0.125", "model.input_size=[96,64]"],
        "yolov3-spp": ["model.backbone.width=0.125", "model.input_size=[64,96]"],
        "yolov3-tiny": [
            "model.backbone.width=0.125",
            "model.neck.width=0.125",
            "model.head.channels={p4: 32, p5: 64}",
            "model.input_size=[96,128]",
        ],
        "yolov4": ["model.backbone.width=0.125", "model.input_size=[64,96]"],
        "yolov4-csp": ["model.backbone.width=0.125", "model.input_size=[96,64]"],
        "yolov4-tiny": [
            "model.backbone.width=0.125",
            "model.neck.width=0.125",
            "model.head.channels={p4: 32, p5: 64}",
            "model.input_size=[96,64]",
        ],
        "yolov4-tiny-3l": ["model.backbone.width=0.125", "model.neck.width=0.125", "model.input_size=[64,96]"],
        "yolov7": [
            "model.backbone={name: elan, width: 0.125, hidden: 8}",
            "model.neck={name: elan_pan, width: 0.125, hidden: 16}",
            "model.input_size=[96,64]",
        ],
        "yolov7-w6": P6,
        "yolov7-e6e": P6,
        "yolov7-tiny": ["model.backbone.width=0.25", "model.neck.width=0.25", "model.input_size=[64,96]"],
        "demo-yolov7": ["model.backbone.width=0.25", "model.neck.width=0.25", "model.input_size=[96,64]"],
        **{
            name: ["model.backbone={width: 0.25, hidden: 16}", "model.neck.width=0.25", "model.input_size=[64,96]"]
            for name in BASELINES
        },
        "resnext-tiny": [
            "model.backbone={width: 0.25, hidden: 16, groups: 4}",
            "model.neck.width=0.25",
            "model.input_size=[64,96]",
        ],
        "yolov8n": ["model.backbone.width=0.125", "model.input_size=[96,64]"],
        "yolov8n-e2e": ["model.backbone.width=0.125", "model.input_size=[64,96]"],
        "yolo11n": ["model.backbone.width=0.125", "model.input_size=[64,96]"],
        **{
            name: ["model.backbone.width=0.125", "model.head.width=0.0625", "model.input_size=[64,96]"]
            for name in ("yolox-nano", "yolox-s")
        },
        "yolov9t": ["model.backbone.width=0.125", "model.backbone.repeats=1", "model.input_size=[64,96]"],
        "yolov9c": ["model.backbone.width=0.0625", "model.input_size=[96,64]"],
        "yolov1": ["model.backbone.width=0.0625", "model.head.units=32", "model.input_size=[128,192]"],
        "lite0": ["model.backbone.width=0.25", "model.input_size=[64,96]"],
        "mobilenetv3": ["model.backbone.arguments={alpha: 0.25}", "model.input_size=[96,64]"],
        "demo": ["model.input_size=64"],
        "m2det320-vgg": [
            "model.backbone={width: 0.125, norm: true}",
            "model.neck={tums: 3, planes: 16, reduction: 4}",
            "model.input_size=[224,160]",
        ],
        "demo-m2det": ["model.backbone.width=0.125", "model.neck.planes=16", "model.input_size=[160,128]"],
        "cornernet-hg104": [
            "model.backbone={name: hourglass, stacks: 2, dims: [16, 24, 32], modules: [2, 1, 1], stem: 8}",
            "model.head.channels=8",
            "model.input_size=[64,96]",
        ],
        **{
            name: [
                "model.backbone={dims: [16, 24, 32, 48], stem: 8}",
                "model.head.channels=8",
                "model.input_size=[96,64]",
            ]
            for name in ("cornernet-small", "demo-cornernet")
        },
        "demo-yolov1": ["model.backbone.width=0.0625", "model.head.units=32", "model.input_size=128"],
    }[name]
    return load_config(name, *overrides, *(f"{key}={value}" for key, value in extra.items()))


# configs/demo.yaml, as small as it trains at all.
TINY = [
    "model.input_size=64",
    "model.backbone.width=0.125",
    "model.neck.width=0.125",
    "model.head.channels={p4: 32, p5: 32}",
    "train.batch=4",
    "train.draw_images=1",
]


def process(*arguments, **options):
    """The command line in a process of its own, down to the bytes that C++ may write."""
    command = [sys.executable, "-m", "tfyolo", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options)


def command(*arguments):
    """The command line in this process. A traceback fails the test."""
    result = CliRunner().invoke(app.main, [str(argument) for argument in arguments], prog_name="tfyolo")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


def succeed(*arguments):
    """What a command printed; it has to end well."""
    result = command(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


# --- one tiny run for all tests, and for all workers ------------------------------------------------------------------


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """A folder that all workers of this run of the tests share; what is in it is read, not changed."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "with space, größer"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def missing(path):
    """True for the worker that asks for a file or folder first and now makes it, False for those that waited for it."""
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


@pytest.fixture(scope="session")
def demo_data(demo_folder):
    folder = demo_folder / "demo"
    with missing(folder) as first:
        if first:
            demo.write(folder, train=8, val=4, test=4, size=(64, 96), progress=False)
    return folder


@pytest.fixture(scope="session")
def demo_records(demo_data, demo_folder):
    """(folder of TFRecords, what writing them printed)"""
    folder, printed = demo_folder / "records", demo_folder / "records.txt"
    with missing(printed) as first:
        if first:
            printed.write_text(succeed("make-tfrecords", demo_data, folder, "--shards", 2))
    return folder, printed.read_text()


@pytest.fixture(scope="session")
def demo_run(demo_records, demo_folder, one_replica):
    """(folder of a run, what training printed)"""
    folder, printed = demo_folder / "mein Lauf", demo_folder / "mein Lauf.txt"
    stages = "train.stages=[{epochs: 1, lr: 0.001, plain_epochs: 1}]"
    with missing(printed) as first:
        if first:
            printed.write_text(
                succeed(
                    "train", ROOT / "configs" / "demo.yaml", f"data={demo_records[0]}", *TINY, stages, "--out", folder
                )
            )
    return folder, printed.read_text()


@pytest.fixture(scope="session")
def demo_exports(demo_run, demo_folder):
    """{name: {"path", ...}}, as `tfyolo export --json` prints it."""
    printed = demo_folder / "export.json"
    with missing(printed) as first:
        if first:
            options = ("--to", "saved_model", "--to", "tflite", "--precision", "float32", "--json")
            printed.write_text(succeed("export", demo_run[0], *options))
    return json.loads(printed.read_text())


def random_sample(size, *, batch=2, ground_truths=6, classes=3, crowd=False, seed=0, padding=2):
    """A batch of noise with random boxes, `padding` rows of them empty."""
    rng = np.random.default_rng(seed)
    height, width = size
    centers = rng.uniform(0.05, 0.95, (batch, ground_truths, 2)) * size
    sides = rng.uniform(0.05, 0.6, (batch, ground_truths, 2)) * size
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1)
    boxes = np.clip(boxes, 0, [height, width, height, width]).astype("float32")
    labels = rng.integers(0, classes, (batch, ground_truths)).astype("int32")
    if padding:
        boxes[:, -padding:], labels[:, -padding:] = 0, -1
    crowds = np.zeros((batch, ground_truths), bool)
    crowds[:, 0] = crowd
    images = rng.random((batch, height, width, 3), dtype="float32")
    ids = np.arange(batch, dtype="int32")
    transforms = np.tile(np.eye(3, dtype="float32"), (batch, 1, 1))
    return Sample(*map(tf.constant, (images, boxes, labels, crowds, ids, transforms)))


def of_all_scales(size, batch=2):
    """random_sample with objects of 10 to 480 pixels, so that every level of an untrained network has some."""
    sides = np.array([10, 20, 40, 80, 120, 240, 480])
    sample = random_sample(size, batch=batch, ground_truths=len(sides), padding=0)
    centers = (sample.boxes[..., :2] + sample.boxes[..., 2:]) / 2
    halves = tf.constant(sides[None, :, None] / 2, tf.float32)
    return sample._replace(boxes=tf.concat([centers - halves, centers + halves], axis=-1))


def lively(name, classes=("a", "b", "c"), **extra):
    """A small Model, untrained, whose last layer is such that any image gives boxes with all kinds of scores."""
    keras.utils.set_random_seed(0)
    model = models.build(small(name, **extra), classes)
    rng = np.random.default_rng(0)
    for variable in model.network.variables:
        if ".out/kernel" in variable.path:
            variable.assign(rng.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape))
        elif ".out/bias" in variable.path:
            variable.assign(rng.uniform(0.2, 1, variable.shape))
    return model


TINY_RUN = [*TINY, "train.evaluate_every=2", "train.ema=0.9"]


@pytest.fixture(scope="session", name="demo")
def exported_demo(demo_folder):
    """The demo network of exporting.py with all its exports: half a minute, for several files of tests. Its files are
    read, not changed.
    """
    from exporting import Exported  # which takes lively() from here

    folder = demo_folder / "exported"
    folder.mkdir(exist_ok=True)
    return Exported("demo", folder)


@pytest.fixture(scope="session")
def evaluable_data(demo, tmp_path_factory):
    from exporting import evaluable

    return evaluable(demo, tmp_path_factory.mktemp("evaluable"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo"
    demo.write(folder, train=10, val=4, test=2)
    return folder


def tfyolo(*arguments):
    """The command in a process of its own, to its end; stdout has everything that it printed."""
    with process(*arguments, cwd=ROOT, stderr=subprocess.STDOUT) as command:
        printed, _ = command.communicate()
    return subprocess.CompletedProcess(arguments, command.returncode, printed)


def tfyolo_here(*arguments):
    """The command in this process, which starts faster."""
    return CliRunner().invoke(app.main, [str(argument) for argument in arguments], catch_exceptions=False)


def stages(*epochs):
    return f"train.stages=[{', '.join(f'{{epochs: {n}, lr: 0.002, warmup: 1, plain_epochs: 1}}' for n in epochs)}]"


def strategy_of(replicas):
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")][:replicas]
    return tf.distribute.MirroredStrategy(cpus, cross_device_ops=tf.distribute.ReductionToOneDevice())


@pytest.fixture(scope="session", autouse=True)
def one_replica():
    """For runs in this process, which has two logical CPUs: they are traced in half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "make_strategy", lambda: strategy_of(1))
        yield


@pytest.fixture(autouse=True)
def seeded():
    """Untrained networks are the same in every run: a test that fails, fails again."""
    keras.utils.set_random_seed(0)
