"""The config: one strict schema on one page, read from YAML with one `base:` and dotted overrides.

    base: yolov3.yaml                       # beside this file, else tfyolo's own; its values hold where this file says nothing
    data: ../bccd                           # short for {path: ../bccd}; paths count from the current directory
    model:
      neck: {name: up_cat, spp: true}       # a part; `neck: up_cat` is short for {name: up_cat}
    train:
      stages:
        - {epochs: 100, lr: 1e-3}

Sections are merged key by key, all else is replaced: lists, and each option of a part, also where it is a mapping. A
part of another name, and a `data` that is a bare path, drop what the base says about them. `name` is never inherited:
it is the file's stem unless the file gives one. Scalars are those of YAML 1.2's core schema: 1e-3 is a number, only
true and false are booleans. A name without a folder, yolov8n or yolov8n.yaml, is that of a file here, else that of a config that comes
with tfyolo. What no config needs is an error at once: files above 1 MB, more than 20 levels, 20 bases on each other or 100,000 values,
numbers of more than 18 digits.

The skeleton is checked here; the options of a part (backbone, neck, ...) are checked against the signature of what they
build, in tfyolo.model. A ConfigError names the place in the file, the value, and what would be right.
"""

import contextlib
import csv
import difflib
import functools
import itertools
import json
import math
import operator
import os
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tfyolo.files import parse_json, read_regular, what_is
from tfyolo.messages import printable, shortened
from tfyolo.ranges import (
    MOST_CLASSES,
    Batch,
    BelowOne,
    Count,
    CountOrZero,
    NonNegative,
    Pixels,
    Positive,
    Probability,
    Seed,
    Side,
)


class ConfigError(ValueError):
    """Something in a config, or what it names, is wrong. The message says where, what came and what would be right."""

    def __init__(self, message):
        super().__init__(printable(message, keep="\n"))


# --------------------------------------------------------------------------------------------------------------- schema


class Strict(BaseModel):
    # Defaults are validated too: what a value must agree with may be set where the value is not.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value):
        """A bare string stands for a section with one key, in the classes below that name it; options alone for a default part's."""
        short = cls.model_config.get("json_schema_extra", {}).get("short")
        if short and isinstance(value, str):
            return {short: value}
        if isinstance(value, dict):
            for key, field in cls.model_fields.items():
                if isinstance(field.default, Part) and isinstance(value.get(key), dict) and "name" not in value[key]:
                    value = {**value, key: {"name": field.default.name, **value[key]}}
        return value


def _square(value):
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _split_or_share(value):
    if (isinstance(value, str) and value) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError(f"expected {_SPLIT_OR_SHARE}, received {shown(value)}")


def _file_or_names(value):
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError(f"expected {_FILE_OR_NAMES}, received {shown(value)}")


def _folder_name(value):
    is_text = isinstance(value, str) and 0 < len(value.encode("utf-8", "replace")) <= 200
    if is_text and value == printable(value) and value not in (".", "..") and not {"/", "\\"} & set(value):
        return value
    raise ValueError(f"expected {_FOLDER_NAME}, received {shown(value)}")


_FOLDER_NAME = "text without slashes and control characters, of at most 200 bytes"
_SPLIT_OR_SHARE = "the name of a split, or a share above 0 and below 1 to hold back from what is learned"
_FILE_OR_NAMES = "a file of class names, one a line, or a list of them"
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
SplitOrShare = Annotated[Any, BeforeValidator(_split_or_share), WithJsonSchema({"expected": _SPLIT_OR_SHARE})]
FileOrNames = Annotated[Any, BeforeValidator(_file_or_names), WithJsonSchema({"expected": _FILE_OR_NAMES})]
Size = Annotated[
    tuple[Side, Side],
    BeforeValidator(_square),
    Field(strict=False),
    WithJsonSchema({"expected": "a whole number from 1 to 16384, or two of them: [height, width]"}),
]


