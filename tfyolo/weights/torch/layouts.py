"""How published PyTorch checkpoints number and name what our networks have: YOLOv7, v8, v9, YOLO11, YOLOX.

Most number their blocks in the order of the networks' descriptions, those without weights too; a Layout has our names
in that order. YOLOX names its blocks.
"""

import re
from typing import NamedTuple

import numpy as np

_HEADS = ("head", "head.aux")


class Layout(NamedTuple):
    """Where the weights of one network stand in its checkpoints.

    Attributes:
        native: our config.
        overrides: of the config.
        blocks: our name of each of their blocks; None where there are no weights.
        inside: patterns for what is inside a block, ours -> theirs, applied one after the other.
        sides: a pattern of our variables whose last axis holds the sides of boxes, one after the other.
        places: a pattern of their tensors that hold the places of a distribution's bins, 0, 1, 2, ...
        aside: a pattern of their tensors that our network has no use for, and that only training reads.
    """

    native: str
    overrides: tuple[str, ...]
    blocks: tuple[str | None, ...]
    inside: tuple
    sides: str = r"\.box\.out/"
    places: str = r"model\.\d+\.dfl\.conv\.weight"
    aside: str = r"(?!)"

    def theirs(self, variable):
        """The name that a variable of ours has in their checkpoints."""
        layer, _, rest = variable.partition("/")
        names = [name for name in self.blocks if name and f"{layer}.".startswith(f"{name}.")]
        if layer.endswith((".out", ".implicit_add", ".implicit_multiply")):
            names = [name for name in names if name in _HEADS]  # what comes last is in one block, of all levels
        name = max(names, key=len)
        inside = f"{layer.removeprefix(name)}/{rest}"
        for pattern, theirs in self.inside:
            inside = re.sub(pattern, theirs, inside)
        return f"model.{self.blocks.index(name)}{inside}".replace("/", ".")

    @property
    def detection(self):
        """Their name of the head."""
        return f"model.{len(self.blocks) - 1}"

    note = None  # what an import does beside renaming, for its report

    def adapted(self, variable, array):
        """Their array for a variable of ours, its axes in our order, where ours computes something else with it."""
        return array


_CONVOLUTION = (
    (r"\.norm/gamma$", ".bn.weight"),
    (r"\.norm/beta$", ".bn.bias"),
    (r"\.norm/moving_mean$", ".bn.running_mean"),
    (r"\.norm/moving_variance$", ".bn.running_var"),
    (r"/kernel$", ".weight"),
    (r"/bias$", ".bias"),
)

# --- YOLOv8, YOLO11 ---------------------------------------------------------------------------------------------------

