"""tfyolo: one-stage object detectors on TensorFlow and Keras.

detector = tfyolo.load("runs/x")
found = detector("photo.jpg")
run = tfyolo.train("configs/yolov3-tiny.yaml")
"""

__all__ = [
    "ASSIGNERS",
    "BACKBONES",
    "DECODERS",
    "HEADS",
    "NECKS",
    "OBJECTIVES",
    "build",
    "evaluate",
    "export",
    "fuse",
    "import_darknet",
    "import_torch",
    "load",
    "load_config",
    "load_model",
    "read_data",
    "train",
    "verify",
]

# TensorFlow takes seconds to import: what is public is fetched when it is first asked for.
_HOMES = {
    "ASSIGNERS": ("assigners", "ASSIGNERS"),
    "BACKBONES": ("backbones", "BACKBONES"),
    "DECODERS": ("decoders", "DECODERS"),
    "HEADS": ("heads", "HEADS"),
    "NECKS": ("necks", "NECKS"),
    "OBJECTIVES": ("losses", "OBJECTIVES"),
    "build": ("model", "build"),
    "evaluate": ("evaluation", "evaluate"),
    "export": ("exports", "export"),
    "fuse": ("fusion", "fuse"),
    "import_darknet": ("weights.darknet", "import_run"),
    "import_torch": ("weights.torch", "import_run"),
    "load": ("detect", "load"),
    "load_config": ("config", "load"),
    "load_model": ("model", "load_model"),
    "read_data": ("data.readers", "read"),
    "train": ("training", "train"),
    "verify": ("weights.verify", "verify"),
}


def __getattr__(name):
    import importlib.util

    if name not in _HOMES:
        raise AttributeError(f"module 'tfyolo' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    if module != "config" and importlib.util.find_spec(
        "tensorflow"
    ):  # what else imports it does so with a page of notices
        from tfyolo.messages import import_tensorflow

        import_tensorflow()
    value = globals()[name] = getattr(importlib.import_module(f"tfyolo.{module}"), attribute)
    return value
