"""Imports run one way, and the public list is true."""

import ast
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tfyolo
from tfyolo.predict.detections import Detection, ImageDetections

PACKAGE = Path(tfyolo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A room, which is a folder or a file of the package, imports only from the lines above its own, and from itself.
ORDER = [
    {"errors"},
    {"libraries"},
    {"remote"},
    {"files"},
    {"structures", "messages", "peers", "folders", "origin", "protobuf"},
    {"config", "hdf5", "tflite", "devices"},
    {"checkpoint"},
    {"boxes"},
    {"graph"},
    {"nn", "visualize"},
    {"darknet"},
    {"backbones"},
    {"necks", "heads"},
    {"decoders"},
    {"assigners"},
    {"losses"},
    {"postprocess"},
    {"model"},
    {"weights", "edge"},
    {"predict"},
    {"evaluation"},
    {"exports", "training"},
    {"benchmark", "quickstart"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
DATA_MAY_IMPORT = {"errors", "structures", "files", "folders", "remote", "config", "messages", "boxes", "visualize"}
DATA_MAY_IMPORT |= {"libraries", "data"}
KNOW_DATA = {name for name, rank in RANK.items() if rank > RANK["model"]}
SPEAK_KERAS = {"boxes", "backbones", "necks", "heads", "decoders", "assigners", "losses"}


def imports(tree):
    """(line, dotted module) of every import; `from a import b` counts as a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        yield from imports(node)


def wrong(name, module):
    """Why the module or folder tfyolo.<name> may not import another; None if it may."""
    first, _, rest = module.partition(".")
    target = rest.partition(".")[0]
    if not first:
        return "written absolute, it says where it goes: from tfyolo..."
    if first in ("tensorflow", "tf_keras") and name in SPEAK_KERAS:
        return "parts speak keras.ops; what only TensorFlow can do stands in nn"
    if first != "tfyolo" or name in ("__init__", target) or target == "__version__":
        return None
    if name == "data":
        return None if target in DATA_MAY_IMPORT else f"data imports only {', '.join(sorted(DATA_MAY_IMPORT))}"
    if target == "data":
        return None if name in KNOW_DATA else "the model and its parts know no data"
    if target not in RANK:
        return "it has no place in ORDER"
    return None if RANK[target] < RANK[name] else "imports run one way, see ORDER"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    name = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert name in RANK or name in ("__init__", "data"), f"{name} has no place in ORDER"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    reasons = [(line, module, wrong(name, module)) for line, module in imports(tree)]
    assert not [f"{path}:{line}: {module}: {why}" for line, module, why in reasons if why]


@pytest.mark.parametrize(
    "name, module, allowed",
    [
        ("model", "tfyolo.losses.Dense", True),
        ("losses", "tfyolo.model.build", False),
        ("heads", "tfyolo.necks", False),
        ("backbones", "tfyolo.backbones.darknet", True),
        ("data", "tfyolo.data.readers", True),
        ("data", "tfyolo.model", False),
        ("model", "tfyolo.data.decoding", False),
        ("training", "tfyolo.data.datasets", True),
        ("heads", "tensorflow", False),
        ("heads", "keras.ops", True),
        ("model", "tensorflow", True),
        ("cli", ".training", False),
        ("cli", "tfyolo.helpers", False),
    ],
)
def test_the_rule_itself(name, module, allowed):
    assert (wrong(name, module) is None) == allowed


def test_no_module_needs_itself():
    modules = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES}
    modules = {module.removesuffix(".__init__"): path for path, module in modules.items()}
    needed = {}
    for module, path in modules.items():
        found = {name for _, name in imports(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("tfyolo.")}
        found = {name if name in modules else name.rpartition(".")[0] for name in found}
        needed[module] = found - {module, "tfyolo"}  # the public list fetches what is asked for
    needed["tfyolo"] = set()
    tuple(graphlib.TopologicalSorter(needed).static_order())  # CycleError names the circle


def private_attributes():
    """The names that Keras keeps to itself, of what networks are made of and trained by."""
    import keras

    images = keras.Input((4, 4, 1))
    network = keras.Model(images, keras.layers.Conv2D(1, 1)(images))
    parts = (network, network.layers[1], network.output, network.layers[1]._inbound_nodes[0], keras.optimizers.SGD())
    return {name for part in parts for name in dir(part) if re.match("_[a-z]", name)}


def private_uses(source, private):
    """[(line, what)] of Keras's private modules, and of private attributes of anything but self, in a source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in private and getattr(node.value, "id", "") != "self":
            yield node.lineno, node.attr
    yield from ((line, module) for line, module in imports(ast.parse(source)) if module.startswith("keras.src"))


def test_private_parts_of_keras_are_used_in_graph_alone():
    private = private_attributes()
    known = {"_keras_history", "_inbound_nodes", "_outbound_nodes", "_flatten_layers", "_all_reduce_sum_gradients"}
    assert known <= private
    found = {
        str(path.relative_to(PACKAGE)): uses
        for path in FILES
        if (uses := list(private_uses(path.read_text(encoding="utf-8"), private)))
    }
    # A namedtuple's, which Keras's history is too, is public in spite of its name.
    named = {"_replace", "_fields", "_asdict", "_make", "_field_defaults"}
    found = {path: [use for use in uses if use[1] not in named] for path, uses in found.items()}
    assert {path.partition("/")[0] for path, uses in found.items() if uses} == {"graph"}, found


def test_imports_are_found_wherever_they_stand():
    source = (
        "import a.b\nif x:\n    import c as d\ndef f():\n    from e import g, h\nfrom . import i\nfrom .j import k\n"
    )
    assert list(imports(ast.parse(source))) == [
        (1, "a.b"), (3, "c"), (5, "e.g"), (5, "e.h"), (6, "..i"), (7, ".j.k")
    ]  # fmt: skip


def test_every_public_name_is_there_and_comes_from_where_it_says():
    assert sorted(tfyolo.__all__) == sorted(tfyolo._HOMES)
    for name, (module, attribute) in tfyolo._HOMES.items():
        assert getattr(tfyolo, name) is getattr(importlib.import_module(f"tfyolo.{module}"), attribute)
    with pytest.raises(AttributeError, match=r"'tfyolo' has no attribute 'trian'; it has .*train"):
        _ = tfyolo.trian


def test_who_only_reads_the_source_finds_the_same_public_names():
    """Type checkers and editors: what stands under TYPE_CHECKING is what __getattr__ fetches."""
    tree = ast.parse(Path(tfyolo.__file__).read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {
        alias.asname or alias.name: (node.module.removeprefix("tfyolo."), alias.name)
        for node in guarded.body
        for alias in node.names
    }
    assert found == tfyolo._HOMES
    assert {*tfyolo.__all__, "__version__"} <= set(dir(tfyolo))
    assert re.fullmatch(r"\d+\.\d+\.\d+", tfyolo.__version__) and (PACKAGE / "py.typed").exists()


def signatures():
    """(name, inspect.Signature) of every public function, and of public methods of the classes that these return."""
    classes = set()
    for name in tfyolo.__all__:
        if inspect.isfunction(function := getattr(tfyolo, name)):
            yield name, inspect.signature(function)
            if inspect.isclass(returned := inspect.signature(function).return_annotation):
                classes.add(returned)
    for each in (*classes, ImageDetections, Detection):
        for name, method in vars(each).items():
            if name == "__call__" or not name.startswith("_"):
                function = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
                if inspect.isfunction(function) and each.__module__.startswith("tfyolo"):
                    yield f"{each.__name__}.{name}", inspect.signature(function)


def test_the_public_api_says_its_types():
    overloaded = {"Detector.__call__"}
    silent = []
    for name, signature in signatures():
        parameters = list(signature.parameters.values())[1 if "." in name else 0 :]  # without self
        parts = [each.annotation for each in parameters] + [signature.return_annotation]
        if name not in overloaded and inspect.Signature.empty in parts:
            silent.append(f"{name}{signature}")
    assert not silent


def test_no_module_hides_a_public_name():
    """Importing tfyolo.train, were there such a module, would put it in the function's place."""
    modules = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert not modules & set(tfyolo.__all__)


# Prints the public names whose modules can be imported where there is neither TensorFlow nor Keras.
FREE_NAMES = """
import contextlib, importlib, sys, tfyolo
sys.modules |= {"tensorflow": None, "keras": None}
for name, (module, _) in tfyolo._HOMES.items():
    with contextlib.suppress(ImportError):
        importlib.import_module(f"tfyolo.{module}")
        print(name)
"""


def test_names_that_need_no_tensorflow_do_not_import_it():
    free = subprocess.run([sys.executable, "-c", FREE_NAMES], capture_output=True, text=True, check=True).stdout.split()
    expected = {"DATA_FORMATS", "EXPORTERS", "RUNTIMES", "Exporter", "Runtime", "StopTraining", "load", "read_data"}
    assert expected | {"Error", "load_config"} == set(free)
    free.remove("load")  # it does without, and takes it where it is installed
    code = f"import sys, tfyolo\nfor name in {free}: getattr(tfyolo, name)\nsys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_tfyolo_does_not_import_tensorflow():
    code = "import sys, tfyolo, tfyolo.cli; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_tests_have_the_rooms_of_the_package():
    folders = {path.parent for path in Path(__file__).parent.rglob("test_*.py")} - {Path(__file__).parent}
    assert {folder.name for folder in folders} <= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    with (PACKAGE.parent / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["pytest"]["ini_options"]["pythonpath"]
    assert listed == ["tests", *sorted(f"tests/{folder.name}" for folder in folders)]