class Part(Strict):
    """One interchangeable part: the name it has in its kind's table, and options for it."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"short": "name", "expected": "a name, or a section with `name` and options"}
    )
    name: Text

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra)


class Data(Strict):
    model_config = ConfigDict(json_schema_extra={"short": "path", "expected": "a path, or a section with `path`"})
    # Relative paths count from the current directory.
    path: Text  # a folder, a COCO .json, a YOLO data .yaml, or a folder of .tfrecord files; recognised for what it is
    images: Text | None = None  # where the pictures lie, if the annotations do not lead there
    format: Text | None = None  # coco, voc, yolo, tfrecord, labelme or csv; only if it is not recognised
    train: Text = "train"  # name of the split to learn from
    val: SplitOrShare = "val"  # name of the split to evaluate on while training; or the share of train's images, such as 0.1, to hold back
    test: SplitOrShare = "test"  # the same of the split to evaluate on at the end
    seed: Seed = 0  # of the images that are held back
    division: Text | None = None  # file of the images that are held back; training writes it into the run
    names: FileOrNames | None = None  # of the classes, for data without any: a list, or a file with one a line
    background: bool = False  # learn images without labels even if most have none, or labels that cannot be read
    outside: bool = False  # follow paths in the data's files that lead out of its folder
    max_pixels: Pixels = 200_000_000  # of an image; a larger one is an error before it is decoded


class Model(Strict):
    input_size: Size  # (H, W) in pixels, or one number for a square
    # How pictures are brought to it: with their aspect and grey margins, without, or either as Darknet does, to the pixel.
    preprocess: Literal["letterbox", "stretch", "darknet", "darknet_letterbox"] = "letterbox"
    # Names in label order; null: the data's own.
    classes: Annotated[Texts, Field(min_length=1, max_length=MOST_CLASSES)] | None = None
    backbone: Part
    neck: Part = Part(name="identity")
    head: Part
    decoder: Part
    assigner: Part | None = None  # null: of objectives that read the raw maps
    objective: Part
    postprocess: Part = Part(name="nms")

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes):
        """Printable, as the names of data's classes are."""
        names = classes and tuple(map(printable, classes))
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"expected every class once, received more than once: {', '.join(twice[:8])}")
        return names


class Augment(Strict):
    """Random changes to a training picture. Each is drawn from (seed, epoch, index), so a run can be repeated."""

    flip: Probability = 0.5  # left-right
    flip_vertical: Probability = 0.0
    scale: BelowOne = 0.5  # zoom drawn from 1-scale .. 1+scale
    translate: Probability = 0.1  # shift, as part of the input size, either way
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # degrees, either way
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.015  # part of the colour circle, either way
    saturation: BelowOne = 0.7  # gain drawn from 1-s .. 1+s
    value: BelowOne = 0.4  # gain drawn from 1-v .. 1+v
    mosaic: Probability = 0.0  # four pictures in one
    mixup: Probability = 0.0  # two pictures laid over each other


class Stage(Strict):
    """One stretch of a training plan. It starts with a fresh optimizer on the weights that the stage before left."""

    epochs: Count
    lr: Positive  # peak learning rate
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    final: Probability = 0.01  # cosine: the last learning rate, as part of lr; step: the factor of each step
    steps: Annotated[tuple[Probability, ...], Field(strict=False)] = (0.8, 0.9)  # step: where, as parts of the stage
    warmup: NonNegative = 3.0  # epochs over which lr rises from 0; at most a third of the stage
    plain_epochs: CountOrZero = 10  # the last epochs, without mosaic and mixup; all, if there are fewer
    image_size: Size | None = None  # (H, W); null: model.input_size
    # Every step at another size, up to this part smaller or larger: 0.5 is from half to one and a half.
    multi_scale: BelowOne = 0.0
    data: Data | None = None  # null: the config's data
    freeze: Texts = ()  # parts of the model that stay as they are: "backbone", "neck.p4"
    loss_weights: dict[str, NonNegative] = {}  # factor on each term of the loss; 1 where unnamed


