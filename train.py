"""Train a network of a config:

python train.py CONFIG [key.sub=value ...] [--output DIR] [--resume [PATH] | --init PATH] [--profile]
torchrun --nproc_per_node=N train.py CONFIG ...

Writes to DIR (runs/<name of the config> by default): config.yaml, last.pt, best.pt and the newest checkpoints,
metrics.jsonl, TensorBoard files, curves.png. Exit codes: 0 done, 1 stopped by a fault or its state could not be saved,
2 bad input, 128 + n stopped by signal n with its state saved.
"""

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before PyTorch is loaded, see nnet/runtime/threads.py

import torch

import configs
from nnet.detection.detector import Detector
from nnet.detection.warnings import before_evaluation
from nnet.families import build_family
from nnet.runtime.console import set_up_logging, warn
from nnet.runtime.devices import choose_device, set_up_backends
from nnet.runtime.distributed import Group
from nnet.runtime.errors import exit_code
from nnet.training.data import check_batch_norm, load_training_data, summary
from nnet.training.folder import RunFolder
from nnet.training.metrics import Window
from nnet.training.start import start_from
from nnet.training.step import UpdateStep
from nnet.training.trainer import Trainer
from sample.dataset import TrainingSet
from sample.loader import make_loader
from sample.order import MicroBatches

logger = logging.getLogger("nnet.train")


def train(config: configs.Config, args: argparse.Namespace, output: Path, group: Group) -> int:
    """Train the network of a config. Returns the exit code."""
    options, data, values = config.train, config.data, configs.to_dict(config)

    # The data, and the order of the images. Bad input is reported before anything is written.
    index, val_index = load_training_data(data, options)
    # An update is made from several micro-batches: their sizes, and the indices of this process's own
    sizes, mine = group.deal(options.batch)
    order = MicroBatches(len(index), sizes, config.seed, start=0, end=options.iterations, mine=mine)
    samples = TrainingSet(index, data.input_size, config.augment, config.seed)

    # The family: a network with its targets, loss and decoding. The update step: the optimiser, and the process group
    torch.manual_seed(config.seed)
    family = build_family(index.num_classes, config.model, config.penalty, config.loss)
    check_batch_norm(family.network, sizes, data.input_size)
    update = UpdateStep(family, options, len(sizes), group)

    # What the run starts from (nothing, --init or --resume), and what it writes
    window, folder = Window(sum(sizes), group.device), RunFolder(output, options.keep, options.keep_every, group.first)
    start = start_from(args.resume, args.init, values, index, update, window, folder.snapshots, group)
    order.start = start.iteration
    logger.info(summary(family.network, index, options.iterations, sizes, group, output))
    constants = {"config": values, "categories": [list(index.category_ids), list(index.category_names)]}
    folder.open(configs.dump(config), constants, start, options.iterations, family.Terms._fields, args.profile)

    # The loop. Signals and errors are handled in nnet/training/faults.py.
    loader = make_loader(samples, order, options.workers, options.worker_timeout, group.device)
    trainer = Trainer(update, window, folder, start, index, options, group)
    if val_index:
        # Validation uses the memory format that training gave the weights.
        testing = replace(config.test, channels_last=options.channels_last)
        detector = Detector(update.tested, testing, data.input_size, group.device)
        warn(before_evaluation(val_index, detector) if options.ap_every else [])
        trainer.validate_on(val_index, detector, max(sizes))
    with trainer.guarded() as guard:
        trainer.load_batches(loader, len(mine))
        while trainer.iteration < options.iterations:
            micro_batches = trainer.wait_for_batches()
            if trainer.asked_to_stop():
                break
            with guard.uninterrupted():
                trainer.step(micro_batches)
                trainer.log()
                trainer.save_if_due()
            trainer.validate_if_due()
    return trainer.finish()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a network of a config.", epilog="Options: python -m configs CONFIG"
    )
    parser.add_argument("config", help="YAML file, as those in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that differ from the config's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/<config>)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="continue from this checkpoint, or from the newest in the output folder if there is one",
    )
    start.add_argument("--init", type=Path, metavar="PATH", help="start with the weights of this checkpoint")
    parser.add_argument("--profile", action="store_true", help="write a profiler trace of some steps to DIR/trace.json")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    args.overrides += overrides
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        config = configs.load(args.config, args.overrides)
        set_up_backends(config.runtime)
        with Group(choose_device(config.runtime.device), config.runtime.collective_timeout) as group:
            set_up_logging(group.rank)
            warn(configs.without_effect(config, args.config, args.overrides))
            return train(config, args, args.output or Path("runs") / Path(args.config).stem, group)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
