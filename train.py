"""Train a network of a config: python train.py CONFIG [key.sub=value ...] [--output DIR] [--resume [PATH]]

Writes to DIR (runs/<name of the config> by default): config.yaml, last.pt and the newest snapshots, metrics.jsonl,
TensorBoard's files, curves.png. Exit codes: 0 done, 1 the run had to stop, 2 bad input, 128 + n stopped by signal n
with its state saved.
"""

import argparse
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import configs
from db import CocoIndex, DataError, evaluate, to_results
from models import build_network
from models.losses import LossWeights
from nnet import checkpoint
from nnet.distributed import Group
from nnet.experiment import choose_device, detect_all, exit_code, load_split, make_folder, same_categories, split_files
from nnet.inference import Detector, DetectSettings
from nnet.log import LOSS_TERMS, NoLog, RunLog, draw_curves
from nnet.training import (
    Diverged,
    Objective,
    RunError,
    Signals,
    Unreadable,
    learning_rate,
    random_state,
    restore_random_state,
    train_step,
    validation_loss,
)
from sample import Augment, MicroBatches, Penalty, TrainingSet, make_loader, validation_batches

ADVICE = "try a lower train.lr, or train.warmup; last.pt in the output folder has the last good state, if any was saved"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network of a config.", epilog="Options: configs/schema.py")
    parser.add_argument("config", help="YAML file, as those in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that differ from the config's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/<config>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on from this checkpoint, or from the newest in the output folder, where there is one",
    )
    return parser.parse_intermixed_args(argv)


def train(config: configs.Config, output: Path, resume: str | None) -> int:
    c = config.train
    if c.threads:
        torch.set_num_threads(c.threads)
    with Group(choose_device(c.device)) as group:
        return run(config, output, resume, group)


def run(config: configs.Config, output: Path, resume: str | None, group: Group) -> int:
    # What can be wrong is looked at first: nothing is written before the inputs are known to be good.
    c, device = config.train, group.device
    index = load_split(config.data.root, **asdict(config.data.train))
    val_index = None
    if c.validate_every or c.ap_every:
        val_index = load_split(config.data.root, **asdict(config.data.val))
        same_categories(val_index, index.category_ids, index.category_names, "data.train", "data.val")
    mine = group.deal(c.batch)
    batches = MicroBatches(len(index), c.batch, config.seed, 0, c.iterations, mine)

    torch.manual_seed(config.seed)
    network = build_network(index.num_classes, **asdict(config.model))
    found = find_state(output, resume)
    start = 0
    if found:
        path, state = found
        same_categories(index, *state["categories"], f"the run of {path}", "data.train")
        checkpoint.load_weights(network, state["model"], path)
        start = batches.start = state["iteration"]
    network.to(device)
    if c.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=c.lr)
    if found:
        optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])
        if group.first:
            print(f"resumed from {path} after {start} of {c.iterations} iterations")
        if start >= c.iterations:
            return 0
    parallel = group.wrap(network)

    penalty, weights = Penalty(**asdict(config.penalty)), LossWeights(**asdict(config.loss))
    objective = Objective(index.num_classes, penalty, weights, c.channels_last)
    size = tuple(config.data.input_size)
    augment = Augment(**asdict(config.augment))
    loader = make_loader(TrainingSet(index, size, augment, config.seed), batches, c.workers, c.worker_timeout, device)

    if group.first:
        make_folder(output)
        (output / "config.yaml").write_text(configs.dump(config))
        parameters = sum(p.numel() for p in network.parameters())
        print(
            f"{parameters:,} parameters, {index.num_classes} classes, {len(index):,} images with {len(index.boxes):,} "
            f"objects; {c.iterations:,} iterations of {sum(c.batch)} images on {device}; output in {output}"
        )
    log = RunLog(output, start, c.iterations) if group.first else NoLog()

    def snapshot(iteration: int) -> None:
        if not group.first:
            return
        if not all(p.isfinite().all() for p in network.parameters()):
            raise Diverged(f"the weights are not finite after iteration {iteration}: {ADVICE}")
        state = {
            "iteration": iteration,
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
            "config": configs.to_dict(config),
            "categories": [list(index.category_ids), list(index.category_names)],
        }
        save_snapshot(output, state, c.keep)

    unreadable = Unreadable(len(index))
    finished, waited, sums, since, clock = start, 0.0, 0, start, time.perf_counter()
    signals = Signals()
    try:
        stream = iter(loader)
        signals.watch_workers()
        for iteration in range(start + 1, c.iterations + 1):
            lr = learning_rate(iteration - 1, c.lr, c.lr_drops, c.lr_factor, c.warmup)
            for parameters in optimizer.param_groups:
                parameters["lr"] = lr

            before = time.perf_counter()
            micro_batches = [next(stream) for _ in mine]
            for batch in micro_batches:
                for line in unreadable.add(batch):
                    log.say(line)
            waited += time.perf_counter() - before

            with signals.held():
                on_device = [batch.to(device) for batch in micro_batches]
                sums += train_step(parallel, optimizer, objective, on_device, len(c.batch), group.size)
                finished = iteration
            log.step()

            stopping = group.any(signals.stop is not None)
            last = iteration == c.iterations or stopping
            if iteration % c.log_every == 0 or last:
                values = (group.sum(sums) / (iteration - since)).tolist()
                terms = dict(zip(LOSS_TERMS, values, strict=True))
                if not all(map(math.isfinite, values)):
                    raise Diverged(f"loss not finite in iterations {since + 1} to {iteration} ({terms}): {ADVICE}")
                seconds = time.perf_counter() - clock
                speed, wait = (iteration - since) * sum(c.batch) / seconds, waited / seconds
                log.row(iteration, **terms, lr=lr, images_per_second=speed, data_wait=wait)
                log.show(terms, lr=f"{lr:.2g}", img_s=f"{speed:.1f}", wait=f"{wait:.0%}")
                waited, sums, since, clock = 0.0, 0, iteration, time.perf_counter()

            pause = time.perf_counter()
            if group.first and not stopping and due(iteration, c.validate_every, c.iterations):
                shown = val_index.limit(c.validate_images)
                terms = measure_loss(network, objective, shown, size, c.worker_timeout, max(c.batch), device)
                log.row(iteration, **{f"val_{name}": value for name, value in terms.items()})
                log.say(f"iteration {iteration}: validation loss {terms['loss']:.4g}")
            if group.first and not stopping and due(iteration, c.ap_every, c.iterations):
                figures = measure_ap(network, config, val_index, device, log)
                log.row(iteration, **{f"val_{name}": value for name, value in figures.items()})
                log.say(f"iteration {iteration}: validation AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}")
            if due(iteration, c.snapshot_every, c.iterations) or last:
                snapshot(iteration)
            clock += time.perf_counter() - pause  # not part of the training speed
            if stopping:
                break
    except (DataError, RuntimeError) as error:
        reason = stopping_reason(error)
        if finished > start and not isinstance(error, Diverged):
            snapshot(finished)
            reason += f". The state after iteration {finished} is saved: --resume goes on from it"
        raise RunError(reason) from error
    finally:
        signals.restore()
        log.close()
        if group.first:
            draw_curves(output)
    if finished < c.iterations:
        number = signals.stop or signal.SIGTERM
        if group.first:
            print(f"stopped by signal {number} after iteration {finished}: --resume goes on from {output / 'last.pt'}")
        return 128 + number
    if group.first:
        print(f"done: weights in {output / 'last.pt'}, curves in {output / 'curves.png'}")
    return 0


