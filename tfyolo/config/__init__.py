"""The config: one strict schema, read from YAML with one `base:` and dotted overrides.

schema says what a config may hold, read turns files into one, explain words what is wrong with it, parts knows the
options of the parts.
"""

from tfyolo.config.foreign import check_init, foreign, is_published
from tfyolo.config.listing import zoo_rows, zoo_table
from tfyolo.config.read import from_json, load, to_json, to_yaml, with_new_names
from tfyolo.config.renamed import RENAMED_KEYS, renamed_notice
from tfyolo.config.schema import SHORT, Augment, Config, ConfigError, Data, Model, Part, Stage, Train
from tfyolo.config.zoo import index, packaged, packaged_names, zoo

__all__ = [
    "RENAMED_KEYS",
    "SHORT",
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Model",
    "Part",
    "Stage",
    "Train",
    "check_init",
    "foreign",
    "from_json",
    "index",
    "is_published",
    "load",
    "packaged",
    "packaged_names",
    "renamed_notice",
    "to_json",
    "to_yaml",
    "with_new_names",
    "zoo",
    "zoo_rows",
    "zoo_table",
]
