"""Commands about data: check-data, make-tfrecords, kmeans-anchors, demo-data."""

import sys
from pathlib import Path

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import (
    DATA,
    Whole,
    data_options,
    format_option,
    json_option,
    print_json,
    read_config,
    reading_options,
    require_path,
    split_hint,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import counted, printable


@main.command("check-data")
@click.argument("path")
@data_options
@format_option
@click.option("--config", help="Hold the boxes against the anchors and input size of this config or run.")
@click.option("--out", help="Folder for a summary picture and report.json.")
@json_option
def check_data(path, images, data_format, config, out, as_json):
    """Check all of the data set at PATH: counts, sizes, and everything wrong, by file. Exit code 1 if something is."""
    require_path(path, DATA)
    model = _config_of(config).model if config else None
    start_tensorflow()
    from tfyolo.data import check

    options = {"images": images, "format": data_format, **reading_options()}
    if model:
        anchors = [anchor for level in model.anchors.values() for anchor in level]
        options |= {"anchors": anchors, "input_size": model.input_size, "preprocess": model.preprocess}
    report = check.check(path, out=out, progress=not as_json, **options)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(str(report))
        if out:
            click.echo(f"\ncheck.png and report.json are in {printable(out)}")
    if report.errors:
        sys.exit(1)


def _config_of(path):
    """The Config of a name, a YAML file, or the folder of a run."""
    beside_weights = Path(path) / "config.yaml"
    return read_config(beside_weights if beside_weights.is_file() else path)


@main.command("make-tfrecords")
@click.argument("path")
@click.argument("out")
@data_options
@format_option
@click.option(
    "--split", "chosen", multiple=True, help="Repeat for several.  [default: all, but those that only join others]"
)
@click.option("--shards", type=Whole("Count"), help="Files a split.  [default: by size, about 200 MB each]")
@click.option("--overwrite", is_flag=True, help="Replace shards that are in OUT already.")
@click.option("--check", is_flag=True, help="Decode every image, and leave out what cannot be.")
def make_tfrecords(path, out, images, data_format, chosen, shards, overwrite, check):
    """Write the data set at PATH as sharded TFRecords into OUT, the images byte for byte.

    Interrupted, the same command goes on behind the last whole shard.
    """
    require_path(path, DATA)
    start_tensorflow()
    from tfyolo.data import readers, write_tfrecords

    with split_hint():
        dataset = readers.DataSet(path, images=images, format=data_format, **reading_options())
        sources = {name: dataset.read(name) for name in chosen or dataset.splits}
    sources = sources if chosen else readers.without_unions(sources)
    for source in sources.values():
        write_tfrecords.check_shards(source, shards)
    for split, source in sources.items():
        if left_out := readers.faults(source, "the records"):
            click.echo(left_out, err=True)
        written = write_tfrecords.write(source, out, shards=shards, overwrite=overwrite, check=check)
        images, files = counted(written.records, "image"), counted(len(written.files), "shard")
        click.echo(f"{split}: {images} in {files} in {out}")
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
    tfyolo kmeans-anchors my/images --config yolov3-tiny --input-size 320
    """
    loaded = _config_of(config)
    own = loaded.model.anchors
    if not own:
        raise loaded.error("model.decoder.anchors", "expected a decoder with anchors, this one has none")
    require_path(path, DATA)
    start_tensorflow()
    from tfyolo.data import anchors as clustering
    from tfyolo.data import readers
    from tfyolo.model import check_size
    from tfyolo.structures import level_stride

    size = (input_size, input_size) if input_size else loaded.model.input_size
    check_size(loaded, size, max(map(level_stride, own)))
    with split_hint():
        source = readers.read(path, split, images=images, format=data_format, **reading_options())
    fit = clustering.fit_anchors(source, own, size, preprocess=loaded.model.preprocess, seed=seed)
    if as_json:
        print_json(fit.to_json())
    else:
        click.echo(str(fit))


@main.command("demo-data")
@click.argument("folder")
@click.option(
    "--seed", type=Whole("Seed"), default=0, show_default=True, help="Another seed is another data set of the kind."
)
def demo_data(folder, seed):
    """Draw the demo data set, shapes to be found, into FOLDER as COCO JSON."""
    from tfyolo.data import demo

    demo.write(folder, seed=seed)
    click.echo(f"the demo data set is in {folder}")
