"""Names and options of parts, as checked before TensorFlow is imported, against the tables and builders themselves."""

import importlib
import inspect

import pytest
from conftest import load_config

import tfyolo
from tfyolo.config import ConfigError, parts
from tfyolo.training import train as training

# Annotations of types that their module makes itself, which are checked once it is imported.
OWN_TYPES = {("backbone", "darknet_cfg", "sections")}


@pytest.mark.parametrize("kind", parts.TABLES)
def test_what_is_read_from_the_source_is_what_is_imported(kind):
    module, table = parts.TABLES[kind]
    imported, read = getattr(importlib.import_module(f"tfyolo.{module}"), table), parts._written(module, table)
    assert list(read) == list(imported) and parts.builders(kind) is imported
    for name, builder in imported.items():
        true, found = parts.options_of(builder), parts.options_of(read[name])
        assert list(found) == list(true), name
        for option, parameter in true.items():
            assert (found[option].default is parameter.empty) == (parameter.default is parameter.empty)
            if (kind, name, option) in OWN_TYPES:
                assert found[option].annotation is inspect.Parameter.empty
            else:
                assert found[option].annotation == parameter.annotation, (name, option)


def test_every_table_of_parts_is_one_of_them():
    """By its place in the config: what is a Part there has a table here."""
    fields = {**tfyolo.load_config("demo").model.__class__.model_fields, "optimizer": None}
    kinds = {name for name, field in fields.items() if field is None or "Part" in str(field.annotation)}
    assert kinds == set(parts.TABLES)


def test_a_part_of_ones_own_is_known_where_it_was_added(monkeypatch):
    def mine(images, *, depth: int = 3, name="backbone"):
        return None

    config = load_config("demo", "model.backbone={name: mine, depth: 4}")
    with pytest.raises(ConfigError, match=r"model\.backbone\.name: expected one of darknet_v1, .* received 'mine'"):
        parts.check(config)
    monkeypatch.setitem(tfyolo.BACKBONES, "mine", mine)
    parts.check(config)
    with pytest.raises(ConfigError, match=r"model\.backbone\.depth: expected a whole number, received 'deep'"):
        parts.check(load_config("demo", "model.backbone={name: mine, depth: deep}"))


def test_parts_are_checked_before_data_are_read(tmp_path):
    config = load_config("demo", "model.neck=pam", f"data={tmp_path}/nowhere")
    with pytest.raises(ConfigError, match=r"model\.neck\.name: .* did you mean pan\?"):
        training.train(config, tmp_path / "run")