class Train(Strict):
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1, max_length=100)]
    batch: Batch = 16  # pictures a step, over all replicas
    accumulate: Batch = 1  # parts a step is computed in, to save memory; must divide batch
    optimizer: Part = Part(name="adamw")
    clip: Positive | None = 10.0  # largest global norm of the gradient; null: as it comes
    ema: BelowOne = 0.998  # decay of the moving average of the weights, a step; 0: none
    precision: Literal["float32", "bfloat16"] = "float32"
    quantize: bool = False  # rounds as int8 does, for an int8 export that keeps its accuracy; goes on from train.init
    init: Text | None = None  # weights to begin with: a run, an import, a .h5 file, or a Darknet backbone's file
    seed: Seed = 0
    evaluate_every: Count = 5  # epochs
    # Images at a time in evaluation, which one device does; null: as many as a replica learns from at a time, at most 16.
    evaluate_batch: Batch | None = None
    pictures: CountOrZero = 4  # validation pictures drawn at each evaluation
    eager: bool = False  # the same step without tf.function, for debugging

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, accumulate, info: ValidationInfo):
        batch = info.data.get("batch", 0)
        if batch % accumulate:
            raise ValueError(f"expected a divisor of train.batch ({batch}), received {accumulate}")
        return accumulate


class Config(Strict):
    """A whole config. Made by `load` or `from_json`; equal configs have equal values, wherever they were read."""

    # The name of a run's folder.
    name: Annotated[str, BeforeValidator(_folder_name), WithJsonSchema({"type": "string", "expected": _FOLDER_NAME})]
    data: Data | None = None
    model: Model
    augment: Augment = Augment()
    train: Train
    _places: dict[str, str] = PrivateAttr(default_factory=dict)

    def __eq__(self, other):
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    def stage_data(self, index: int) -> tuple[Data, str]:
        """The data of a stage of the plan, its own or else those of all, and the dotted path of where they stand."""
        own = self.train.stages[index].data
        if (own or self.data) is None:
            raise self.error("data", "expected where the pictures and their labels lie (data=PATH), received none")
        return (own, f"train.stages.{index}.data") if own else (self.data, "data")

    def place(self, path: str) -> str | None:
        """Where the value at a dotted path was written ("configs/x.yaml:12"), or its section; None without a file."""
        return _nearest(self._places, path)

    def error(self, path: str, message: str) -> ConfigError:
        """A ConfigError about the value at a dotted path; `message` reads "expected ..., received ..."."""
        return ConfigError(_line(self.place(path), path, message))


# ----------------------------------------------------------------------------------------------------------- in and out


def load(path: str | os.PathLike, overrides: tuple[str, ...] | list[str] = ()) -> Config:
    """Reads a config: a YAML file, over its `base:`, under overrides.

    Args:
        path: a YAML file, or the name of a config that comes with tfyolo: "yolov8n". A file of that name wins.
        overrides: "train.batch=16", "train.stages.0.epochs=3", or one of the short names of SHORT: "batch=16". The right side is YAML;
            later ones win. Relative paths in `data` count from the current directory.

    Raises:
        ConfigError: with one line for each thing that is wrong.
    """
    problems = {}
    file = _find(os.fspath(path))
    root = _read(file, problems)
    for override in overrides:
        try:
            root = _override(root, override, problems)
        except ConfigError as error:
            problems[override] = str(error)
    root.value.setdefault("name", _Node(Path(file).stem, root.place))
    places = {}
    return _validate(_plain(root, places), places, problems)


def packaged() -> Path:
    """The folder of the configs that come with tfyolo: tfyolo/configs of an installed package, configs/ of a clone."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else installed.parents[1] / "configs"


def packaged_names() -> list[str]:
    """The names of the configs that come with tfyolo, sorted."""
    return sorted(path.stem for path in packaged().glob("*.yaml"))


def index() -> list[dict[str, Any]]:
    """What configs/index.csv says of the configs that come with tfyolo; tools/index_configs.py writes it.

    Returns:
        {"name", "classes", "parameters", "flops", "weights"} of each. parameters, flops: of the network as detect and exports run it,
        batch norms fused, for so many classes. weights: whose published weights fit, and their licence; "" for none.
    """
    with (packaged() / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: int(value) if value.isdecimal() else value for key, value in row.items()} for row in rows]


def zoo(name: str) -> Path:
    """The file of a config that comes with tfyolo."""
    return packaged() / f"{name}.yaml"


def from_json(text: str | bytes) -> Config:
    """The config that `to_json` wrote."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"expected a config as JSON: {error}") from None
    return _validate(values, {}, {})


def to_json(config: Config) -> str:
    """Every value of a config, defaults included, for machines: it travels inside checkpoints and exports."""
    return config.model_dump_json()


