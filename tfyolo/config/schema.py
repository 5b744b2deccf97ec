"""What a config holds: one strict, frozen schema on one page, a comment for each field with its unit and range.

The skeleton is checked here; the options of a part (backbone, neck, ...) are checked against the signature of its
builder, in tfyolo.config.parts. A ConfigError names the place in the file, the value, and what would be right.
"""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tfyolo.config import tables
from tfyolo.config.ranges import (
    MOST_CLASSES,
    MOST_PIXELS,
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
from tfyolo.config.wording import did_you_mean, nearest, place_line, shown
from tfyolo.errors import Error
from tfyolo.files import unreachable
from tfyolo.messages import printable


class ConfigError(Error):
    """Something in a config, or what it names, is wrong. The message says where, what came and what would be right."""

    exit_code = 2

    def __init__(self, message):
        super().__init__(printable(message, keep="\n"))


class Strict(BaseModel):
    """The base of all sections: frozen, and without keys that the schema does not know."""

    # Defaults are validated too: what a value must agree with may be set where the value is not.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value):
        """Expands a bare string to a section of the key that the class names, and bare options to the default part."""
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


def _reachable(value):
    if wrong := unreachable(value):
        raise ValueError(wrong)
    return value


def _named_in(kind, *others, needed=True):
    """Text that names an entry of a table, a key of tables.CHOICES, or one of `others`.

    needed: also of what was saved; else a run or export that names an entry of somebody's own can be used where that
    entry is missing.
    """

    def check(value, info):
        names = tables.names(kind)
        is_known = value in names if isinstance(value, str) else value in others
        if is_known or (isinstance(value, str) and value and not needed and (info.context or {}).get("saved")):
            return value
        choices = ", ".join([*names, *map(shown, others)])
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        raise ValueError(f"expected one of {choices}, received {shown(value)}{hint}")

    return BeforeValidator(check), WithJsonSchema({"type": "string", "expected": f"a {kind}"})


def _folder_name(value):
    is_text = isinstance(value, str) and 0 < len(value.encode("utf-8", "replace")) <= 200
    if is_text and value == printable(value) and value not in (".", "..") and not {"/", "\\"} & set(value):
        return value
    raise ValueError(f"expected {_FOLDER_NAME}, received {shown(value)}")


_FOLDER_NAME = "text without slashes and control characters, of at most 200 bytes"
_SPLIT_OR_SHARE = "the name of a split, or a share above 0 and below 1 of the training images to hold back"
_FILE_OR_NAMES = "a file of class names, one a line, or a list of them"
Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Text, AfterValidator(_reachable)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
SplitOrShare = Annotated[Any, BeforeValidator(_split_or_share), WithJsonSchema({"expected": _SPLIT_OR_SHARE})]
FileOrNames = Annotated[Any, BeforeValidator(_file_or_names), WithJsonSchema({"expected": _FILE_OR_NAMES})]
DataFormat = Annotated[str | None, *_named_in("data format", None, needed=False)]
Preprocess = Annotated[str, *_named_in("preprocess")]
ScheduleName = Annotated[str, *_named_in("schedule", needed=False)]
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
        """{option: value}, as they were written."""
        return dict(self.model_extra)


class Data(Strict):
    """A data set, and how it is read."""

    model_config = ConfigDict(json_schema_extra={"short": "path", "expected": "a path, or a section with `path`"})
    # Relative paths count from the current directory.
    path: Place  # a folder, a COCO .json, a YOLO data .yaml, a folder of .tfrecord files; recognised for what it is
    images: Place | None = None  # the folder of the images, if the annotations do not lead there
    format: DataFormat = None  # a key of data.sources.formats.FORMATS; only if the data is not recognised
    train: Text = "train"  # the training split
    val: SplitOrShare = "val"  # the validation split; or the share of train's images, such as 0.1, to hold back
    test: SplitOrShare = "test"  # the test split, or a share
    seed: Seed = 0  # of the images that are held back
    division: Text | None = None  # file of the images that are held back; training writes it into the run
    names: FileOrNames | None = None  # of the classes, for data without any: a list, or a file with one a line
    background: bool = False  # train on images without labels even if most have none, or labels that cannot be read
    outside: bool = False  # follow paths in the data's files that lead out of its folder
    max_pixels: Pixels = MOST_PIXELS  # of an image; a larger one is an error before it is decoded
    # The order of training images. exact: any image may follow any other. window: shards of TFRecord from front to
    # back, their order and 1,024 images at a time shuffled, for network disks.
    shuffle: Literal["exact", "window"] = "exact"
    # In training, decode JPEGs 2, 4 or 8 times smaller where no augmentation shows them as large as that.
    reduce: bool = True
    cache: bool = True  # keep what is read in the cache folder, and take it from there while no file has changed


class Model(Strict):
    """The detector: its parts, and what goes into it."""

    input_size: Size  # (H, W) in pixels, or one number for a square
    # How images are brought to it, a key of data.geometry.FITS: with their aspect and grey margins (letterbox), with
    # margins on the right and below alone, as YOLOX does (letterbox_top_left), without (stretch), or either as Darknet
    # does, to the pixel.
    preprocess: Preprocess = "letterbox"
    # Names in label order; null: the data's own.
    classes: Annotated[Texts, Field(min_length=1, max_length=MOST_CLASSES)] | None = None
    backbone: Part
    neck: Part = Part(name="identity")
    head: Part
    decoder: Part
    assigner: Part | None = None  # null: of objectives that read the raw maps
    objective: Part
    postprocess: Part = Part(name="nms")
    # Quantization-aware training: fake quantization to int8, for an int8 export that keeps its accuracy; goes on from
    # train.init.
    quantize: bool = False

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes):
        """Printable, as the names of data's classes are."""
        names = classes and tuple(map(printable, classes))
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"expected every class once, received more than once: {', '.join(twice[:8])}")
        return names

    @property
    def anchors(self) -> dict[str, list[tuple[float, float]]]:
        """{level: [(h, w)] in pixels of the input}, from the finest level on; {} of a decoder without anchors."""
        anchors = self.decoder.options.get("anchors") or {}
        return {level: [tuple(anchor) for anchor in anchors[level]] for level in sorted(anchors)}


