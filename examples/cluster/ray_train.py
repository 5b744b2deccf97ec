"""One training on the machines of a Ray cluster: python ray_train.py demo data=/shared/images --workers 4 --gpu.

Ray sets TF_CONFIG in each of its workers; storage is a folder that all machines share.
"""

import argparse

from ray.train import FailureConfig, RunConfig, ScalingConfig, report
from ray.train.tensorflow import TensorflowTrainer


def loop(settings):
    """Trains: what each worker of Ray runs. Of the Run that comes back, the chief's folder is the same on all."""
    import tfyolo

    config = tfyolo.load_config(settings["config"], settings["overrides"])
    run = tfyolo.train(config, settings["out"], resume=True, progress=False)
    report({"folder": str(run.folder), **run.metrics})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", default="/shared/runs/a")
    parser.add_argument("--storage", default="/shared/ray")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    trainer = TensorflowTrainer(
        loop,
        train_loop_config={"config": given.config, "overrides": given.overrides, "out": given.out},
        scaling_config=ScalingConfig(num_workers=given.workers, use_gpu=given.gpu),
        run_config=RunConfig(storage_path=given.storage, failure_config=FailureConfig(max_failures=20)),
    )
    print(trainer.fit().metrics)
