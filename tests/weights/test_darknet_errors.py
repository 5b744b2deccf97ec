"""What the Darknet importer refuses."""

import keras
import numpy as np
import pytest
from darknet_cfgs import EVERY, STEM, conv, net, out, route, section, shortcut, written, yolo

from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.weights.darknet import importing
from tfyolo.weights.darknet.cfg import DarknetError, read_cfg


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "whose first section is"),
        ("filters=3", r"1: expected \[net\] before anything else"),
        ("[net\nwidth=3", r"1: expected \[section\]"),
        (net() + "[convolutional]\nfilters", "8: expected key=value, received 'filters'"),
        (net() + STEM, "ends in .convolutional."),
        (
            net() + STEM + out() + section("Gaussian_yolo"),
            r":34: expected .* ends in \[gaussian_yolo\], whose boxes have variances",
        ),
        (net() + STEM + section("softmax"), r":28: .* ends in \[softmax\], as classifiers do"),
        (net() + section("lstm") + STEM + out() + yolo(), r":7: \[lstm\] cannot be represented"),
        (net() + conv(8, activation="elu") + STEM + out() + yolo(), r":13: \[convolutional\]: activation: .*'elu'"),
        (net() + conv("many") + STEM + out() + yolo(), r":9: \[convolutional\]: filters: .*'many'"),
        (net() + conv(0) + STEM + out() + yolo(), "filters: input should be greater than 0"),
        (net() + conv(8, xnor=1) + STEM + out() + yolo(), r":14: \[convolutional\]: xnor=1 cannot be represented"),
        (net() + conv(8, groups=3) + STEM + out() + yolo(), "do not divide into 3 groups"),
        (
            net() + STEM + section("route", layers="-9") + out() + yolo(),
            r"\[route\]: expected the number of an earlier",
        ),
        (net() + STEM + section("route", layers="0,2") + out() + yolo(), "maps of one size"),
        (
            net(72, 64) + STEM + conv(8, stride=2) + shortcut(-2) + out() + yolo(),
            r":35: \[shortcut\]: expected maps of one size",
        ),
        (net() + STEM + section("shortcut") + out() + yolo(), "expected from=..., received none"),
        (
            net() + STEM + conv(16) + shortcut(-2, alpha=0.5) + out() + yolo(),
            r":38: \[shortcut\]: alpha=0.5 cannot be represented",
        ),
        (
            net() + STEM + conv(16, share_index=3) + out() + yolo(),
            r"\[convolutional\]: share_index: .*earlier .*received 3",
        ),
        (net() + STEM + route(0) + conv(16, share_index=3) + out() + yolo(), r"earlier \[convolutional\], received 3"),
        (net() + STEM + conv(16, 1, share_index=2) + out() + yolo(), r"received \(16, 16, 1, 1\) and 1"),
        (
            net() + STEM + conv(16, batch_normalize=0, share_index=2) + out() + yolo(),
            "and batch_normalize=1, received .* and 0",
        ),
        (net() + STEM + 2 * conv(16, groups=16) + conv(16, groups=16, share_index=-1) + out() + yolo(), "depthwise"),
        (
            net()
            + STEM
            + conv(16, 1, batch_normalize=0, activation="linear")
            + conv(16, 1, batch_normalize=0, activation="linear", share_index=3)
            + yolo(),
            r"before \[yolo\] expected a \[convolutional\] without share_index",
        ),
        (net() + STEM + conv(16) + route(-2) + out() + yolo(), r":28: \[convolutional\]: no head reads its output"),
        (
            net() + section("crop", crop_height=32, crop_width=64) + STEM + out() + yolo(),
            r"crop\]: expected the whole map",
        ),
        (net() + STEM + out(classes=4) + yolo(), "need 16 outputs of the layer before, received 18"),
        (net() + STEM + out() + yolo(mask="0,7"), "a mask of anchors 0 to 3"),
        (net() + STEM + out() + yolo(classes="x"), r"classes: expected a whole number"),
        (
            net() + STEM + out(activation="leaky") + yolo(),
            r"before \[yolo\] expected a \[convolutional\] with activation=linear",
        ),
        (net() + STEM + out() + yolo(new_coords=1), "with activation=logistic"),
        (net() + STEM + conv(16) + yolo(), "batch_normalize=0"),
        (net() + STEM + out() + yolo() + conv(8) + out() + yolo(), "reads section 4, which is a head"),
        (net() + STEM + out() + yolo() + section("route", layers=-3) + out() + yolo(), "a second head of stride 8"),
        (net(70, 64) + STEM + out() + yolo(), "expected a grid 2, 4, .. or 512 times smaller"),
        (net().replace("channels=3", "channels=1") + STEM + out() + yolo(), "channels=1 cannot be represented"),
        (net().replace("width", "wide") + STEM + out() + yolo(), "expected width=..."),
        (net() + STEM + section("maxpool", size=900, stride=1, padding=0) + out() + yolo(), "does not fit into"),
    ],
    ids=lambda value: "" if "\n" in value else value[:40],
)
def test_what_a_cfg_cannot_say(text, message, tmp_path):
    (tmp_path / "bad.cfg").write_text(text)
    with pytest.raises(DarknetError, match=message) as error:
        read_cfg(tmp_path / "bad.cfg")
    assert "bad.cfg" in str(error.value)