class Augment(Strict):
    """Random changes to a training image. Each is drawn from (seed, epoch, index), so a run can be repeated."""

    flip: Probability = 0.5  # left-right
    flip_vertical: Probability = 0.0
    scale: BelowOne = 0.5  # zoom drawn from 1-scale .. 1+scale
    translate: Probability = 0.1  # shift, as part of the input size, either way
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # degrees, either way
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.015  # part of the colour circle, either way
    saturation: BelowOne = 0.7  # gain drawn from 1-s .. 1+s
    value: BelowOne = 0.4  # gain drawn from 1-v .. 1+v
    mosaic: Probability = 0.0  # four images in one
    mixup: Probability = 0.0  # two images laid over each other


class Stage(Strict):
    """One stretch of a training plan. It starts with a new optimizer on the weights of the stage before."""

    epochs: Count
    lr: Positive  # peak learning rate
    schedule: ScheduleName = "cosine"  # a key of training.optim.SCHEDULES
    final: Probability = 0.01  # cosine: the last learning rate, as part of lr; step: the factor of each step
    steps: Annotated[tuple[Probability, ...], Field(strict=False)] = (0.8, 0.9)  # step: where, as parts of the stage
    warmup: NonNegative = 3.0  # epochs over which lr rises from 0; at most a third of the stage
    warmup_power: Positive = 1.0  # the part of the warm-up that is over, to this power, is the part of lr; 2: YOLOX's
    plain_epochs: CountOrZero = 10  # the last epochs, without mosaic and mixup; all, if there are fewer
    image_size: Size | None = None  # (H, W); null: model.input_size
    # Every step at another size, up to this part smaller or larger: 0.5 is from half to one and a half.
    multi_scale: BelowOne = 0.0
    data: Data | None = None  # null: the config's data
    freeze: Texts = ()  # parts of the model that stay as they are: "backbone", "neck.p4"
    loss_weights: dict[str, NonNegative] = {}  # factor on each term of the loss; 1 where unnamed


class Train(Strict):
    """The plan of the training, and how it is carried out."""

    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1, max_length=100)]
    # A budget: once the first epoch has shown how long one takes, all stages keep as many as fit, in proportion.
    minutes: Positive | None = None
    # Besides the end of each epoch, write last.h5 every so many minutes; null: not.
    save_minutes: Positive | None = None
    batch: Batch = 16  # images a step, over all replicas
    accumulate: Batch = 1  # parts a step is computed in, to save memory; must divide batch
    optimizer: Part = Part(name="adamw")
    # Factor on the learning rate, and so on the weight decay, of the backbone: below 1 where it is pretrained.
    backbone_rate: Positive = 1.0
    clip: Positive | None = 10.0  # largest global norm of the gradient; null: as it comes
    ema: BelowOne = 0.998  # decay of the moving average of the weights, a step; 0: none
    precision: Literal["float32", "bfloat16"] = "float32"
    # Weights to initialise from: a run, an import, a .h5 file, a Darknet backbone's file, or a name of `tfyolo
    # weights`, which is fetched.
    init: Place | None = None
    seed: Seed = 0
    evaluate_every: Count = 5  # epochs
    # Images at a time in evaluation, which one device does; null: a replica's part of the batch, at most 16.
    evaluate_batch: Batch | None = None
    # Processes that make the batches, about one a core beside the training's own; 0: threads of this process, which
    # two to three cores keep busy. Any number makes the same batches. Needs `pip install 'tfyolo[workers]'`.
    workers: Annotated[int, Field(ge=0, le=512)] = 0
    draw_images: CountOrZero = 4  # validation images drawn at each evaluation
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
            raise self.error("data", "expected where the images and their labels are (data=PATH), received none")
        return (own, f"train.stages.{index}.data") if own else (self.data, "data")

    def place(self, path: str) -> str | None:
        """Where the value at a dotted path was written ("configs/x.yaml:12"), or its section; None without a file."""
        return nearest(self._places, path)

    def error(self, path: str, message: str) -> ConfigError:
        """A ConfigError about the value at a dotted path; `message` reads "expected ..., received ..."."""
        return ConfigError(place_line(self.place(path), path, message))


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