_BACKBONE = ("p1", "p2.down", "p2", "p3.down", "p3", "p4.down", "p4", "p5.down", "p5", "sppf")
_NECK = (
    *(None, None, "neck.p4", None, None, "neck.p3"),
    *("neck.n4.down", None, "neck.n4", "neck.n5.down", None, "neck.n5", "head"),
)
_BLOCKS = {
    "yolov8": (*(f"backbone.{name}" for name in _BACKBONE), *_NECK),
    "yolo11": (*(f"backbone.{name}" for name in (*_BACKBONE, "attention")), *_NECK),
}
_IN_C2F = (
    (r"\.p(\d)\.box\.conv(\d)", lambda m: f".cv2.{int(m[1]) - 3}.{int(m[2]) - 1}"),
    (r"\.p(\d)\.cls\.depth(\d)", lambda m: f".cv3.{int(m[1]) - 3}.{int(m[2]) - 1}.0"),
    (r"\.p(\d)\.cls\.conv(\d)", lambda m: f".cv3.{int(m[1]) - 3}.{int(m[2]) - 1}"),
    (r"\.p(\d)\.(box|cls)\.out/", lambda m: f".{'cv2' if m[2] == 'box' else 'cv3'}.{int(m[1]) - 3}.2/"),
    (r"\.(bottleneck|block)(\d+)", lambda m: f".m.{int(m[2]) - 1}"),
    (r"(\.m\.\d+)\.split\b", r"\1.cv1"),
    (r"(\.m\.\d+)\.skip\b", r"\1.cv2"),
    (r"(\.m\.\d+)\.join\b", r"\1.cv3"),
    (r"\.split\b", ".cv1"),
    (r"\.join\b", ".cv2"),
    (r"\.conv(\d)", r".cv\1"),
    (r"\.qkv\b", ".attn.qkv"),
    (r"\.place\b", ".attn.pe"),
    (r"\.project\b", ".attn.proj"),
    (r"\.widen\b", ".ffn.0"),
    (r"\.narrow\b", ".ffn.1"),
    *_CONVOLUTION,
)
# YOLO11's convolutions for classes come in pairs.
_PAIRED = ((r"^\.p(\d)\.cls\.conv(\d)", lambda m: f".cv3.{int(m[1]) - 3}.{int(m[2]) - 1}.1"), *_IN_C2F)
# (family, channels of the first convolution, whether a block of the backbone has a second link) -> the size.
_SIZES = {
    **{
        ("yolov8", *widths): size
        for widths, size in {(16, 0): "n", (32, 0): "s", (48, 1): "m", (64, 1): "l", (80, 1): "x"}.items()
    },
    **{
        ("yolo11", *widths): size
        for widths, size in {(16, 0): "n", (32, 0): "s", (64, 0): "m", (64, 1): "l", (96, 1): "x"}.items()
    },
}


def _decoupled(arrays):
    """(Layout, number of classes) of a YOLOv8 or YOLO11; None if it is neither."""
    stem = arrays.get("model.0.conv.weight")
    deep = any(name.startswith("model.2.m.1.") for name in arrays)
    for family, blocks in _BLOCKS.items():
        last = arrays.get(f"model.{len(blocks) - 1}.cv3.0.2.bias")
        if stem is not None and stem.ndim == 4 and last is not None and last.ndim == 1:
            size = _SIZES.get((family, len(stem), int(deep)))
            inside = _PAIRED if family == "yolo11" else _IN_C2F
            return size and (Layout(f"{family}{size}", (), blocks, inside), len(last))
    return None


# --- YOLOv9, as published under the MIT licence -----------------------------------------------------------------------


def _pan(name):
    return (f"{name}.p5", None, None, f"{name}.p4", None, None, f"{name}.p3")


_GELAN = (
    *("backbone.p1", "backbone.p2.down", "backbone.p2", "backbone.p3.down", "backbone.p3", "backbone.p4.down"),
    *("backbone.p4", "backbone.p5.down", "backbone.p5", *_pan("neck"), "neck.n4.down", None, "neck.n4"),
    *("neck.n5.down", None, "neck.n5", "head"),
)
_GELAN_AUX = (*_GELAN, *_pan("neck.aux"), "head.aux")
_IN_GELAN = (
    (r"^\.p(\d)\.box\.conv(\d)", lambda m: f".heads.{int(m[1]) - 3}.anchor_conv.{int(m[2]) - 1}"),
    (r"^\.p(\d)\.cls\.conv(\d)", lambda m: f".heads.{int(m[1]) - 3}.class_conv.{int(m[2]) - 1}"),
    (r"^\.p(\d)\.box\.out/", lambda m: f".heads.{int(m[1]) - 3}.anchor_conv.2/"),
    (r"^\.p(\d)\.cls\.out/", lambda m: f".heads.{int(m[1]) - 3}.class_conv.2/"),
    (r"^\.conv(\d)", lambda m: f".conv{int(m[1]) + 1}"),  # ELAN
    (r"^\.split\b", ".conv1"),
    (r"^\.join\b", ".conv4"),
    (r"^\.link(\d)\.conv\b", lambda m: f".conv{int(m[1]) + 1}.1"),
    (r"^\.link(\d)\.csp\b", lambda m: f".conv{int(m[1]) + 1}.0"),
    (r"\.split\b", ".conv1"),  # RepNCSP
    (r"\.skip\b", ".conv2"),
    (r"\.join\b", ".conv3"),
    (r"\.bottleneck(\d+)\.rep3\b", lambda m: f".bottleneck.{int(m[1]) - 1}.conv1.conv1"),
    (r"\.bottleneck(\d+)\.rep1\b", lambda m: f".bottleneck.{int(m[1]) - 1}.conv1.conv2"),
    (r"\.bottleneck(\d+)\.conv\b", lambda m: f".bottleneck.{int(m[1]) - 1}.conv2"),
    (r"^\.strided\b", ".conv1"),  # ADown
    (r"^\.pooled\b", ".conv2"),
    (r"^\.before\b", ".conv1"),  # SPPELAN
    (r"^\.after\b", ".conv5"),
    *_CONVOLUTION,
)
# (channels of the first convolution, whether p2's block is the heavy one) -> the config.
_YOLOV9 = {(16, False): "yolov9t", (32, False): "yolov9s", (32, True): "yolov9m", (64, True): "yolov9c"}
_LIGHT = ("yolov9t", "yolov9s")  # whose auxiliary branch begins behind the backbone, and is imported
_NO_AUX = ("model.neck.aux=false", "model.objective.aux=null")


