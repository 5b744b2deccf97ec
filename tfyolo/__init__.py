"""tfyolo: one-stage object detectors on TensorFlow and Keras.

run = tfyolo.train(tfyolo.load_config("yolov3-tiny", ["data=my/images"]))
detector = tfyolo.load(run.folder)
found = detector("photo.jpg")
tfyolo.evaluate(run.folder, split="test")
tfyolo.export(run.folder)
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ASSIGNERS",
    "BACKBONES",
    "DATA_FORMATS",
    "DECODERS",
    "EXPORTERS",
    "HEADS",
    "NECKS",
    "OBJECTIVES",
    "POSTPROCESS",
    "RUNTIMES",
    "Error",
    "Exporter",
    "Runtime",
    "StopTraining",
    "build",
    "evaluate",
    "export",
    "fuse",
    "import_darknet",
    "import_torch",
    "load",
    "load_config",
    "load_model",
    "quick",
    "read_data",
    "train",
    "verify",
]

# TensorFlow takes seconds to import: a public name is fetched when it is first asked for.
_HOMES = {
    "ASSIGNERS": ("assigners", "ASSIGNERS"),
    "BACKBONES": ("backbones", "BACKBONES"),
    "DATA_FORMATS": ("data.sources.formats", "FORMATS"),
    "DECODERS": ("decoders", "DECODERS"),
    "EXPORTERS": ("exports.targets", "EXPORTERS"),
    "Error": ("errors", "Error"),
    "Exporter": ("exports.targets", "Exporter"),
    "HEADS": ("heads", "HEADS"),
    "NECKS": ("necks", "NECKS"),
    "OBJECTIVES": ("losses", "OBJECTIVES"),
    "POSTPROCESS": ("postprocess", "POSTPROCESS"),
    "StopTraining": ("training.callbacks", "StopTraining"),
    "RUNTIMES": ("predict.runtimes", "RUNTIMES"),
    "Runtime": ("predict.runtimes", "Runtime"),
    "build": ("model", "build"),
    "evaluate": ("evaluation.run", "evaluate"),
    "export": ("exports.export", "export"),
    "fuse": ("graph.fusion", "fuse"),
    "import_darknet": ("weights.darknet.importing", "import_run"),
    "import_torch": ("weights.torch.importing", "import_run"),
    "load": ("predict.load", "load"),
    "load_config": ("config", "load"),
    "load_model": ("model", "load_model"),
    "read_data": ("data.readers", "read"),
    "quick": ("quickstart.quick", "quick"),
    "train": ("training.train", "train"),
    "verify": ("weights.verify", "verify"),
}
# The modules of _HOMES that need no TensorFlow.
_LIGHT = {
    "config",
    "data.readers",
    "data.sources.formats",
    "errors",
    "exports.targets",
    "predict.runtimes",
    "training.callbacks",
}


if TYPE_CHECKING:  # the same for those who read the source without running it
    from tfyolo.assigners import ASSIGNERS
    from tfyolo.backbones import BACKBONES
    from tfyolo.config import load as load_config
    from tfyolo.data.readers import read as read_data
    from tfyolo.data.sources.formats import FORMATS as DATA_FORMATS
    from tfyolo.decoders import DECODERS
    from tfyolo.errors import Error
    from tfyolo.evaluation.run import evaluate
    from tfyolo.exports.export import export
    from tfyolo.exports.targets import EXPORTERS, Exporter
    from tfyolo.graph.fusion import fuse
    from tfyolo.heads import HEADS
    from tfyolo.losses import OBJECTIVES
    from tfyolo.model import build, load_model
    from tfyolo.necks import NECKS
    from tfyolo.postprocess import POSTPROCESS
    from tfyolo.predict.load import load
    from tfyolo.predict.runtimes import RUNTIMES, Runtime
    from tfyolo.quickstart.quick import quick
    from tfyolo.training.callbacks import StopTraining
    from tfyolo.training.train import train
    from tfyolo.weights.darknet.importing import import_run as import_darknet
    from tfyolo.weights.torch.importing import import_run as import_torch
    from tfyolo.weights.verify import verify


def __dir__():
    return sorted([*globals(), *__all__])


def __getattr__(name):
    import importlib.util

    if name not in _HOMES:
        raise AttributeError(f"module 'tfyolo' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    # Imported by such a module, TensorFlow would print a page of notices.
    if module not in _LIGHT and importlib.util.find_spec("tensorflow"):
        from tfyolo.libraries import import_tensorflow

        import_tensorflow()
    from tfyolo.libraries import missing_explained

    with missing_explained(f"tfyolo.{name}"):
        value = globals()[name] = getattr(importlib.import_module(f"tfyolo.{module}"), attribute)
    return value
