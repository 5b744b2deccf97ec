"""What every export carries about itself, and how it is checked."""

from tfyolo import config as configs
from tfyolo.errors import CheckpointError
from tfyolo.files import parse_json

# The file of model.describe() inside an export: in a SavedModel's assets.extra, in the zip at a TFLite file's end.
EXPORT_META = "tfyolo.json"


def described_by(path, text):
    """Reads what an export says about itself.

    Args:
        path: of the export, for errors.
        text: bytes of its EXPORT_META.

    Returns:
        (config, classes, {"nms", "precision"} of its exports.Target, checksum or None).

    Raises:
        CheckpointError: it is not as tfyolo wrote it.
        ConfigError: its config is not.
    """
    try:
        meta = parse_json(text)
        config, classes, target = configs.from_json(meta["config"]), meta["classes"], meta.get("export", {})
        if not all(isinstance(name, str) for name in [*classes, *target.values()]):
            raise TypeError("its classes have no names")
    except configs.ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its {EXPORT_META} is not as tfyolo wrote it; export it again") from error
    return config, classes, {"nms": "builtin", "precision": "float32"} | target, meta.get("sha256")


def check_no_options(path, options):
    """Raises CheckpointError if options of post-processing are given for an export, which has its own."""
    if options:
        raise CheckpointError(
            f"{path}: an export has its post-processing inside; {', '.join(options)} can only be set on a run"
        )


OTHER_BYTES = "its bytes are not those that were exported: damaged, or changed since. Copy it again, or export it again"