def to_yaml(config: Config) -> str:
    """Every value of a config, defaults included, for people: `load` reads it back."""
    style = {"sort_keys": False, "default_flow_style": None, "allow_unicode": True, "width": 120}
    return yaml.dump(json.loads(to_json(config)), Dumper=_Dumper, **style)


# Short names in overrides for what everybody sets, and the key that each stands for; *: the only stage of the plan.
SHORT = {
    "epochs": "train.stages.*.epochs",
    "lr": "train.stages.*.lr",
    "batch": "train.batch",
    "imgsz": "model.input_size",
    "init": "train.init",
    "optimizer": "train.optimizer",
    "precision": "train.precision",
    "seed": "train.seed",
    "train.epochs": "train.stages.*.epochs",
    "train.lr": "train.stages.*.lr",
}


# ----------------------------------------------------------------------------------------------- YAML, with places kept


class _Node(NamedTuple):
    value: Any  # {key: _Node}, [_Node] or a scalar
    place: str  # 'configs/x.yaml:12' or 'override "train.batch=16"'


def _finite(text):
    if math.isinf(float(text)):
        raise ValueError
    return float(text)


def _whole(text):
    """A number that 64 bits hold; longer ones are nobody's, and Python would work on them for long."""
    if len(text) > 18:
        raise ValueError
    return int(text)


def _text(text):
    text.encode()  # ValueError for half a surrogate pair, which no file can hold
    return text