def due(iteration: int, every: int, end: int) -> bool:
    """Whether something that happens every so many iterations (0: never) happens now; also at the end of a long run."""
    return every > 0 and (iteration % every == 0 or iteration == end > every)


def stopping_reason(error: Exception) -> str:
    """What ended a run, for the user. An error that is a fault of the program is raised again."""
    if isinstance(error, (DataError, RunError)):
        return str(error).rstrip(".")
    if "DataLoader" not in str(error):
        raise error
    return (
        f"loading training data failed: {str(error).strip().splitlines()[-1].rstrip('.')}. A worker that was killed "
        "has often run out of memory (try fewer train.workers); one that timed out waits for its disk "
        "(train.worker_timeout)"
    )


def measure_loss(network, objective, index, size, timeout, batch, device) -> dict[str, float]:
    """Validation loss and its terms, over the images of the index as they are."""
    loader = make_loader(TrainingSet(index, size, None, 0), validation_batches(len(index), batch), 0, timeout, device)
    return dict(zip(LOSS_TERMS, validation_loss(network, objective, loader, device), strict=True))


def measure_ap(network, config: configs.Config, index: CocoIndex, device, log: RunLog) -> dict[str, float]:
    """COCO's figures on the validation split."""
    detector = Detector(network, DetectSettings(**asdict(config.test)), config.data.input_size, device)
    decimals = 2 if config.test.as_published else None
    results = []
    for i, _, found in detect_all(detector, index, log.say, leave=False):
        results += to_results(index, i, *found, decimals)
    split = config.data.val
    _, files = split_files(config.data.root, split.images, split.annotations)
    return evaluate(files, results, index.image_ids)


def find_state(output: Path, resume: str | None) -> tuple[Path, dict[str, Any]] | None:
    """Path and content of the checkpoint to go on from; None to begin anew."""
    last = output / "last.pt"
    if resume is None:
        if last.exists():
            raise DataError(f"{output} holds a run already: go on with --resume, or name another folder with --output")
        return None
    path = Path(resume) if resume else last
    if not resume and not last.exists():
        return None
    state = checkpoint.load(path)
    if "optimizer" not in state:
        raise checkpoint.CheckpointError(f"checkpoint {path} holds weights alone: training cannot be resumed from it")
    return path, state


def save_snapshot(output: Path, state: dict[str, Any], keep: int) -> None:
    """Write the snapshot of an iteration, let last.pt be it, and remove all but the `keep` newest."""
    path = output / f"{state['iteration']:08d}.pt"
    checkpoint.save(path, state)
    link = output / ".last.pt.partial"
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        os.replace(link, output / "last.pt")
    except OSError:  # a file system without hard links
        checkpoint.save(output / "last.pt", state)
    for old in sorted(output.glob("[0-9]" * 8 + ".pt"))[:-keep]:
        old.unlink()


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        config = configs.load(args.config, args.overrides)
        return train(config, args.output or Path("runs") / Path(args.config).stem, args.resume)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