def _gelan(arrays):
    """(Layout, number of classes) of a YOLOv9 of the MIT-licensed edition; None if it is none."""
    stem, last = arrays.get("model.0.conv.weight"), arrays.get("model.22.heads.0.class_conv.2.bias")
    if stem is None or stem.ndim != 4 or last is None or last.ndim != 1:
        return None
    native = _YOLOV9.get((len(stem), "model.2.conv2.0.conv1.conv.weight" in arrays))
    if native is None:
        return None
    whole = native in _LIGHT and "model.30.heads.0.class_conv.2.bias" in arrays
    overrides = _NO_AUX if native in _LIGHT and not whole else ()
    places = r"model\.\d+\.heads\.\d\.anc2vec\.anc2vec\.weight"
    # The layers of an auxiliary branch are numbered behind the detection layer.
    aside = r"(?!)" if native in _LIGHT else r"model\.(2[3-9]|[3-9]\d|\d{3,})\..+"
    blocks = _GELAN_AUX if whole else _GELAN
    return Layout(native, overrides, blocks, _IN_GELAN, r"\.box\.", places, aside), len(last)


# --- YOLOv7 -----------------------------------------------------------------------------------------------------------


def _each(levels, blocks):
    """The blocks of all levels, one after the other. blocks: level -> list."""
    return [block for level in levels for block in blocks(level)]


def _elan(name, convs, cardinality=1):
    groups = [name] if cardinality == 1 else [f"{name}.group{i + 1}" for i in range(cardinality)]
    links = [f"conv{i + 1}" for i in range(convs)]
    blocks = _each(
        groups, lambda group: [*(f"{group}.{link}" for link in ("skip", "split", *links)), None, f"{group}.join"]
    )
    return blocks if cardinality == 1 else [*blocks, None]


def _pooled(name):
    """Pool, its convolution, the two others, and the join."""
    return [None, f"{name}.pooled", f"{name}.reduce", f"{name}.strided", None]


def _joined(name):
    return [name, None]


def _top_down(pyramid, levels, elan):
    """pyramid: blocks of the coarsest level. elan: a level's name -> its blocks."""
    return [
        *pyramid,
        *_each(levels, lambda level: [f"{level}.up", None, f"{level}.lateral", None, *elan(level)]),
    ]


def _bottom_up(levels, down, elan):
    return _each(levels, lambda level: [*down(f"{level}.down"), *elan(level)])


