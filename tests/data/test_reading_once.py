"""How often files are read: recognition takes a sample, reading takes each file once."""

import pytest
from scenes import write_json, write_text
from test_quirks import ROWS, encoded, image, thing

from tfyolo.data.readers import DataSet
from tfyolo.data.sources import text


def many_yolo(root, stem, split):
    image(root / f"images/{split}/{stem}.jpg")
    write_text(root / f"labels/{split}/{stem}.txt", *ROWS)


def many_voc(root, stem, split):
    image(root / f"{split}/{stem}.jpg")
    encoded(
        root / f"{split}/{stem}.xml",
        f"<annotation><filename>{stem}.jpg</filename>{thing('cat', 2, 2, 9, 9)}</annotation>",
    )


def many_labelme(root, stem, split):
    image(root / f"{split}/{stem}.jpg")
    shape = {"label": "cat", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    write_json(root / f"{split}/{stem}.json", {"shapes": [shape], "imagePath": f"{stem}.jpg"})


@pytest.mark.parametrize("make", [many_yolo, many_voc, many_labelme], ids=lambda make: make.__name__)
def test_recognition_reads_a_sample_and_reading_each_file_once(make, tmp_path, monkeypatch):
    for number in range(120):
        make(tmp_path, f"{number:03}", "train" if number < 90 else "val")
    read, real = [], text.read_regular
    monkeypatch.setattr(text, "read_regular", lambda path, most=None: read.append(str(path)) or real(path, most))
    dataset = DataSet(tmp_path)
    assert len(read) <= 45  # every format samples some
    for split in dataset.splits:
        dataset.read(split)
    assert 120 <= len(read) <= 165
