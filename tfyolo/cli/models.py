"""Commands about networks: configs, summary, scale."""

import os

import click

from tfyolo.cli.app import main
from tfyolo.cli.arguments import (
    Range,
    Whole,
    json_option,
    print_json,
    read_config,
    refuse_export,
    require_data,
    require_path,
)
from tfyolo.devices import start as start_tensorflow
from tfyolo.messages import counted


@main.command("configs")
@json_option
def configs_(as_json):
    """List the configs that come with tfyolo: names to train.

    \b
    tfyolo configs
    tfyolo train yolov8n data=my/images

    A file of such a name in the current folder wins. `base: yolov8n` in a YAML file of your own starts from one.
    """
    from tfyolo import config as configs

    rows = configs.zoo_rows()
    if as_json:
        print_json(rows)
    else:
        click.echo(configs.zoo_table(rows))


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
    """Summarise CONFIG's (or a run's) detector: shapes, parameters and FLOPs, stage by stage.

    \b
    tfyolo summary yolov8n --size 640 --drawing yolov8n.svg
    tfyolo summary yolov8n data=my/images --backward
    """
    refuse_export(config, "summary takes a config, or the run that the export was made from")
    of_run = os.path.isdir(config) or config.endswith(".h5")
    if of_run and (overrides or classes or size):
        raise click.UsageError(
            f"{config} is a trained model: it stays as it is; KEY=VALUE, --classes and --size are for configs"
        )
    if of_run:
        require_path(config, "a run's folder or a .h5 file")
    else:
        loaded = read_config(config, [*overrides, *([f"model.input_size={size}"] if size else [])])
        if loaded.data:
            require_data(loaded.data)
    start_tensorflow()
    from tfyolo import model as models
    from tfyolo.data.readers import class_names
    from tfyolo.graph.summary import summarize, table

    model = models.load_model(config) if of_run else models.build(loaded, class_names(loaded, classes))
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
    click.echo(table(described))
    if drawing:
        click.echo(f"drawn: {drawing}")


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
@click.option(
    "--classes", type=Whole("Classes"), metavar="K", help="How many.  [default: the config's, its data's, or 80]"
)
def scale(config, overrides, depth, width, classes):
    """Print CONFIG made deeper and wider, by the options of its parts, with its parameters and FLOPs.

    \b
    tfyolo scale yolov7 --depth 1.5 --width 1.25 > mine.yaml
    """
    loaded = read_config(config, overrides)
    start_tensorflow()
    from tfyolo import config as configs
    from tfyolo import model as models
    from tfyolo.data.readers import class_names
    from tfyolo.graph.summary import summarize, totals

    scaled = configs.load(config, [*overrides, *models.scaling(loaded, depth, width)])
    for about in (loaded, scaled):
        described = summarize(models.build(about, class_names(about, classes)))
        click.echo(
            f"# {'before: ' if about is loaded else ''}{totals(described)} with "
            f"{counted(described['classes'], 'class')}"
        )
    click.echo(configs.to_yaml(scaled), nl=False)