def _p5(convs):
    def elan(name):
        return _elan(name, convs)

    return (
        *("backbone.stem1", "backbone.stem2", "backbone.stem3", "backbone.p2.down", *elan("backbone.p2")),
        *_bottom_up(("backbone.p3", "backbone.p4", "backbone.p5"), _pooled, elan),
        *_top_down(["neck.p5"], ("neck.p4", "neck.p3"), elan),
        *_bottom_up(("neck.n4", "neck.n5"), _pooled, elan),
        *("head.p3", "head.p4", "head.p5", "head"),
    )


def _tiny():
    def elan(name):
        return _elan(name, 2)

    pyramid = ["neck.p5.skip1", "neck.p5.before1", None, None, None, None, "neck.p5.pooled1", None, "neck.p5.join"]
    return (
        *("backbone.stem", "backbone.p2.down", *elan("backbone.p2")),
        *_each(("backbone.p3", "backbone.p4", "backbone.p5"), lambda level: [None, *elan(level)]),
        *_top_down(pyramid, ("neck.p4", "neck.p3"), elan),
        *_bottom_up(("neck.n4", "neck.n5"), _joined, elan),
        *("head.p3", "head.p4", "head.p5", "head"),
    )


def _p6(convs, cardinality=1, aux=True):
    def elan(name):
        return _elan(name, convs, cardinality)

    levels = ("p3", "p4", "p5", "p6")
    return (
        *(None, "backbone.stem"),
        *_each(("p2", *levels), lambda level: [f"backbone.{level}.down", *elan(f"backbone.{level}")]),
        *_top_down(["neck.p6"], ("neck.p5", "neck.p4", "neck.p3"), elan),
        *_bottom_up(("neck.n4", "neck.n5", "neck.n6"), _joined, elan),
        *(f"head.{level}" for level in levels),
        *(f"head.aux.{level}" for level in levels if aux),
        "head",
    )


_IN_ELAN = (
    (r"^\.(aux\.)?p(\d)\.out/", lambda m: f".{'m2' if m[1] else 'm'}.{int(m[2]) - 3}/"),
    (r"^\.p(\d)\.implicit_(add|multiply)/.*", lambda m: f".{'ia' if m[2] == 'add' else 'im'}.{int(m[1]) - 3}.implicit"),
    *((rf"^\.before{i + 1}\b", f".cv{cv}") for i, cv in enumerate((1, 3, 4))),  # SPPCSPC
    (r"^\.skip1\b", ".cv2"),
    *((rf"^\.after{i + 1}\b", f".cv{cv}") for i, cv in enumerate((5, 6))),
    (r"^\.join\b", ".cv7"),
    *((rf"^\.{ours}\b", f".cv{cv}") for cv, ours in enumerate(("reduce", "strided", "pooled"), start=1)),  # DownC
    (r"^\.rep3\.conv/", ".rbr_dense.0/"),
    (r"^\.rep1\.conv/", ".rbr_1x1.0/"),
    (r"^\.rep3\.norm/", ".rbr_dense.1.norm/"),
    (r"^\.rep1\.norm/", ".rbr_1x1.1.norm/"),
    (r"^\.identity/", ".rbr_identity.norm/"),
    *_CONVOLUTION,
    (r"(rbr_\w+(\.1)?)\.bn\.", r"\1."),
)
_YOLOV7 = {
    "yolov7-tiny": _tiny(),
    "yolov7": _p5(4),
    "yolov7x": _p5(6),
    "yolov7-w6": _p6(4),
    "yolov7-e6": _p6(6),
    "yolov7-d6": _p6(8),
    "yolov7-e6e": _p6(6, cardinality=2),
}
_DEPLOYED = {
    "yolov7-w6": _p6(4, aux=False),
    "yolov7-e6": _p6(6, aux=False),
    "yolov7-d6": _p6(8, aux=False),
    "yolov7-e6e": _p6(6, cardinality=2, aux=False),
}