_TAG = "tag:yaml.org,2002:"
# YAML 1.2's core schema less .inf and .nan. PyYAML is of 1.1, where 1e-3 is text, `no` a boolean and 1:30 ninety.
_SCALARS = {
    _TAG + "null": (r"~|null|Null|NULL|", lambda text: None),
    _TAG + "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    _TAG + "int": (r"[-+]?[0-9]+", _whole),
    _TAG + "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", _finite),
    _TAG + "str": (None, _text),
}
_EXPECTED = {
    _TAG + "int": "a whole number of at most 18 digits",
    _TAG + "str": "text in Unicode",
    _TAG + "float": "a finite number",
}
MOST_YAML = 1 << 20  # bytes of a config
MOST_VALUES = 100_000  # in a config, those that an alias stands for counted wherever it stands
DEEPEST = 20  # levels in each other
MOST_BASES = 20  # files, each the base of the one before
MOST_TOLD = 20  # lines of an error


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}
    depth = 0

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(
                None, None, f"nested in more than {DEEPEST} levels", self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would take for something else."""


for _tag, (_pattern, _) in _SCALARS.items():
    if _pattern:
        _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), None)
        _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), None)


def _compose(text, source, line_of, problems, path=""):
    """YAML text as a tree of _Node. Its values stand at the dotted `path`; `line_of(mark)` gives their place."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = ", ".join(filter(None, (getattr(error, name, None) for name in ("context", "problem", "reason"))))
        lines = text.splitlines()[max(0, mark.line - 1) : mark.line + 1] if mark else []
        hint = next(filter(None, map(_spaced, lines)), "")
        raise ConfigError(f"{line_of(mark) if mark else source}: not valid YAML: {reason}{hint}") from None
    return node and _tree(node, line_of, problems, path, (), iter(range(MOST_VALUES)))


def _spaced(text):
    """A hint if a text is like batch:8, which YAML takes for one word; else ""."""
    found = re.match(r"[\s{[-]*([\w.-]+):([^\s:/\\,}\]]+)", text)
    return f"; YAML wants a space after the colon: {found[1]}: {found[2]}" if found else ""


def _tree(node, line_of, problems, path, above, left):
    """above: the nodes that this one stands in. left: an iterator that has an item for each value that there may still be."""
    place = line_of(node.start_mark)
    if next(left, None) is None:
        raise ConfigError(
            f"{place}: expected a config of at most {MOST_VALUES:,} values, received more; an alias (*) repeats too much"
        )

    def problem(key, place, message):
        problems.setdefault(key, _line(place, key, message))

    if any(node is other for other in above):
        problem(path, place, "an alias (*) stands inside what it names")
        return _Node(None, place)
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        try:
            return _Node(_SCALARS[node.tag][1](node.value), place)
        except ValueError:
            problem(path, place, f"expected {_EXPECTED[node.tag]}, received {shown(node.value)}")
    elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        above = (*above, node)
        return _Node(
            [_tree(n, line_of, problems, _join(path, i), above, left) for i, n in enumerate(node.value)], place
        )
    elif isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        entries = {}
        for key_node, child in node.value:
            key, key_place = key_node.value, line_of(key_node.start_mark)
            if key_node.tag == _TAG + "str" and key_node.style is None and child.value == "" and (hint := _spaced(key)):
                problem(_join(path, key), key_place, hint.removeprefix("; "))
                key, _, value = key.partition(":")  # what else is wrong is told, too
                with contextlib.suppress(yaml.YAMLError):
                    child = yaml.compose(value, Loader=_Loader) or child
            if key_node.tag != _TAG + "str" or key != key.encode("utf-8", "ignore").decode():
                called = (key or "none") if isinstance(key, str) else "a list or a section"
                problem(_join(path, called), key_place, f"expected text as a key, received {called}")
            elif key in entries:
                problem(_join(path, key), key_place, f"given twice, first at {entries[key].place}")
            else:
                # A section is found by its key, not by the line its first value is on.
                inside = _tree(child, line_of, problems, _join(path, key), (*above, node), left)
                entries[key] = inside._replace(place=key_place)
        return _Node(entries, place)
    else:
        problem(path, place, f"expected plain YAML, received the tag {node.tag.replace(_TAG, '!!')}")
    return _Node(None, place)


def _find(name, folder="", reader=None):
    """The file that a config's name means, counted from a folder: the one there, with or without .yaml, else tfyolo's own.

    reader: the file whose `base:` it is, which does not mean itself as long as there is another.
    """
    here = os.path.normpath(os.path.join(folder, name))
    endings = [""] if name.endswith((".yaml", ".yml")) else ["", ".yaml"]
    places = [here, *([str(packaged() / name)] if os.path.basename(name) == name else [])]
    files = [place + ending for place in places for ending in endings if os.path.isfile(place + ending)]
    others = [file for file in files if not (reader and os.path.samefile(file, reader))]
    if others or files:
        return (others or files)[0]
    if (received := what_is(here)) != "no such file":
        raise ConfigError(f"{_cut(here)}: expected a config in YAML, received {received}")
    if told := foreign(here, "a config in YAML"):
        raise ConfigError(f"{told}, which can be trained further")
    stem = Path(name).stem.lower()
    beside = []
    with contextlib.suppress(OSError, ValueError):
        around = [each.name for each in Path(here).parent.glob("*.yaml")]
        beside = difflib.get_close_matches(os.path.basename(here)[:255], around, n=1)
    own = [stem] if stem in packaged_names() else difflib.get_close_matches(stem, packaged_names(), n=3)
    near = str(Path(here).with_name(beside[0])) if beside else f"{' or '.join(own)}, of tfyolo's own" if own else None
    hint = f"; did you mean {near}?" if near else ""
    tried = "and no config of that name comes with tfyolo (`tfyolo configs` lists them)" if len(places) > 1 else ""
    raise ConfigError(f"{_cut(here)}: no such file, {tried or 'expected a config in YAML'}{hint}")


def foreign(path, expected):
    """What is wrong with a path where a model, a config or the like was expected, if by its name it is another program's.

    Args:
        path: of a file, which may be missing.
        expected: what should have been there, for the message.

    Returns:
        "x.pt: expected ..., received PyTorch's weights; `tfyolo import x.pt` makes a run of them", or None.
    """
    path = os.fspath(path)
    there, named = "" if os.path.exists(path) else "no such file; ", shlex.quote(path)
    told = {
        **dict.fromkeys((".pt", ".pth"), f"PyTorch's weights; `tfyolo import {named}` makes a run of them"),
        ".weights": f"Darknet's weights; `tfyolo import NET.cfg {named}` makes a run of them",
        ".cfg": f"Darknet's network; `tfyolo import {named} NET.weights` makes a run of it",
        **dict.fromkeys(
            (".onnx", ".engine", ".torchscript"), "an export of another program; import the checkpoint it was made of"
        ),
    }
    what = None if os.path.exists(path) and not os.path.isfile(path) else told.get(os.path.splitext(path)[1].lower())
    return what and f"{path}: {there}expected {expected}, received {what}"


def check_init(config: Config) -> None:
    """Looks whether there are weights at train.init, before anything that takes time is done.

    Raises:
        ConfigError: there are none, or they have to be imported first.
    """
    init, expected = config.train.init, "a run's folder or a file of weights"
    if init is None:
        return
    suffix = os.path.splitext(init)[1].lower()
    if (told := foreign(init, expected)) and (suffix != ".weights" or not os.path.exists(init)):
        raise config.error("train.init", f"{told}, with which it can begin")
    if os.path.isdir(init):
        if any(os.path.exists(os.path.join(init, name)) for name in ("best.h5", "last.h5")):
            return
        received = "a folder without best.h5 and last.h5"
    elif not os.path.exists(init):
        received = "no such file"
    elif suffix in (".yaml", ".yml", ".tflite"):
        received = "a config" if suffix != ".tflite" else "an export"
        received += "; name the folder of the run"
    elif not os.path.isfile(init):
        received = what_is(init)
    else:
        return
    raise config.error("train.init", f"{init}: expected {expected}, received {received}")


def _read(file, problems, above=()):
    """A file's tree, merged over that of its base."""
    other = foreign(file, "a config in YAML")
    try:
        text = read_regular(file, MOST_YAML).decode("utf-8-sig")
    except UnicodeDecodeError:
        received = (
            "the weights of a run; name its folder" if file.endswith(".h5") else "a file that is not text in UTF-8"
        )
        raise ConfigError(other or f"{file}: expected a config in YAML, received {received}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        root = _compose(text, file, lambda mark: f"{file}:{mark.line + 1}", problems)
    except ConfigError:
        if other:
            raise ConfigError(other) from None
        raise
    if other and not (root and isinstance(root.value, dict)):
        raise ConfigError(other)
    if root is None or not isinstance(root.value, dict):
        received = "an empty file" if root is None or root.value is None else shown(_plain(root))
        raise ConfigError(f"{root.place if root else file}: expected a mapping (key: value), received {received}")
    if "base" not in root.value:
        return root
    base = root.value.pop("base")
    if "base" in problems:  # which is not read at all
        raise ConfigError(problems["base"])
    if not isinstance(base.value, str) or not base.value:
        raise ConfigError(_line(base.place, "base", f"expected a file's name, received {shown(_plain(base))}"))
    above = (*above, file)
    if len(above) > MOST_BASES:
        raise ConfigError(
            _line(base.place, "base", f"expected at most {MOST_BASES} files, each the base of the one before it")
        )
    try:
        base_file = _find(base.value, os.path.dirname(file), file)
    except ConfigError as error:
        raise ConfigError(_line(base.place, "base", str(error))) from None
    if any(os.path.samefile(base_file, other) for other in above):
        raise ConfigError(_line(base.place, "base", f"goes round in a circle: {' -> '.join((*above, base_file))}"))
    under = _read(base_file, problems, above)
    under.value.pop("name", None)
    return _merge(under, root, _SCHEMA)


def _merge(under, over, schema):
    """`over` laid on `under`: sections key by key; all else, so also each option of a part, replaces what was there."""
    schema = _resolve(schema)
    short = schema.get("short")  # the key that a bare string stands for, in a part or a data set
    if isinstance(over.value, str) and short == "name":
        over = _Node({short: over}, over.place)
    if isinstance(under.value, str) and short:
        under = _Node({short: under}, under.place)
    if not (schema and isinstance(under.value, dict) and isinstance(over.value, dict)):
        return over
    old, new = under.value.get("name"), over.value.get("name")
    if short == "name" and new and not (old and old.value == new.value):
        return over
    merged = dict(under.value)
    for key, node in over.value.items():
        merged[key] = _merge(merged[key], node, _child(schema, key)) if key in merged else node
    return _Node(merged, over.place)


def _override(root, text, problems):
    key, equals, right = text.partition("=")
    place = f'override "{_cut(text)}"'
    keys = key.strip().split(".")
    if not (equals and right.strip() and all(keys)):
        hint = (
            f"; data is named by data={_cut(text)}" if not equals and len(text) < 4096 and os.path.exists(text) else ""
        )
        raise ConfigError(f"{place}: expected KEY=VALUE, such as train.batch=16 or train.clip=null{hint}")
    if len(keys) > DEEPEST:
        raise ConfigError(f"{place}: expected a key of at most {DEEPEST} parts, received {len(keys):,}")
    if len(keys) == 1 and (hint := _short(*keys)):
        raise ConfigError(f"{place}: {_cut(key)}: unknown key; {hint}")
    keys = SHORT.get(".".join(keys), ".".join(keys)).split(".")
    if "*" in keys:
        stages = _entry(_entry(root, "train"), "stages")
        count = len(stages.value) if stages and isinstance(stages.value, list) else 1
        if count != 1:
            each = f"train.stages.0.{keys[-1]}={right.strip()}"
            raise ConfigError(f"{place}: the plan of this config has {count} stages; say of which, as {each}")
        keys = [key if key != "*" else "0" for key in keys]
    node = _compose(right, place, lambda mark: place, problems, ".".join(keys))
    if node is None:
        raise ConfigError(f"{place}: expected a value after =, received only a comment; put quotes around it")
    return _put(root, keys, node, _SCHEMA, "")


def _short(key):
    """What a key of one word may stand for, if it is neither one of the config's nor one that stands elsewhere; else None."""
    keys, short = list(Config.model_fields), [name for name in SHORT if "." not in name]
    if key in (*keys, *short) or _elsewhere(key):
        return None
    near = difflib.get_close_matches(key.lower(), [*keys, *short], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}the keys here are {', '.join(keys)}, in short also {', '.join(short)}"


def _entry(node, key):
    return node.value.get(key) if node and isinstance(node.value, dict) else None


def _put(node, keys, new, schema, path):
    """`node`, None where there was nothing, with `new` merged in at `keys`."""
    if not keys:
        return _merge(node, new, schema) if node else new
    key, *rest = keys
    child = _child(_resolve(schema), key)
    if node and isinstance(node.value, list):
        count = len(node.value)
        if not key.isdecimal():
            raise ConfigError(_line(new.place, path, f"a list of {count}, expected an index: {path}.0.{key}"))
        if len(key) > 9 or int(key) >= count:
            raise ConfigError(
                _line(new.place, path, f"a list of {count}, counted from 0; received the index {_cut(key)}")
            )
        items = list(node.value)
        items[int(key)] = _put(items[int(key)], rest, new, child, _join(path, key))
        return _Node(items, node.place)
    inside = node.value if node and isinstance(node.value, dict) else {}
    entry = _Node({key: _put(inside.get(key), rest, new, child, _join(path, key))}, node.place if inside else new.place)
    if node and schema:
        return _merge(node, entry, schema)
    return _Node({**inside, **entry.value}, entry.place)


def _plain(node, places=None, path=""):
    """The values of a tree; where they stand goes into `places` {dotted path: place}."""
    if places is not None:
        places[path] = node.place
    if isinstance(node.value, dict):
        return {key: _plain(child, places, _join(path, key)) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child, places, _join(path, i)) for i, child in enumerate(node.value)]
    return node.value


# ------------------------------------------------------------------------------- errors, told by the schema's own words


def _join(path, key):
    return f"{path}.{key}" if path else str(key)


def _nearest(places, path):
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path)


