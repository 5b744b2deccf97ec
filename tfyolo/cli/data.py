"""Commands about data: check-data, make-tfrecords, kmeans-anchors, demo-data."""

import json as jsons
import sys
from pathlib import Path

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import (
    DATA,
    Whole,
    check_exists,
    data_options,
    format_option,
    json_option,
    loaded_config,
    print_json,
    read_split,
    reading_options,
    split_hint,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import counted, printable

# --- data ---------------------------------------------------------------------------------------------------------------------


@main.command("check-data")
@click.argument("path")
@data_options
@format_option
@click.option("--config", help="Hold the boxes against the anchors and input size of this config or run.")
@click.option("--out", help="Folder for a summary picture and report.json.")
@json_option
def check_data(path, images, data_format, config, out, as_json):
    """Look through all of the data set at PATH: counts, sizes, and everything wrong, by file. Exit code 1 if something is."""
    check_exists(path, DATA)
    options = _boxes_of(config) if config else {}
    start_tensorflow()
    from tfyolo.data import check

    options |= {"images": images, "format": data_format, **reading_options()}
    report = check.check(path, out=out, progress=not as_json, **options)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(str(report))
        if out:
            click.echo(f"\ncheck.png and report.json lie in {printable(out)}")
    if report.errors:
        sys.exit(1)


def _config_of(path):
    """The Config of a name, a YAML file, or the folder of a run."""
    beside_weights = Path(path) / "config.yaml"
    return loaded_config(beside_weights if beside_weights.is_file() else path)


def _boxes_of(config):
    """What a config says of boxes' sizes: (h, w) of all its anchors, or None, its input size, how pictures are brought to it."""
    loaded = _config_of(config)
    anchors = loaded.model.decoder.options.get("anchors", {})
    sizes = [tuple(anchor) for level in sorted(anchors) for anchor in anchors[level]] or None
    return {"anchors": sizes, "input_size": loaded.model.input_size, "preprocess": loaded.model.preprocess}


@main.command("make-tfrecords")
@click.argument("path")
@click.argument("out")
@data_options
@format_option
@click.option(
    "--split", "chosen", multiple=True, help="Repeat for several.  [default: all, but those that only join others]"
)
@click.option("--shards", type=Whole("Count"), help="Files a split.  [default: by size, about 200 MB each]")
@click.option("--overwrite", is_flag=True, help="Replace shards that lie in OUT already.")
def make_tfrecords(path, out, images, data_format, chosen, shards, overwrite):
    """Write the data set at PATH as sharded TFRecords into OUT, pictures as the bytes they are."""
    check_exists(path, DATA)
    start_tensorflow()
    from tfyolo.data import readers, write_tfrecords

    with split_hint():
        dataset = readers.DataSet(path, images=images, format=data_format, **reading_options())
        sources = {name: dataset.read(name) for name in chosen or dataset.splits}
    for split, source in sources.items() if chosen else readers.without_unions(sources).items():
        if left_out := readers.faults(source, "the records"):
            click.echo(left_out, err=True)
        written = write_tfrecords.write(source, out, shards=shards, overwrite=overwrite)
        pictures, files = counted(written.records, "picture"), counted(len(written.files), "shard")
        click.echo(f"{split}: {pictures} in {files} in {out}")
        for file, reason in written.skipped:
            click.echo(f"left out: {file}: {reason}", err=True)


@main.command("kmeans-anchors")
@click.argument("path")
@data_options
@format_option
@click.option("--split", default="train", show_default=True, help="The split whose boxes count.")
@click.option("--config", required=True, help="Config or run whose levels, anchors a level and input size count.")
@click.option("--input-size", type=Whole("Side"), help="Side of a square input in place of the config's.")
@click.option(
    "--seed", type=Whole("Seed"), default=0, show_default=True, help="Of the first guess, which clustering improves."
)
@json_option
def kmeans_anchors(path, images, data_format, split, config, input_size, seed, as_json):
    """Find the anchors that fit the boxes of the data set at PATH best, as YAML for model.decoder.

    \b
    tfyolo kmeans-anchors my/pictures --config yolov3-tiny --input-size 320
    """
    loaded = _config_of(config)
    own = loaded.model.decoder.options.get("anchors")
    if not own:
        raise loaded.error("model.decoder.anchors", "expected a decoder with anchors, this one has none")
    check_exists(path, DATA)
    start_tensorflow()
    from tfyolo.data import anchors as clustering
    from tfyolo.model import check_size
    from tfyolo.structures import level_stride

    size = (input_size, input_size) if input_size else loaded.model.input_size
    check_size(loaded, size, max(map(level_stride, own)))
    source = read_split(path, split, images=images, format=data_format, **reading_options())
    sizes = clustering.dataset_sizes(source, size, loaded.model.preprocess)
    count = sum(len(level) for level in own.values())
    found = clustering.kmeans(sizes, count, seed=seed)
    levels, start = {}, 0
    for level in sorted(own):  # the smallest to the finest
        levels[level] = [[round(float(h), 1), round(float(w), 1)] for h, w in found[start : start + len(own[level])]]
        start += len(own[level])
    before = [anchor for level in sorted(own) for anchor in own[level]]
    fit = {
        "mean_iou": float(clustering.mean_iou(sizes, found)),
        "mean_iou_of_config": float(clustering.mean_iou(sizes, before)),
    }
    if as_json:
        print_json({"input_size": list(size), "boxes": len(sizes), "anchors": levels, **fit})
        return
    click.echo(
        f"# {counted(len(sizes), 'box')} of {source.name} {source.split} at {size[0]} x {size[1]}: mean best overlap",
        nl=False,
    )
    click.echo(f" {fit['mean_iou']:.3f}, with the config's anchors {fit['mean_iou_of_config']:.3f}")
    click.echo("anchors:  # (h, w)")
    for level, values in levels.items():
        click.echo(f"  {level}: {values}")
    click.echo(f"# on the command line: 'model.decoder.anchors={jsons.dumps(levels)}'")


@main.command("demo-data")
@click.argument("folder")
@click.option(
    "--seed", type=Whole("Seed"), default=0, show_default=True, help="Another seed is another data set of the kind."
)
def demo_data(folder, seed):
    """Draw the demo data set, shapes to be found, into FOLDER as COCO JSON."""
    from tfyolo.data import demo

    demo.write(folder, seed=seed)
    click.echo(f"the demo data set lies in {folder}")