def _implicit(arrays):
    """(Layout, number of classes) of a YOLOv7: as trained; or as used, without implicit knowledge and auxiliary."""
    for aux, table in ((True, _YOLOV7), (False, _DEPLOYED)):
        for native, blocks in table.items():
            last, anchors = (arrays.get(f"model.{len(blocks) - 1}.{name}") for name in ("m.0.bias", "anchors"))
            if last is None or last.ndim != 1 or anchors is None or anchors.ndim != 3 or len(anchors) < 3:
                continue
            knowledge = f"model.{len(blocks) - 1}.ia.0.implicit" in arrays
            overrides = [] if knowledge else ["model.head.knowledge=false"]
            overrides += [] if aux else _NO_AUX
            strides = 8 * 2 ** np.arange(len(anchors))
            pixels = anchors.astype("float64")[:, :, ::-1] * strides[:, None, None]  # width, height in cells there
            anchors_of = {f"p{i + 3}": np.round(level, 4).tolist() for i, level in enumerate(pixels)}
            overrides.append(f"model.decoder.anchors={anchors_of}")
            return Layout(native, tuple(overrides), blocks, _IN_ELAN), len(last) // anchors.shape[1] - 5
    return None


# --- YOLOX ------------------------------------------------------------------------------------------------------------

_IN_YOLOX = (
    (r"^backbone\.stem\.", "backbone.backbone.stem.conv."),
    (r"^backbone\.p(\d)\.down\.", r"backbone.backbone.dark\1.0."),
    (r"^backbone\.p5\.spp\.split\.", "backbone.backbone.dark5.1.conv1."),
    (r"^backbone\.p5\.spp\.join\.", "backbone.backbone.dark5.1.conv2."),
    (r"^backbone\.p5\.", "backbone.backbone.dark5.2."),
    (r"^backbone\.p(\d)\.", r"backbone.backbone.dark\1.1."),
    (r"^neck\.p4\.up\.", "backbone.lateral_conv0."),
    (r"^neck\.p3\.up\.", "backbone.reduce_conv1."),
    (r"^neck\.n(\d)\.down\.", lambda m: f"backbone.bu_conv{6 - int(m[1])}."),
    (r"^neck\.p(\d)\.", r"backbone.C3_p\1."),
    (r"^neck\.n(\d)\.", lambda m: f"backbone.C3_n{int(m[1]) - 1}."),
    (r"^head\.p(\d)\.stem\.", lambda m: f"head.stems.{int(m[1]) - 3}."),
    (
        r"^head\.p(\d)\.(box|cls)\.conv(\d)\.",
        lambda m: f"head.{'reg' if m[2] == 'box' else 'cls'}_convs.{int(m[1]) - 3}.{int(m[3]) - 1}.",
    ),
    (
        r"^head\.p(\d)\.(box|obj|cls)\.out/",
        lambda m: f"head.{'reg' if m[2] == 'box' else m[2]}_preds.{int(m[1]) - 3}/",
    ),
    (r"\.bottleneck(\d+)\.", lambda m: f".m.{int(m[1]) - 1}."),
    (r"\.split\.", ".conv1."),
    (r"\.skip\.", ".conv2."),
    (r"\.join\.", ".conv3."),
    (r"\.depth\.", ".dconv."),
    (r"\.point\.", ".pconv."),
    *_CONVOLUTION,
)
# (channels of the first convolution, whether the others are depthwise) -> the size.
_YOLOX = {
    (16, True): "nano",
    (24, False): "tiny",
    (32, False): "s",
    (48, False): "m",
    (64, False): "l",
    (80, False): "x",
}


# In the order in which their forward pass runs.
_RUN = (
    *(
        "backbone.backbone.stem.",
        "backbone.backbone.",
        "backbone.lateral_conv0.",
        "backbone.C3_p4.",
        "backbone.reduce_conv1.",
        "backbone.C3_p3.",
    ),
    *("backbone.bu_conv2.", "backbone.C3_n3.", "backbone.bu_conv1.", "backbone.C3_n4.", "head."),
)
_IN_HEAD = ("stems", "cls_convs", "cls_preds", "reg_convs", "reg_preds", "obj_preds")


