"""What it takes to read the annotations of many images: seconds and peak memory of the first and of the second start.

    python tools/benchmark_data.py --count 1000 --count 10000
    python tools/benchmark_data.py --format coco --count 1000000 --folder /scratch/drawn

The annotations are drawn, 7 boxes an image, in files as each format's own tools write them; images are empty files,
but for YOLO's, whose sizes only they say. Every start is a process of its own that reads the split `train`; imports are
not counted. The first start writes the index into the cache, the second takes it from there. The peak is the highest
resident memory less that of before the reading, pages of the mapped cache included.
"""

import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import click

from tfyolo.cli.app import Command

BOXES = 7  # an image
SIDE = 640  # pixels
CLASSES = [f"class {label}" for label in range(80)]
MB = 1 << 20


# --- annotations ------------------------------------------------------------------------------------------------------


def boxes_of(number):
    """[(label, x, y, width, height)] of an image, whole pixels; always the same for the same number."""
    rng = random.Random(number)
    boxes = []
    for _ in range(BOXES):
        width, height = rng.randint(8, SIDE // 2), rng.randint(8, SIDE // 2)
        boxes.append((rng.randrange(80), rng.randint(0, SIDE - width), rng.randint(0, SIDE - height), width, height))
    return boxes


def draw_coco(root, count):
    """instances_train.json, an entry a line as it comes, and empty images."""
    (root / "annotations").mkdir()
    (root / "train").mkdir()
    categories = [{"id": label + 1, "name": name, "supercategory": "thing"} for label, name in enumerate(CLASSES)]
    with (root / "annotations/instances_train.json").open("w") as file:
        file.write('{"info": {}, "licenses": [], "categories": ' + json.dumps(categories) + ', "images": [')
        for number in range(count):
            name = f"{number:012}.jpg"
            (root / "train" / name).touch()
            url = f"http://images.example.org/train/{name}"
            entry = {"license": 3, "file_name": name, "coco_url": url, "height": SIDE, "width": SIDE, "id": number}
            file.write((", " if number else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for number in range(count):
            for place, (label, x, y, w, h) in enumerate(boxes_of(number)):
                outline = [x, y, x + w, y, x + w, y + h, x, y + h]
                entry = {"segmentation": [outline], "area": w * h, "iscrowd": 0, "image_id": number}
                entry |= {"bbox": [x, y, w, h], "category_id": label + 1, "id": number * BOXES + place}
                file.write((", " if number or place else "") + json.dumps(entry))
        file.write("]}")


def draw_yolo(root, count):
    """A data .yaml, a text an image, and images of grey."""
    from PIL import Image

    (root / "images/train").mkdir(parents=True)
    (root / "labels/train").mkdir(parents=True)
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")
    encoded = io.BytesIO()
    Image.new("1", (SIDE, SIDE)).save(encoded, "PNG")
    for number in range(count):
        rows = [
            f"{label} {(x + w / 2) / SIDE:.6f} {(y + h / 2) / SIDE:.6f} {w / SIDE:.6f} {h / SIDE:.6f}"
            for label, x, y, w, h in boxes_of(number)
        ]
        (root / f"images/train/{number:012}.png").write_bytes(encoded.getvalue())
        (root / f"labels/train/{number:012}.txt").write_text("\n".join(rows) + "\n")


def draw_voc(root, count):
    """An XML an image, the list of them, and empty images."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        objects = "".join(
            f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>"
            f"<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, x, y, w, h in boxes_of(number)
        )
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        (root / f"Annotations/{number:06}.xml").write_text(
            f"<annotation><filename>{number:06}.jpg</filename>{size}{objects}</annotation>"
        )
        (root / f"JPEGImages/{number:06}.jpg").touch()
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{number:06}\n" for number in range(count)))


DRAW = {"coco": draw_coco, "yolo": draw_yolo, "voc": draw_voc}


# --- starts -----------------------------------------------------------------------------------------------------------


def start(path):
    """Reads the split `train` in this process, and prints what it took as JSON."""
    from tfyolo.data import readers

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter(), time.process_time()
    source = readers.read(path, "train")
    seconds, computed = time.perf_counter() - began[0], time.process_time() - began[1]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    print(json.dumps({"seconds": seconds, "computed": computed, "peak": peak, "images": len(source.records)}))


def started(path, cache):
    """What a process of its own prints that starts on a path with a cache folder."""
    command = [sys.executable, __file__, "--start", path]
    environment = {**os.environ, "TFYOLO_CACHE": str(cache)}
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def row_of(name, count, folder):
    """A row of the table."""
    root, cache = folder / f"{name}-{count}", folder / f"{name}-{count}-cache"
    if not root.exists():
        root.mkdir(parents=True)
        DRAW[name](root, count)
        time.sleep(3)  # files that have just been written may yet change unnoticed, and are not kept
    subprocess.run(["rm", "-rf", str(cache)], check=True)
    first, second = started(root, cache), started(root, cache)
    assert first["images"] == second["images"] == count
    kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    over = (second["peak"] - kept) / count
    return (
        f"| {name} | {count:,} | {_times(first)} | {first['peak'] / MB:,.0f} | {_times(second)} | "
        f"{second['peak'] / MB:,.0f} | {kept / MB:,.1f} | {over:,.0f} |"
    )


def _times(start):
    return f"{start['seconds']:.2f} ({start['computed']:.2f})"


@click.command(cls=Command)
@click.option("--format", "names", multiple=True, type=click.Choice(list(DRAW)), help="All, without it.")
@click.option("--count", "counts", multiple=True, type=int, default=(1_000, 10_000, 100_000), help="Images.")
@click.option("--folder", default="benchmark_data", type=Path, help="Where they are drawn; they stay there.")
@click.option("--start", "path", hidden=True)
def main(names, counts, folder, path):
    """Prints a table of first and second starts."""
    if path:
        start(path)
        return
    print(
        "| format | images | first start, s (processor) | peak, MB | second start, s (processor) | peak, MB | "
        "cache, MB | bytes an image over the cache |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in names or DRAW:
        for count in counts:
            print(row_of(name, count, folder), flush=True)


if __name__ == "__main__":
    main(prog_name="tools/benchmark_data.py")