def _line(place, path, message):
    return ": ".join(filter(None, (place, _cut(path), message)))


def _cut(text, most=200):
    """A text that somebody has written, with the middle left out where it is long."""
    return text if len(text) <= most else f"{text[: most - 60]}...{text[-57:]}"


def shown(value):
    """A value of a config for a message: on one line, and cut where it is long."""
    if isinstance(value, str):
        return shortened(value)
    text, pieces = "", json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
    while len(text) <= 60 and (piece := next(pieces, None)) is not None:  # all of it may not fit into memory
        text += piece
    return text if len(text) <= 60 else text[:57] + "..."


_SCHEMA = Config.model_json_schema()
_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _resolve(schema):
    """A JSON schema without its reference, and without the null it may also be."""
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            schema = choice
    return _SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _child(schema, key):
    """The schema of an entry; {} if there is none."""
    child = schema.get("properties", {}).get(key) or schema.get("items") or schema.get("additionalProperties")
    return child if isinstance(child, dict) else {}


def described(schema):
    """What a JSON schema of pydantic's accepts, in words."""
    if "anyOf" in schema:
        return " or ".join(map(described, schema["anyOf"]))
    schema = _resolve(schema)
    if "expected" in schema:
        return schema["expected"]
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = schema["type"]
    if kind == "null":
        return kind
    if "prefixItems" in schema:
        return f"[{', '.join(map(described, schema['prefixItems']))}]"
    if kind == "array":
        least = schema.get("minItems", 0)
        some = f" with at least {'one entry' if least == 1 else f'{least} entries'}" if least else ""
        some += f" and at most {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"a list{some}, each {described(schema['items'])}"
    if kind == "object":
        keys = schema.get("properties")
        return "a section with " + (", ".join(keys) if keys else f"each value {described(_child(schema, None))}")
    noun = {"string": "text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}[kind]
    limits = {limit: schema[limit] for limit in _SIGNS if limit in schema}
    limits = {limit: int(n) if n == int(n) else n for limit, n in limits.items()}  # 0, not 0.0
    if limits.keys() == {"minimum", "maximum"}:
        return f"{noun} from {limits['minimum']} to {limits['maximum']}"
    return " ".join([noun, " and ".join(f"{_SIGNS[limit]} {n}" for limit, n in limits.items())]).strip()


def _schema_at(loc):
    """(schema, loc) of a value, or of the nearest thing above it that is described as a whole, like a size."""
    schema = _SCHEMA
    for depth, key in enumerate(loc):
        child = _child(_resolve(schema), key)
        if not child:
            return schema, loc[:depth]
        schema = child
    return schema, loc


def _explain(error, values):
    """(dotted path, what is wrong there) of one of pydantic's errors, in the words of the schema."""
    schema, loc = _schema_at(error["loc"])
    path = ".".join(map(str, loc))
    if error["type"] == "extra_forbidden":
        key, keys = str(error["loc"][-1]), list(_resolve(schema)["properties"])
        near = _elsewhere(key) or difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return _join(path, key), f"unknown key; {hint}the keys here are {', '.join(keys)}"
    if error["type"] == "missing" and loc == error["loc"]:
        return path, f"missing, expected {described(schema)}"
    try:
        value, default = functools.reduce(operator.getitem, loc, values), ""
    except KeyError:
        value, default = error["input"], " (the default)"
    except TypeError:  # it is written in short, as in `neck: pan`
        value, default = error["input"], ""
    if error["type"] == "value_error":  # a validator of the schema, which words it itself
        return path, f"{error['ctx']['error']}{default}"
    expected = described(schema)
    hint = "; quotes make it text" if expected.startswith("text") and isinstance(value, (int, float)) else ""
    if isinstance(value, str) and expected.startswith(("a section", "a list")):
        hint = _spaced(value)
    return path, f"expected {expected}, received {shown(value)}{default}{hint}"


def _elsewhere(key):
    """The keys of other sections that a key out of its place may mean, the shortest first."""
    if key in SHORT:
        return [SHORT[key].replace("*", "0")]
    found, sections = [], [((), _SCHEMA)]
    for path, schema in sections:
        for name, child in schema.get("properties", {}).items():
            child = _resolve(child)
            if name == key and path:
                found.append(".".join((*path, name)))
            if child.get("type") == "array":
                sections.append(((*path, name, "0"), _resolve(child.get("items", {}))))
            else:
                sections.append(((*path, name), child))
    return sorted(found, key=lambda path: path.count("."))


def _validate(values, places, problems):
    """The Config of plain values; `problems` {path: line} are those already found."""
    try:
        config = Config.model_validate(values)
    except ValidationError as errors:
        errors = errors.errors(include_url=False)
        within = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
        # pydantic calls a list too short once an entry is wrong
        for error in itertools.islice((each for each in errors if each["loc"] not in within), MOST_TOLD + 1):
            path, message = _explain(error, values)
            problems.setdefault(path, _line(_nearest(places, path), path, message))
    if problems:
        told = list(problems.values())
        more = ["and more"] if len(told) > MOST_TOLD else []
        raise ConfigError("\n".join([*told[:MOST_TOLD], *more]))
    config._places = places
    return config
