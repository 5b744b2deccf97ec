"""Commands about networks: configs, summary, scale."""

import os
import re

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import (
    Range,
    Whole,
    check_data_exists,
    check_exists,
    json_option,
    loaded_config,
    no_export,
    print_json,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import counted

# --- configs ------------------------------------------------------------------------------------------------------------------


@main.command("configs")
@json_option
def configs_(as_json):
    """List the configs that come with tfyolo: names to train.

    \b
    tfyolo configs
    tfyolo train yolov8n data=my/pictures

    A file of such a name in the current folder goes before. `base: yolov8n` in a YAML file of your own begins with one.
    """
    from tfyolo import config as configs

    rows = [
        {**row, "input_size": list(configs.load(configs.zoo(row["name"])).model.input_size)} for row in configs.index()
    ]
    if as_json:
        print_json(rows)
        return
    click.echo(f"{'name':<18}{'input':>11}{'parameters':>14}{'GFLOPs':>9}  published weights that fit, their licence")
    # By family, the demo's last, and by size: re takes "yolov7" of yolov7x and yolov7-w6.
    for row in sorted(
        rows, key=lambda row: (row["name"].startswith("demo"), re.match(r"\D*\d*", row["name"])[0], row["parameters"])
    ):
        size = " x ".join(map(str, row["input_size"]))
        line = (
            f"{row['name']:<18}{size:>11}{row['parameters']:>14,}{row['flops'] / 1e9:>9.1f}  {row['weights'] or 'none'}"
        )
        click.echo(line)
    click.echo(
        f"as detect and exports run them, with {rows[0]['classes']} classes (yolov1: 20); they lie in {configs.packaged()}"
    )


# --- summary ------------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--classes", type=Whole("Classes"), metavar="K", help="How many.  [default: the config's, its data's, or 80]"
)
@click.option("--size", type=Whole("Side"), metavar="PIXELS", help="Of the square input.  [default: the config's]")
@click.option(
    "--backward", is_flag=True, help="Take the data's first batch through it, and give each stage's gradient norm."
)
@click.option("--drawing", metavar="FILE", help="Draw it too: boxes for stages, arrows for tensors (.png, .svg, .pdf).")
@json_option
def summary(config, overrides, classes, size, backward, drawing, as_json):
    """Walk through CONFIG's (or a run's) detector: shapes, parameters and FLOPs, stage by stage.

    \b
    tfyolo summary yolov8n --size 640 --drawing yolov8n.svg
    tfyolo summary yolov8n data=my/pictures --backward
    """
    no_export(config, "summary takes a config, or the run that the export was made from")
    of_run = os.path.isdir(config) or config.endswith(".h5")
    if of_run and (overrides or classes or size):
        raise click.UsageError(
            f"{config} is a model that is trained: it stays as it is; KEY=VALUE, --classes and --size are for configs"
        )
    if of_run:
        check_exists(config, "a run's folder or a .h5 file")
    else:
        loaded = loaded_config(config, [*overrides, *([f"model.input_size={size}"] if size else [])])
        if loaded.data:
            check_data_exists(loaded.data)
    start_tensorflow()
    from tfyolo import model as models
    from tfyolo.graph.summary import summarize

    model = models.load_model(config) if of_run else models.build(loaded, _class_names(loaded, classes))
    described = summarize(model)
    if backward:
        from tfyolo.training.backward import first_batch_norms

        loss, norms = first_batch_norms(model)
        described["loss"] = loss
        for row in described["stages"]:
            row["gradient_norm"] = norms.get(row["stage"])
    if drawing:
        from tfyolo.visualize import plots

        plots.stages(described, drawing)
    if as_json:
        print_json(described)
        return
    last = f"{'gradient':>12}" if backward else ""
    click.echo(f"{'stage':<24}{'output':<20}{'stride':>7}{'parameters':>14}{'MFLOPs':>12}{last}   reads")
    for row in described["stages"]:
        shape, stride = " x ".join(map(str, row["output"])), f"{row['stride']:g}" if row["stride"] else ""
        line = f"{row['stage']:<24}{shape:<20}{stride:>7}{row['parameters']:>14,}{row['flops'] / 1e6:>12,.1f}"
        if backward:
            line += f"{row['gradient_norm']:>12.3g}" if row["gradient_norm"] is not None else f"{'':>12}"
        click.echo(f"{line}   {', '.join(row['inputs'])}")
    height, width = described["input_size"]
    told = [
        f"{described['candidates']:,} candidates, each 4 box values and {counted(described['classes'], 'class score')}"
    ]
    if backward:
        told.append("loss of the first batch: " + ", ".join(f"{name} {value:.4g}" for name, value in loss.items()))
    if drawing:
        told.append(f"drawn: {drawing}")
    click.echo("\n".join(told))
    click.echo(
        f"{described['name']} at {height} x {width}, {counted(described['classes'], 'class')}: {described['parameters']:,} parameters "
        f"({described['trainable']:,} trainable), {described['flops'] / 1e9:.2f} GFLOPs (2 x multiply-adds)"
    )


@main.command()
@click.argument("config")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--depth",
    type=Range(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="Times as many layers in a block.",
)
@click.option(
    "--width", type=Range(0, 100, min_open=True), default=1.0, show_default=True, help="Times as many channels."
)
@click.option("--classes", type=Whole("Classes"), metavar="K", help="How many.  [default: as of summary]")
def scale(config, overrides, depth, width, classes):
    """Print CONFIG made deeper and wider, by the options of its parts, with its parameters and FLOPs.

    \b
    tfyolo scale yolov7 --depth 1.5 --width 1.25 > mine.yaml
    """
    loaded = loaded_config(config, overrides)
    start_tensorflow()
    from tfyolo import config as configs
    from tfyolo import model as models
    from tfyolo.graph.summary import summarize

    scaled = configs.load(config, [*overrides, *models.scaling(loaded, depth, width)])
    for about in (loaded, scaled):
        described = summarize(models.build(about, _class_names(about, classes)))
        click.echo(
            f"# {'before: ' if about is loaded else ''}{described['parameters']:,} parameters ({described['trainable']:,} trainable), "
            f"{described['flops'] / 1e9:.2f} GFLOPs with {counted(described['classes'], 'class')}"
        )
    click.echo(configs.to_yaml(scaled), nl=False)


def _class_names(config, count):
    from tfyolo.data import readers

    if count:
        return [str(i) for i in range(count)]
    if config.model.classes:
        return config.model.classes
    if config.data:
        return readers.read_configured(config.data, "train").classes
    return [str(i) for i in range(80)]
