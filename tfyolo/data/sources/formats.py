"""The table of data formats.

    def find(place: Place) -> Candidate | None      # its splits, each a function without arguments that reads a Source
    FORMATS["mine"] = Format(find, "mine      a line on the layout that it finds")

A format of your own is such an entry, made from any file that is imported before data is read. Of candidates that score
the same, the first format of the table is taken.
"""

from tfyolo.data.sources import coco, csv, labelme, tfrecord, voc, yolo

FORMATS = {
    "tfrecord": tfrecord.FORMAT,
    "coco": coco.FORMAT,
    "voc": voc.FORMAT,
    "yolo": yolo.FORMAT,
    "labelme": labelme.FORMAT,
    "csv": csv.FORMAT,
}
