"""The options of Darknet's sections: which are represented, which may be ignored, and which stop an import."""

from pydantic import ValidationError

from tfyolo.darknet import sections as section_types
from tfyolo.weights.darknet.text import DarknetError, number_of, numbers_of

PREDICTIONS = ("yolo", "region", "detection")
# What else published networks end in.
OTHER_ENDS = {
    "softmax": "as classifiers do",
    "cost": "as classifiers do",
    "avgpool": "as classifiers do",
    "contrastive": "which compares objects to track them",
    "gaussian_yolo": "whose boxes have variances",
}

# Options beside those that the section's class in darknet.sections has. The value: the only one that can be
# represented.
_ONLY = {
    "net": {"channels": "3"},
    "convolutional": dict.fromkeys(
        ("binary", "xnor", "bin_output", "flipped", "antialiasing", "deform", "rotate", "sway", "stretch")
        + ("stretch_sway", "assisted_excitation", "dontload", "dontloadscales", "coordconv", "only_align"),
        "0",
    ),
    "connected": dict.fromkeys(("flipped", "dontload", "dontloadscales"), "0"),
    "maxpool": {"maxpool_depth": "0", "antialiasing": "0", "out_channels": "1"},
    "upsample": {"scale": "1"},
    "reorg": {"reverse": "0", "flatten": "0", "extra": "0"},
    "reorg3d": {"reverse": "0", "flatten": "0", "extra": "0"},
    "shortcut": {"alpha": "1", "beta": "1"},
    "scale_channels": {"scale_wh": "0"},
    "yolo": {"embedding_layer": "-1"},
    "region": {"coords": "4", "softmax": "1", "background": "0"},
    "detection": {"coords": "4", "softmax": "0", "sqrt": "1"},
}
# Options that only concern how Darknet trains, or draws.
_TRAINING = {
    "convolutional": {"grad_centr", "dontsave", "keep_delta_gpu", "dot", "angle", "reverse", "stream", "wait_stream"},
    "route": {"stream", "wait_stream"},
    "crop": {"flip", "angle", "saturation", "exposure", "shift"},
    "dropout": {"dropblock", "dropblock_size_abs", "dropblock_size_rel", "dropblock_size"},
    "yolo": {"num", "jitter", "random", "resize", "max", "max_delta", "objectness_smooth", "counters_per_class"}
    | {"uc_normalizer", "beta1", "delta_normalizer", "show_details", "nms_threshold"}
    | {"label_smooth_eps", "truth_thresh", "iou_thresh_kind", "focal_loss", "thresh", "scale", "total"},
    "region": {"num", "bias_match", "jitter", "rescore", "object_scale", "noobject_scale", "class_scale", "coord_scale"}
    | {"mask_scale", "absolute", "thresh", "random", "log", "max", "focal_loss", "classfix", "nms_threshold"},
    "detection": {"rescore", "jitter", "object_scale", "noobject_scale", "class_scale", "coord_scale", "forced"}
    | {"random", "max", "reorg"},
}  # fmt: skip
# The same of sections of any kind.
_TRAINING_ANY = {"onlyforward", "dont_update", "burnin_update", "stopbackward", "train_only_bn"}
_TRAINING_ANY |= {"learning_rate", "clip"}
SYNONYMS = {
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
}
CLASSES = {
    "crop": section_types.Crop,
    "convolutional": section_types.Convolutional,
    "connected": section_types.Connected,
    "local": section_types.Local,
    "maxpool": section_types.Maxpool,
    "avgpool": section_types.Avgpool,
    "local_avgpool": section_types.LocalAvgpool,
    "upsample": section_types.Upsampling,
    "reorg": section_types.Reorg,
    "reorg3d": section_types.Reorg,
    "dropout": section_types.Dropout,
    "route": section_types.Route,
    "shortcut": section_types.Shortcut,
    "scale_channels": section_types.ScaleChannels,
    "sam": section_types.Sam,
}


def refuse(section, path, notes, known=()):
    """Raises DarknetError for options that cannot be represented; adds a line to notes for those that are not known."""
    only = _ONLY.get(section.kind, {})
    for key, value in section.options.items():
        if key in only and value != only[key]:
            raise DarknetError(
                f"{path}:{section.lines[key]}: [{section.kind}]: {key}={value} cannot be represented, only "
                f"{key}={only[key]}"
            )
        if section.kind in ("net", "network") or key in only or key in known or key in _TRAINING_ANY:
            continue
        if key in _TRAINING.get(section.kind, ()):
            continue
        notes.append(f"{path}:{section.lines[key]}: [{section.kind}]: {key} is not known and was left aside")


def section_of(raw, path, notes):
    """The section of darknet.sections for a Written one.

    Args:
        raw: Written.
        path: of the .cfg, for errors.
        notes: a list that gets a line for every option that is not known.

    Raises:
        DarknetError: the section, or an option of it, cannot be represented.
    """
    if raw.kind in PREDICTIONS:
        return section_types.Prediction()
    if raw.kind not in CLASSES:
        choices = ", ".join([*CLASSES, *PREDICTIONS])
        raise DarknetError(f"{path}:{raw.line}: [{raw.kind}] cannot be represented; sections that can: {choices}")
    cls, options, given = CLASSES[raw.kind], dict(raw.options), raw.options
    for key in ("stride_x", "stride_y"):
        if key in options and options.pop(key) != given.get("stride", "1"):
            raise DarknetError(
                f"{path}:{raw.lines[key]}: [{raw.kind}]: {key}={given[key]} cannot be represented, only that of both "
                "sides"
            )
    # From what Darknet writes to what the class calls it
    if raw.kind == "convolutional":
        padded = options.pop("pad", "0") not in ("0", "")
        size = number_of(raw, "size", path, "1")
        if padded:
            options["padding"] = str(size // 2)
        if size == 1:
            options["dilation"] = "1"  # whatever is written
        if options.pop("cbn", "0") not in ("0", ""):  # statistics of several batches, in training
            options["batch_normalize"] = "1"
    elif raw.kind in ("maxpool", "local_avgpool"):
        stride = number_of(raw, "stride", path, "1")
        options.setdefault("size", str(stride))
        options.setdefault("padding", str(number_of(raw, "size", path, str(stride)) - 1))
    elif raw.kind in ("route", "shortcut", "scale_channels", "sam"):
        key = "layers" if raw.kind == "route" else "from"
        if key not in options:
            raise DarknetError(f"{path}:{raw.line}: [{raw.kind}]: expected {key}=..., received none")
        del options[key]
        options["inputs"] = numbers_of(raw, key, path, int)
    elif raw.kind == "reorg3d":
        options["type"] = "reorg3d"
    if raw.kind == "shortcut":  # two names for one thing
        synonyms = {"per_layer": "per_feature", "avg_relu": "relu"}
        options = {
            key: synonyms.get(value, value) if isinstance(value, str) else value for key, value in options.items()
        }
    known = {name: value for name, value in options.items() if name in cls.__dataclass_fields__}
    refuse(raw, path, notes, known={*known, "pad", "from", "layers", "stride_x", "stride_y", "cbn"})
    try:
        return cls(**known)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        line = raw.lines.get(key, raw.line)
        raise DarknetError(
            f"{path}:{line}: [{raw.kind}]: {key}: {first['msg'][0].lower()}{first['msg'][1:]}, received "
            f"{given.get(key)!r}"
        ) from None
