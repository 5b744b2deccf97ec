"""MODEL.md: what an app's developer has to know of the files beside it, and the lines that read each of them."""

from tfyolo.exports.destinations import places_of
from tfyolo.exports.targets import EXPORTERS, Target
from tfyolo.origin import initialised_line

CARD = "MODEL.md"
_MARK = "<!-- `tfyolo export` writes this file anew each time. -->"  # its last line, by which it is known

_BOX = """one = min(height / photo.height, width / photo.width)
h, w = int(photo.height * one), int(photo.width * one)
scale, top, left = (h / photo.height, w / photo.width), %s
image = Image.new("RGB", (width, height), (%d,) * 3)
image.paste(photo.resize((w, h), Image.BILINEAR), (left, top))"""
_STRETCHED = """scale, top, left = (height / photo.height, width / photo.width), 0, 0
image = photo.resize((width, height), Image.BILINEAR)"""
_MIDDLE = "(height - h) // 2, (width - w) // 2"
# How an image is brought to the network's input, by model.preprocess: in words, and in Python.
_FITTED = {
    "stretch": ("stretched to the size, bilinearly", _STRETCHED),
    "darknet": ("stretched to the size, bilinearly", _STRETCHED),
    "letterbox": ("scaled to fit, bilinearly, in the middle of grey (114) margins", _BOX % (_MIDDLE, 114)),
    "darknet_letterbox": ("scaled to fit, bilinearly, in the middle of grey (128) margins", _BOX % (_MIDDLE, 128)),
    "letterbox_top_left": (
        "scaled to fit, bilinearly, with grey (114) margins at the right and below",
        _BOX % ("0, 0", 114),
    ),
}


def _fitted(model):
    return _FITTED.get(model.preprocess, (f"brought to the size by {model.preprocess}", _STRETCHED))


# What follows the outputs, by Target.nms: `boxes` (y1, x1, y2, x2) in pixels of the input, `scores`, `labels`.
_READ = {
    "builtin": 'n = out["count"][0]\nboxes, scores, labels = (out[k][0][:n] for k in ("boxes", "scores", "labels"))',
    "task": (
        'n = int(out["number of detections"][0])\n'
        'boxes = out["location"][0][:n] * [height, width, height, width]\n'
        'scores, labels = out["score"][0][:n], out["category"][0][:n].astype(int)'
    ),
    "none": (
        "# All candidates: keep those with a score, then NMS (examples/decoders).\n"
        'boxes, scores, labels = out["boxes"][0], out["scores"][0].max(axis=1), out["scores"][0].argmax(axis=1)'
    ),
    "app": (
        "# All candidates: keep those with a score, then NMS (examples/decoders).\n"
        'x, y, w, h, *classes = out["output0"][0] * np.r_[[width, height] * 2, [1] * %(classes)d][:, None]\n'
        "boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=1)\n"
        "scores, labels = np.max(classes, axis=0), np.argmax(classes, axis=0)"
    ),
    "e2e": (
        'rows = out["output0"][0]\n'
        "rows = rows[rows[:, 4] > 0]\n"
        "boxes = rows[:, [1, 0, 3, 2]] * [height, width, height, width]\n"
        "scores, labels = rows[:, 4], rows[:, 5].astype(int)"
    ),
}


def text(model, report):
    """The text of MODEL.md.

    Args:
        model: the Model.
        report: {target's name: its entry in report.json}, of all files of the folder.

    Returns:
        Markdown.
    """
    height, width = model.input_size
    words, _ = _fitted(model)
    keeps = ", ".join(f"{name} {getattr(model.postprocess, name):g}" for name in ("score", "iou") if _has(model, name))
    lines = [
        f"# {model.config.name}",
        "",
        f"- {len(model.classes)} classes, in this order: {', '.join(model.classes)}",
        f"- An image is RGB of {height} x {width} pixels (height x width), {words}.",
        f"- Post-processing: {keeps}.",
        f"- {_sentence(initialised_line(model.origin) or 'initialised at random')}",
    ]
    for entry in report.values():
        if _is_described(entry):
            lines += _of_file(model, entry)
    return "\n".join([*lines, "", _MARK, ""])


def _is_described(entry):
    """Whether an entry says what MODEL.md needs: those of earlier versions, and of formats without tensors, do not."""
    needed = {"target", "inputs", "outputs", "file", "bytes", "ms"}
    if not isinstance(entry, dict) or not needed <= entry.keys() or not isinstance(entry["target"], list):
        return False
    return entry["target"][0] in EXPORTERS and len(entry["target"]) <= len(Target._fields)


def is_one(content):
    """Whether the bytes of a file are those of a MODEL.md that was written here."""
    return content.rstrip().endswith(_MARK.encode())


def _has(model, name):
    return isinstance(getattr(model.postprocess, name, None), int | float)


def _sentence(line):
    return line[0].upper() + line[1:] + "."


def _of_file(model, entry):
    target = Target(*entry["target"])
    meant = places_of(target)
    rows = [
        f"| {way} | `{name}` | {each['shape']} | {each['dtype']} | {_scale(each)} | {each.get('what', '')} |"
        for way, tensors in (("in", entry["inputs"]), ("out", entry["outputs"]))
        for name, each in tensors.items()
    ]
    lines = [
        "",
        f"## {entry['file']}",
        "",
        f"{entry['bytes'] / 1e6:.1f} MB, {entry['ms']:.0f} ms where it was written. For: {', '.join(meant) or 'any'}.",
        "",
        "| | tensor | shape | type | scale, zero point | |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    for name, found in entry.get("lint", {}).items():
        lines += ["", f"{name}: {found['summary']}", *(f"- {line}" for line in found["findings"])]
    if target.nms not in _READ:
        return [*lines, "", "Decoding is left to what reads it; `tfyolo.load` does it for comparison."]
    return [*lines, "", "```python", _python(model, target, entry), "```"]


def _scale(tensor):
    return f"{tensor['scale']:.6g}, {tensor['zero_point']}" if "scale" in tensor else ""


def _python(model, target, entry):
    height, width = model.input_size
    (taken,) = entry["inputs"].values()
    given = "np.asarray(image)[None]" if taken["dtype"] == "uint8" else 'np.asarray(image, "float32")[None] / 255'
    return "\n".join(
        [
            "# pip install numpy pillow ai-edge-litert",
            "import numpy as np",
            "from ai_edge_litert.interpreter import Interpreter",
            "from PIL import Image, ImageOps",
            "",
            f"height, width = {height}, {width}",
            'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
            _fitted(model)[1],
            f'out = Interpreter(model_path="{entry["file"]}").get_signature_runner()(images={given})',
            _READ[target.nms] % {"classes": len(model.classes)},
            "boxes = (boxes - [top, left, top, left]) / [*scale, *scale]  # pixels of the photograph",
        ]
    )