def test_unknown_options_are_named_and_left_aside(tmp_path):
    (tmp_path / "odd.cfg").write_text(net() + STEM + conv(16, colour="red") + out() + yolo(nms_kind="cornersnms"))
    notes = read_cfg(tmp_path / "odd.cfg").notes
    assert "colour is not known" in notes[0] and "nms_kind=cornersnms: replaced by greedy NMS" in notes[1]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[:-4], "1 are missing: it ends in .*convolutional., after"),
        (lambda data: data[: len(data) // 2 // 4 * 4], "are missing: it ends in"),
        (lambda data: data[:-3], "whole floats of 4 bytes"),
        (lambda data: data + bytes(8), "2 are left over after the last layer"),
        (lambda data: b"", "received 0 bytes"),
        (lambda data: data[:12], "received 12 bytes"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        (lambda data: b"<!DOCTYPE html><html><body>Not Found</body></html>", "received text that begins b'<!DOCTYPE"),
        (lambda data: data.decode("utf-8", "replace").encode(), "saved as text"),
        (lambda data: data.replace(b"\n", b"\r\n"), "line ends were rewritten"),
        (lambda data: data[:400] + np.float32(np.nan).tobytes() + data[404:], "not finite"),
        (lambda data: np.int32([1 << 20, 3, 0]).tobytes() + data[12:], "begins with its version"),
    ],
)
def test_what_a_file_of_weights_cannot_be(change, message, tmp_path):
    text = net() + conv(64) + conv(64) + conv(64) + STEM + out() + yolo()
    cfg, weights = written(tmp_path, text)
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(DarknetError, match=message) as error:
        importing.import_run(cfg, weights, tmp_path / "run")
    assert str(weights) in str(error.value) and not (tmp_path / "run").exists()


def test_a_cfg_that_lies_allocates_nothing(tmp_path):
    cfg, weights = written(tmp_path, net() + STEM + out() + yolo())
    cfg.write_text(net() + conv(1 << 19, 99) + conv(1 << 19, 99) + STEM + out() + yolo())
    with pytest.raises(DarknetError, match="are missing: it ends in"):
        importing.load(cfg, weights)


def _mutated(rng, data, text):
    """Some bytes of a file changed, dropped, doubled or cut off; of a .cfg, also whole lines and numbers."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(data) + 1)), rng.integers(6 if text else 4)
        if kind == 0 and at < len(data):
            data[at] = rng.integers(256)
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 40))]
        elif kind == 3 and rng.random() < 0.3:
            del data[at:]
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            line = int(rng.integers(len(lines)))
            lines[line] = lines[int(rng.integers(len(lines)))]
            data = bytearray(b"\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\n")
            line = int(rng.integers(len(lines)))
            number = rng.choice([b"0", b"-1", b"1e9", b"99999999999", b"2", b"7", b"nan", b"", b"3,4"])
            lines[line] = lines[line].partition(b"=")[0] + b"=" + number
            data = bytearray(b"\n".join(lines))
    return bytes(data)


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_imported_or_named(count, tmp_path):
    """An import or a clear error each time, and the way back is exact whenever it came in."""
    rng = np.random.default_rng(count)
    originals = []
    for name in ("two levels", "routes", "depthwise", "region", "dilated and shared", "unequal"):
        cfg, weights = written(tmp_path, net() + EVERY[name], name.replace(" ", "-"))
        originals.append((cfg.read_bytes(), weights.read_bytes()))
    came_in = 0
    for _ in range(count):
        cfg, weights = originals[rng.integers(len(originals))]
        if rng.random() < 0.7:
            cfg = _mutated(rng, cfg, text=True)
        else:
            weights = _mutated(rng, weights, text=False)
        (tmp_path / "m.cfg").write_bytes(cfg)
        (tmp_path / "m.weights").write_bytes(weights)
        try:
            imported = importing.load(tmp_path / "m.cfg", tmp_path / "m.weights")
        except (DarknetError, configs.ConfigError) as error:
            assert "m.cfg" in str(error) or "m.weights" in str(error), error
            continue
        came_in += 1
        models.save_model(tmp_path / "m.h5", imported.model, darknet=imported.origin)
        back, _ = importing.write(tmp_path / "out.weights", tmp_path / "m.h5", overwrite=True)
        assert back.read_bytes() == weights
        keras.backend.clear_session()
    assert came_in > count // 20
