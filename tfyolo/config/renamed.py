"""Keys of the config that have a new name.

The old one works for one version, with a notice; in what was saved, without.
"""

# {old: new}, each a section and a key.
RENAMED_KEYS = {
    "train.pictures": "train.draw_images",
    "train.quantize": "model.quantize",
}


def renamed_notice(old: str, new: str) -> str:
    """What to say to somebody who has written an old name, of a key or an option."""
    return f"{old} is now called {new}; the old name goes with the next version"


def rename_keys(config: dict, section_of=lambda value: value, new_section=lambda entries, value: entries):
    """Moves the values of old keys to their new ones, in place.

    Args:
        config: sections by their names; dicts, or whatever section_of makes dicts of.
        section_of: a section's dict, of its value in the config; what is no dict is left alone.
        new_section: the value of a section that is not there yet, of its dict and of the value that moves there.

    Yields:
        (old key, new key, the value, whether the new key was there already: then it has been replaced).
    """
    for old, new in RENAMED_KEYS.items():
        (old_section, old_key), (section, key) = old.split("."), new.split(".")
        entries = section_of(config[old_section]) if old_section in config else None
        if not isinstance(entries, dict) or old_key not in entries:
            continue
        value = entries.pop(old_key)
        if section not in config:
            config[section] = new_section({}, value)
        entries = section_of(config[section])
        if isinstance(entries, dict):  # else the schema reports that it is no section
            there = key in entries
            entries[key] = value
            yield old, new, value, there
