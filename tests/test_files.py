"""Addresses that TensorFlow does not know are refused wherever a path is asked for, and nothing is made of them."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import tfyolo
from tfyolo import folders
from tfyolo.cli import main
from tfyolo.config import ConfigError
from tfyolo.data import check, demo, write_tfrecords
from tfyolo.data.readers import DataSet
from tfyolo.data.sources.source import DataError
from tfyolo.files import NotLocalError, cache_folder, elsewhere, local
from tfyolo.predict.media import SourceError, find_images
from tfyolo.training.runs import run_folder

ADDRESSES = {
    "gs://pets/train": "gcsfuse",
    "s3://pets/train": "rclone mount",
    "hdfs://host:9000/pets": "rclone mount",
    "https://example.org/pets.zip": "download it",
    "file:///data/pets": "without file://",
    "GS://pets": "gcsfuse",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_none_of_this_machines_paths(address):
    for given in (address, Path(address)):
        assert ADDRESSES[address] in elsewhere(given) and str(given) in elsewhere(given)
        with pytest.raises(NotLocalError, match="expected a file or folder of this machine, received the address"):
            local(given)


@pytest.mark.parametrize("path", ["pets", "/data/pets", "C:/pets", "C:\\pets", "a b://x", "a:b", "gs:", "./gs://x", ""])
def test_a_path_is_one(path):
    assert elsewhere(path) is None and local(path) == Path(path)


CALLS = {
    "data": (lambda address: DataSet(address), DataError),
    "data.images": (lambda address: DataSet(".", images=address), DataError),
    "read_data": (lambda address: tfyolo.read_data(address), DataError),
    "detect": (lambda address: find_images([address]), SourceError),
    "out of training": (lambda address: run_folder(None, address, False), NotLocalError),
    "out": (lambda address: folders.new(address, "run").__enter__(), NotLocalError),
    "out of check-data": (lambda address: check.check(".", out=address), NotLocalError),
    "out of make-tfrecords": (lambda address: write_tfrecords.write(None, address), NotLocalError),
    "out of demo-data": (lambda address: demo.write(address), NotLocalError),
    "out of evaluate": (lambda address: tfyolo.evaluate("run", out=address), NotLocalError),
    "out of export": (lambda address: tfyolo.export("run", address), NotLocalError),
    "config, data": (lambda address: tfyolo.load_config("demo", [f"data={address}"]), ConfigError),
    "config, images": (lambda address: tfyolo.load_config("demo", ["data=x", f"data.images={address}"]), ConfigError),
    "config, init": (lambda address: tfyolo.load_config("demo", ["data=x", f"init={address}"]), ConfigError),
}


@pytest.mark.parametrize("call, error", CALLS.values(), ids=CALLS)
def test_python_refuses_it(call, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match="received the address s3://pets/x: mount the bucket"):
        call("s3://pets/x")
    assert not os.listdir(tmp_path)


COMMANDS = [
    ["train", "demo", "data=s3://pets"],
    ["train", "demo", "data=x", "--out", "s3://pets/run"],
    ["train", "s3://pets/run", "--resume"],
    ["quick", "data=s3://pets"],
    ["check-data", "s3://pets"],
    ["check-data", "x", "--out", "s3://pets"],
    ["make-tfrecords", "x", "s3://pets"],
    ["kmeans-anchors", "s3://pets", "--config", "demo"],
    ["detect", "s3://run", "x.jpg"],
    ["detect", "run", "x.jpg", "s3://pets/y.jpg"],
    ["evaluate", "run", "--data", "s3://pets"],
    ["export", "run", "--out", "s3://pets"],
    # Where TensorFlow's own do not serve, either:
    ["quick", "data=x", "--out", "gs://pets"],
    ["make-tfrecords", "x", "gs://pets"],
    ["detect", "run", "x.jpg", "--out", "gs://pets"],
    ["demo-data", "gs://pets"],
    ["import", "gs://pets/yolov4.cfg", "gs://pets/yolov4.weights", "--out", "x"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_refuse_it_at_once(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, command)
    way = "gcsfuse BUCKET FOLDER" if any("gs://" in word for word in command) else "mount-s3 BUCKET FOLDER"
    assert result.exit_code == 2 and way in result.output.replace("\n", " "), result.output
    assert not os.listdir(tmp_path)


def test_what_annotations_call_images_may_be_an_address(tmp_path):
    """As before: Label Studio and AutoML write them, and files are found by the ends of their names."""
    content = {"images": [{"id": 1, "file_name": "gs://pets/one.jpg", "height": 9, "width": 9}]}
    content |= {"annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    (tmp_path / "one.jpg").touch()
    assert DataSet(tmp_path).read("all").records[0].path == str(tmp_path / "one.jpg")


def test_the_cache_folder_is_no_address(monkeypatch):
    monkeypatch.setenv("TFYOLO_CACHE", "gs://bucket/cache")
    with pytest.raises(NotLocalError, match=r"gs://bucket/cache.*gcsfuse"):
        cache_folder()
