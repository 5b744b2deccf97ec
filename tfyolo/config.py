"""The config: one strict schema on one page, read from YAML with one `base:` and dotted overrides.

The skeleton is checked here; the options of a part (backbone, neck, ...) are checked against the signature of what they build, in
tfyolo.model. Every error is a ConfigError that names the place in the file, the value, and what would be right.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class ConfigError(ValueError):
    """Something in a config, or what it names, is wrong. The message says where, what came and what would be right."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _square(value):
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


Size = Annotated[tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]], BeforeValidator(_square), Field(strict=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    """One interchangeable part: the name it has in its kind's table, and options for it."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Data(Strict):
    path: str  # a folder, a COCO .json, a YOLO data .yaml, or a folder of .tfrecord files; recognised for what it is
    images: str | None = None  # where the pictures lie, if the annotations do not lead there
    format: Literal["coco", "voc", "yolo", "tfrecord"] | None = None  # only if it is not recognised
    train: str = "train"  # name of the split to learn from
    val: str = "val"  # name of the split to be judged on while training


def _path(value):
    return {"path": value} if isinstance(value, str) else value


DataField = Annotated[Data, BeforeValidator(_path)]  # `data: PATH` is short for `data: {path: PATH}`


class Model(Strict):
    input_size: Size  # (H, W) in pixels, or one number for a square
    classes: Annotated[tuple[str, ...], Field(strict=False)] | None = None  # names in label order; None: the data's own
    backbone: Part
    neck: Part = Part(name="identity")
    head: Part
    decoder: Part
    assigner: Part
    objective: Part
    postprocess: Part = Part(name="nms")


class Augment(Strict):
    """Random changes to a training picture. Each is drawn from (seed, epoch, index), so a run can be repeated."""

    flip: Probability = 0.5  # left-right
    flip_vertical: Probability = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5  # zoom drawn from 1-scale .. 1+scale
    translate: Annotated[float, Field(ge=0, le=1)] = 0.1  # shift, as part of the input size, either way
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # degrees, either way
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.015  # part of the colour circle, either way
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.7  # gain drawn from 1-s .. 1+s
    value: Annotated[float, Field(ge=0, lt=1)] = 0.4  # gain drawn from 1-v .. 1+v
    mosaic: Probability = 0.0  # four pictures in one
    mixup: Probability = 0.0  # two pictures laid over each other


class Stage(Strict):
    """One stretch of a training plan. It starts with a fresh optimizer on the weights that the stage before has left."""

    epochs: Positive
    lr: Annotated[float, Field(gt=0)]  # peak learning rate
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    final: Probability = 0.01  # cosine: the last learning rate, as part of lr; step: the factor of each step
    steps: Annotated[tuple[Probability, ...], Field(strict=False)] = (0.8, 0.9)  # step: where, as parts of the stage
    warmup: Annotated[float, Field(ge=0)] = 3.0  # epochs over which lr rises from 0
    plain_epochs: Annotated[int, Field(ge=0)] = 10  # the last epochs, without mosaic and mixup
    image_size: Size | None = None  # (H, W); None: model.input_size
    data: DataField | None = None  # None: the config's data
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = ()  # parts of the model that stay as they are: "backbone", "neck.p4"
    loss_weights: dict[str, Annotated[float, Field(ge=0)]] = {}  # factor on each term of the loss, by its name; 1 where unnamed


class Train(Strict):
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]
    batch: Positive = 16  # pictures a step, over all replicas
    accumulate: Positive = 1  # parts a step is computed in, to save memory; must divide batch
    optimizer: Part = Part(name="adamw")
    clip: Annotated[float, Field(gt=0)] | None = 10.0  # largest global norm of the gradient; null: as it comes
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998  # decay of the moving average of the weights, a step; 0: none
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    evaluate_every: Positive = 5  # epochs
    pictures: Annotated[int, Field(ge=0)] = 4  # validation pictures drawn at each evaluation
    eager: bool = False  # the same step without tf.function, for debugging


class Config(Strict):
    name: str
    data: DataField | None = None
    model: Model
    augment: Augment = Augment()
    train: Train
