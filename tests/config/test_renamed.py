"""Renamed keys of the config and options of the command line: the old name works, with a notice; saved, without."""

import json

import click
import pytest
from conftest import load_config

from tfyolo import config as configs
from tfyolo.cli import app
from tfyolo.config import RENAMED_KEYS

VALUES = {"train.pictures": 7, "train.quantize": True}


def at(config, key):
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


@pytest.fixture(params=RENAMED_KEYS.items(), ids=lambda pair: pair[0])
def renamed(request):
    """(old key, new key, a value that is not the default)."""
    (old, new) = request.param
    assert at(load_config("demo"), new) != VALUES[old]
    return old, new, VALUES[old]


def written(path, **sections):
    path.write_text(json.dumps(sections))
    return path


def test_an_old_key_in_a_file_works_with_a_notice_that_says_where(renamed, tmp_path, capsys):
    old, new, value = renamed
    section, key = old.split(".")
    file = written(tmp_path / "old.yaml", base="demo", **{section: {key: value}})
    assert at(configs.load(file), new) == value
    notice = f"{file}:1: {old} is now called {new}; the old name goes with the next version\n"
    assert capsys.readouterr() == ("", notice)
    over = written(tmp_path / "over.yaml", base=str(file))
    assert at(configs.load(over), new) == value and capsys.readouterr().err == notice


def test_an_old_key_as_an_override_works_with_a_notice_and_goes_over_the_file(renamed, tmp_path, capsys):
    old, new, value = renamed
    section, key = new.split(".")
    file = written(tmp_path / "new.yaml", base="demo", **{section: {key: at(load_config("demo"), new)}})
    assert at(configs.load(file, [f"{old}={json.dumps(value)}"]), new) == value
    assert f"{old} is now called {new}; the old name goes with the next version" in capsys.readouterr().err
    section, key = old.split(".")
    assert at(configs.load(file, [f"{section}={json.dumps({key: value})}"]), new) == value
    assert capsys.readouterr().err.count("is now called") == 1


def test_what_is_wrong_with_an_old_key_is_said_where_it_stands(renamed, tmp_path):
    old, new, _ = renamed
    section, key = old.split(".")
    file = written(tmp_path / "old.yaml", base="demo", **{section: {key: "many"}})
    with pytest.raises(configs.ConfigError, match=rf"old\.yaml:1: {new}: expected .*, received 'many'"):
        configs.load(file)


def test_both_names_in_one_file_are_an_error(renamed, tmp_path):
    old, new, value = renamed
    sections = {}
    for name in (old, new):
        section, key = name.split(".")
        sections.setdefault(section, {})[key] = value
    file = written(tmp_path / "both.yaml", base="demo", **sections)
    with pytest.raises(configs.ConfigError, match=f"{old}: is now called {new}, which is given, too; remove {old}"):
        configs.load(file)


def test_what_was_saved_under_an_old_key_is_loaded_in_silence(renamed, tmp_path, capsys):
    old, new, value = renamed
    values = json.loads(configs.to_json(load_config("demo")))
    for name in (new, old):
        section, key = name.split(".")
        values[section].pop(key, None)
    values[section][key] = value
    assert at(configs.from_json(json.dumps(values)), new) == value
    (tmp_path / "last.h5").write_bytes(b"")
    assert at(configs.load(written(tmp_path / "config.yaml", **values)), new) == value
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("old, new", app.RENAMED_OPTIONS.items())
def test_an_old_option_works_with_a_notice(old, new, capsys):
    taking = [each for each in app.main.commands.values() if any(new in option.opts for option in each.params)]
    assert taking and not any(old in option.opts for each in app.main.commands.values() for option in each.params)
    for each in taking:
        name = next(option.name for option in each.params if new in option.opts)
        required = ["x" for argument in each.params if isinstance(argument, click.Argument) and argument.required]
        for words in ([old, "7"], [f"{old}=7"]):
            context = each.make_context(each.name, [*required, *words])
            assert str(context.params[name]) == "7"
            assert capsys.readouterr().err == f"{old} is now called {new}; the old name goes with the next version\n"
        assert old not in each.get_help(context)
