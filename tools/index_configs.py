"""Measures every config that comes with tfyolo and writes configs/index.csv, which `tfyolo configs` shows.

It takes a quarter of an hour. The last column, the licence of published weights that fit, is kept; it is empty where
there are none.
"""

import csv
import sys

from tfyolo import config as configs


def measured(name, classes):
    """{"parameters", "flops"} of a config's network as detect and the exports run it, for so many classes."""
    from tfyolo.graph.fusion import fuse
    from tfyolo.graph.summary import summarize
    from tfyolo.model import build

    described = summarize(fuse(build(configs.load(configs.zoo(name)), [str(i) for i in range(classes)])))
    return {key: described[key] for key in ("parameters", "flops")}


def main():
    """Writes the index."""
    import keras

    known = {row["name"]: row for row in configs.index()}
    rows = []
    for name in configs.packaged_names():
        old = known.get(name, {"name": name, "classes": 80, "weights": ""})
        rows.append(old | measured(name, old["classes"]))
        keras.backend.clear_session()
        print(rows[-1], file=sys.stderr)
    with (configs.packaged() / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "classes", "parameters", "flops", "weights"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