class YoloxLayout(NamedTuple):
    """As Layout, of a YOLOX."""

    native: str
    overrides: tuple[str, ...] = ()

    detection = "head"
    sides, places, aside = Layout._field_defaults["sides"], r"(?!)", r"(?!)"
    note = (
        "its input of blue, green, red in 0..255 has become one of red, green, blue in 0..1, in its first convolution"
    )

    def theirs(self, variable):
        """The name that a variable of ours has in their checkpoints."""
        for pattern, theirs in _IN_YOLOX:
            variable = re.sub(pattern, theirs, variable)
        return variable.replace("/", ".")

    @staticmethod
    def turn(name):
        """Where a tensor's convolution stands in the order in which theirs run: a key to sort their names by."""
        part = next(part for part in _RUN if name.startswith(part))
        inside = [
            "z" if each == "conv3" else each for each in name.removeprefix(part).split(".")
        ]  # after the bottlenecks, m
        inside = [f"{int(each):03d}" if each.isdigit() else each for each in inside]
        if part == "head.":  # level by level
            kind, level, *inside = inside
            inside = [level, f"{_IN_HEAD.index(kind)}", *inside]
        return _RUN.index(part), inside

    def adapted(self, variable, array):
        """The first convolution's kernel [3, 3, 12, C] of 2x2 pixels side by side -> [6, 6, 3, C] of the image's own.

        Their pixels stand as top left, bottom left, top right, bottom right, each blue, green, red, in 0..255.
        """
        if variable != "backbone.stem.conv/kernel" or array.ndim != 4 or array.shape[:3] != (3, 3, 12):
            return array
        kernel = array.reshape(3, 3, 2, 2, 3, -1).transpose(0, 3, 1, 2, 4, 5)  # row, its pixel, column, its pixel
        return 255 * kernel.reshape(6, 6, 3, -1)[:, :, ::-1]


def _yolox(arrays):
    """(YoloxLayout, number of classes); None if it is no YOLOX of a published size."""
    stem, last = arrays.get("backbone.backbone.stem.conv.conv.weight"), arrays.get("head.cls_preds.0.bias")
    if stem is None or stem.ndim != 4 or last is None or last.ndim != 1:
        return None
    size = _YOLOX.get((len(stem), any(".dconv." in name for name in arrays)))
    return size and (YoloxLayout(f"yolox-{size}"), len(last))


def recognise_run(kernels):
    """(YoloxLayout, number of classes) of convolutions' kernels [out, in / groups, h, w], as they ran; None: no YOLOX.

    At each of three levels the head ends in a 1x1 convolution, two pairs of 3x3 and three predictions.
    """
    if len(kernels) < 40 or kernels[0].shape[1:] != (12, 3, 3):
        return None
    depthwise = kernels[1].shape[1] == 1
    size = _YOLOX.get((len(kernels[0]), depthwise))
    pair = 4 if depthwise else 2
    return size and (YoloxLayout(f"yolox-{size}"), len(kernels[-3 - pair]))


# --- licences ---------------------------------------------------------------------------------------------------------

# Of the weights of each family, and of what is trained from them with its programs.
LICENCES = {
    "yolov7": "GPL-3.0",
    "yolov8": "AGPL-3.0",
    "yolo11": "AGPL-3.0",
    "yolox": "Apache-2.0",
    "yolov9": "MIT",
}


def licence_of(native):
    """The licence of published weights that fit a config, by its family; None: not known."""
    return next((licence for family, licence in LICENCES.items() if native.startswith(family)), None)


def recognise(arrays):
    """(Layout, number of classes) of a checkpoint's tensors {name: array}; None if they are of no network here."""
    return _decoupled(arrays) or _gelan(arrays) or _implicit(arrays) or _yolox(arrays)
