"""Every layout damaged at random, in a process with limits of memory and time: it is read, or is one clean error."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import traceback

import pytest
from conftest import environment
from scenes import MAKERS

from tfyolo.data import readers
from tfyolo.data.sources.source import DataError

_TEXT = (".txt", ".xml", ".json", ".yaml", ".csv", ".pbtxt", ".data", ".names", ".labels")
_NUMBERS = [
    "9" * 400,
    "9" * 5000,
    "-1",
    "1e999",
    "nan",
    "inf",
    "0",
    "1000000000",
    "0x10",
    "1_0",
    "٣",
    "",
    "null",
    "true",
    '"1"',
]


def _flip(rng, content):
    content = bytearray(content)
    for _ in range(rng.randrange(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _truncate(rng, content):
    return content[: rng.randrange(len(content))]


def _number(rng, content):
    """A number in a text by another, or by what is none."""
    import re

    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content))
    for match in rng.sample(found, min(len(found), rng.randrange(1, 4)))[::-1]:
        content = content[: match.start()] + rng.choice(_NUMBERS).encode() + content[match.end() :]
    return content


def _nest(rng, content):
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b"<a>", b"</a>"), (b"- ", b""), (b"{a: ", b"}")])
    at, depth = rng.randrange(len(content)), rng.choice([3, 100, 20_000])
    return content[:at] + opening * depth + content[at:] + closing * rng.choice([0, depth])


def _type(rng, content):
    """A value of a JSON by one of another type; of another text a word."""
    try:
        value = json.loads(content)
    except ValueError:
        words = content.split(b" ")
        words[rng.randrange(len(words))] = rng.choice([b"[]", b"{}", b"null", b"*x", b"&x", b"!!set", b"\0", b"<b/>"])
        return b" ".join(words)
    places = []

    def collect(node):
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(value)
    for node, key in rng.sample(places, min(len(places), rng.randrange(1, 4))):
        node[key] = rng.choice(
            [None, [], {}, "x", "\x1b", "../../etc/passwd", 1.5, -1, 10**400, True, [[]], {"a": 1}, "a\0b", "\ud800"]
        )
    return json.dumps(value).encode()


def _encode(rng, content):
    text = content.decode("utf-8", "replace")
    return text.encode(
        rng.choice(["utf-16", "utf-32", "utf-16-le", "utf-7", "gbk", "cp1252", "utf-8-sig", "cp037"]), "replace"
    )


def _declare(rng, content):
    encoding = rng.choice(["idna", "utf-7", "punycode", "gbk", "utf-32", "unicode_escape", "rot13", "x" * 1000])
    return f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + content


def _repeat(rng, content):
    return content * rng.choice([2, 50])


def _empty(rng, content):
    return rng.choice(
        [b"", b"\n", b"\0" * 50, b"version https://git-lfs.github.com/spec/v1\n", b"\xff\xfe", b"[]", b"{}"]
    )


def _lines(rng, content):
    """A line that leads elsewhere, or says much."""
    lines = content.split(b"\n")
    new = [
        "999999999 .5 .5 .2 .2",
        "../../etc/passwd",
        "/dev/zero",
        "nc: 1000000000",
        "train: &a [*a]",
        "path: /etc",
        "0 " * 5000,
    ]
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(new).encode())
    return b"\n".join(lines)


DAMAGES = [_flip, _truncate, _number, _nest, _type, _encode, _declare, _repeat, _empty, _lines]


def _replace(rng, file):
    """A file by what is none."""
    file.unlink()
    rng.choice(
        [lambda: os.mkfifo(file), lambda: file.mkdir(),
         lambda: file.symlink_to(file.name), lambda: file.symlink_to("/dev/zero"),
         lambda: file.symlink_to(".."), lambda: None]
    )()  # fmt: skip


def damage(root, seed):
    """Damages one to three files of a data set by chance; says how."""
    rng = random.Random(seed)
    done = []
    for _ in range(rng.randrange(1, 4)):
        files = sorted(
            file for file in root.rglob("*") if file.is_file() and not file.is_symlink() and file.stat().st_size
        )
        texts = [file for file in files if file.suffix in _TEXT or "record" in file.name]
        file = rng.choice(texts if texts and rng.random() < 0.85 else files)
        if rng.random() < 0.07:
            _replace(rng, file)
            done.append(f"replace {file.name}")
            continue
        way = rng.choice(DAMAGES if file.suffix in _TEXT else [_flip, _truncate, _empty, _repeat])
        file.write_bytes(way(rng, file.read_bytes())[: 32 << 20])
        done.append(f"{way.__name__[1:]} {file.name}")
    return ", ".join(done)


def read_everything(root):
    """All that is done with a data set before images are decoded. Says how it ended."""
    ended = "read"
    try:
        dataset = readers.DataSet(root)
        for split in dataset.splits:
            source = dataset.read(split)
            readers.faults(source, "training")
            json.dumps([problem._asdict() for problem in source.problems], ensure_ascii=False).encode()
            for record in source.records:
                assert record.boxes.shape == (len(record.labels), 4) and (record.labels < len(source.classes)).all()
            ended = "problems" if source.problems else ended
    except DataError:
        ended = "error"
    return ended


def work():
    """Answers each line of standard input, a folder, with one line: how reading it ended."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for line in sys.stdin:
        try:
            print(json.dumps(read_everything(json.loads(line))), flush=True)
        except BaseException:
            print(json.dumps("traceback\n" + traceback.format_exc()), flush=True)


class Worker:
    """A process that reads what it is given, started again where one hangs or dies.

    Args:
        file: the one whose work() it does.
    """

    def __init__(self, file=__file__):
        self.file, self.process = file, None

    def __call__(self, question, seconds=60):
        import selectors

        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, self.file],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            answered = selector.select(seconds)
        line = self.process.stdout.readline() if answered else ""
        if not line:
            self.close()
            return "hang" if not answered else "crash"
        return json.loads(line)

    def close(self):
        if self.process:
            with self.process as process:  # which closes its pipes
                process.kill()
            self.process = None


ROUNDS = int(os.environ.get("TFYOLO_FUZZ_ROUNDS", 60))


@pytest.mark.slow
@pytest.mark.parametrize("layout", MAKERS)
def test_whatever_is_damaged_is_a_clean_error(layout, tmp_path):
    worker, ends, wrong = Worker(), {}, []
    sound = MAKERS[layout](tmp_path / "sound")
    try:
        for seed in range(ROUNDS):
            root = tmp_path / f"damaged{seed}"
            shutil.copytree(sound, root)
            damaged = damage(root, f"{layout} {seed}")
            ended = worker(str(root))
            kind = ended.partition("\n")[0]
            ends[kind] = ends.get(kind, 0) + 1
            if kind in ("traceback", "hang", "crash"):
                wrong.append(f"seed {seed}: {damaged}: {ended}")
            else:
                shutil.rmtree(root)
    finally:
        worker.close()
    print(f"{layout}: {ends}")
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    work()
