"""Train a network of a config:

python train.py CONFIG [key.sub=value ...] [--output DIR] [--resume [PATH] | --init PATH] [--profile]
torchrun --nproc_per_node=N train.py CONFIG ...

Writes to DIR (runs/<name of the config> by default): config.yaml, last.pt, best.pt and the newest snapshots,
metrics.jsonl, TensorBoard's files, curves.png. Exit codes: 0 done, 1 the run had to stop or its state could not be
saved, 2 bad input, 128 + n stopped by signal n with its state saved.
"""

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import configs
from db import CocoIndex, DataError
from models import build_network
from models.losses import LossWeights
from nnet import checkpoint
from nnet.distributed import Group
from nnet.evaluation import Validation
from nnet.experiment import (
    choose_device,
    exit_code,
    load_split,
    make_detector,
    make_folder,
    same_categories,
    set_up_backends,
    split_files,
)
from nnet.faults import RunError, Signals, UnreadableCount, stopping_reason
from nnet.inference import DetectSettings
from nnet.log import NoLog, RunLog, Window, draw_curves
from nnet.snapshots import Snapshots
from nnet.training import (
    NotFinite,
    Step,
    StepOptions,
    build_step,
    learning_rate,
    random_state,
    restore_random_state,
)
from nnet.watch import Trace
from sample import Augment, MicroBatches, Penalty, TrainingSet, make_loader

SKIPS = 10  # so many steps in a row without a finite loss end a run also where they are skipped


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network of a config.", epilog="Options: configs/schema.py")
    parser.add_argument("config", help="YAML file, as those in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that differ from the config's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/<config>)")
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on from this checkpoint, or from the newest in the output folder, where there is one",
    )
    beginning.add_argument("--init", type=Path, metavar="PATH", help="begin with the weights of this checkpoint")
    parser.add_argument("--profile", action="store_true", help="write a trace of some steps to DIR/trace.json")
    args = parser.parse_intermixed_args(argv)
    if args.resume and "=" in args.resume and not Path(args.resume).exists():  # an override that came after --resume
        args.overrides.append(args.resume)
        args.resume = ""
    return args


def train(config: configs.Config, args: argparse.Namespace, output: Path) -> int:
    c = config.train
    set_up_backends(c.threads, c.tf32)
    with Group(choose_device(c.device), c.collective_timeout) as group:
        return run(config, args, output, group)


def run(config: configs.Config, args: argparse.Namespace, output: Path, group: Group) -> int:
    # What can be wrong is looked at first: nothing is written before the inputs are known to be good.
    c, device = config.train, group.device
    index, val_index = load_data(config)
    batch, mine = group.deal(c.batch)  # images in each micro-batch of an update; which of them are this process's
    batches = MicroBatches(len(index), batch, config.seed, 0, c.iterations, mine)

    # The network, and what trains it
    torch.manual_seed(config.seed)
    network = build_network(index.num_classes, **asdict(config.model))
    if min(batch) == 1 and all(n <= network.divisor for n in config.data.input_size):
        raise DataError(
            f"data.input_size {config.data.input_size} leaves one cell at the bottom of the network, too few for the "
            "BatchNorm statistics of a micro-batch of one image: use larger images, or larger numbers in train.batch"
        )
    penalty, weights = Penalty(**asdict(config.penalty)), LossWeights(**asdict(config.loss))
    options = StepOptions(*(getattr(c, name) for name in StepOptions._fields))
    step = build_step(network, index.num_classes, penalty, weights, options, len(batch), group)

    # Where it goes on from
    window, snapshots = Window(sum(batch), device), Snapshots(output, c.keep, c.keep_every)
    start, random = begin(config, args, index, step, window, snapshots, group)
    batches.start = start

    # What is written
    if group.first:
        make_folder(output)
        if removed := snapshots.clear():
            print(f"removed the snapshots of later iterations: {', '.join(removed)}")
        (output / "config.yaml").write_text(configs.dump(config))
        parameters = sum(p.numel() for p in network.parameters())
        print(
            f"{parameters:,} parameters, {index.num_classes} classes, {len(index):,} images with {len(index.boxes):,} "
            f"objects; {c.iterations:,} iterations of {sum(batch)} images on {group.size} x {device.type}; "
            f"output in {output}"
        )
    terms = "loss", *step.objective.terms._fields[1:]  # as they are logged
    log = RunLog(output, start, c.iterations, terms) if group.first else NoLog()
    trace = Trace(output / "trace.json" if args.profile and group.first else None, c.iterations - start)
    snapshots.best = max((ap or 0.0 for ap in log.before("val_AP").values()), default=-1.0)

    def save(iteration: int, wait: bool = True) -> None:
        """Save the state after this iteration, unless it is saved. A full disk is told of, and is no end of the run.

        wait: whether the others wait until it is done, which may take longer than they would wait for the next step.
        """
        if group.first and iteration > snapshots.saved:
            state = {
                "iteration": iteration,
                **step.state(),
                "window": window.state(),
                "random": random_state(),
                "config": configs.to_dict(config),
                "categories": [list(index.category_ids), list(index.category_names)],
            }
            if not snapshots.save(state, group.working):
                log.say(f"iteration {iteration}: not saved: {snapshots.failure}")
        if wait:
            group.meet()

    signals = Signals()
    size = tuple(config.data.input_size)
    if val_index:
        # In the layout that the weights have in training
        settings = DetectSettings(**asdict(config.test))._replace(channels_last=c.channels_last)
        detector = make_detector(network, settings, size, device)
        _, files = split_files(config.data.root, config.data.val.images, config.data.val.annotations)
        validation = Validation(
            val_index, files, detector, step.objective, c.validate_images, max(batch), group, log, signals
        )

    def measure(iteration: int, loss: bool, ap: bool) -> None:
        """Validation loss and AP after this iteration, as wanted."""
        if loss:
            validation.loss(iteration)
        if ap and (figures := validation.precision()):
            try:
                snapshots.keep_best(iteration, figures["AP"] or 0.0)
            except OSError as error:
                log.say(f"iteration {iteration}: best.pt is as it was: {error}")
            # Logged last: a run that is killed before measures again.
            log.row(iteration, **{f"val_{name}": value for name, value in figures.items()})
            shown = ", ".join(f"{name} {figures[name] or 0.0:.3f}" for name in ("AP", "AP50"))
            log.say(f"iteration {iteration}: validation {shown}")

    # Training
    samples = TrainingSet(index, size, Augment(**asdict(config.augment)), config.seed)
    loader = make_loader(samples, batches, c.workers, c.worker_timeout, device)
    unreadable, skipped, finished = UnreadableCount(len(index)), 0, start
    try:
        stream = iter(loader)
        signals.watch_workers()
        if random:
            restore_random_state(random)  # the workers have drawn from it
            save(start)  # where it goes on from a checkpoint of another folder
            # The run was stopped after a step, perhaps before the validation that was due.
            wanted = [due(start, every, c.iterations) for every in (c.validate_every, c.ap_every)]
            missing = [group.first and start not in log.before(name) for name in ("val_loss", "val_AP")]
            measure(start, *(a and b for a, b in zip(wanted, group.counts(*missing), strict=True)))
        for iteration in range(start + 1, c.iterations + 1):
            with window.waiting():
                micro_batches = [next(stream) for _ in mine]
            for line in [line for micro_batch in micro_batches for line in unreadable.add(micro_batch)]:
                log.say(line)
            # Whether to go on is agreed on before each step: a process that has died or hangs is noticed here.
            stop, seen, failures = group.counts(signals.stop is not None, unreadable.seen, unreadable.failures)
            if stop:
                break
            unreadable.judge(seen, failures)

            lr = learning_rate(iteration - 1, c.lr, c.lr_drops, c.lr_factor, c.warmup)
            for parameters in step.optimizer.param_groups:
                parameters["lr"] = lr
            with signals.held():  # a worker's death waits until this iteration is logged and saved
                made = step([micro_batch.to(device) for micro_batch in micro_batches])
                if not isinstance(made, NotFinite):
                    window.add(*made)
                    skipped = 0
                else:
                    skipped += 1
                    what = f"iteration {iteration}: {made.on(index)}"
                    if c.nan == "stop" or skipped == SKIPS:
                        raise RunError(f"{what}: try a lower train.lr, train.warmup, or train.nan=skip")
                    log.say(f"{what}: the step is skipped")
                finished = iteration
                log.step()
                trace.step()
                if iteration % c.log_every == 0 or iteration == c.iterations:
                    window.close(log, iteration, lr)
                # Saved before it is validated: that may take long, and longer than a cluster waits.
                intervals = (c.snapshot_every, c.validate_every, c.ap_every)
                snapshot, loss, ap = (due(iteration, every, c.iterations) for every in intervals)
                with window.paused():
                    if snapshot or ap or iteration == c.iterations:
                        save(iteration)
            with window.paused():
                measure(iteration, loss, ap)
        with signals.held():
            save(finished)  # torchrun ends all processes soon after one has stopped: none does before this
    except Exception as error:
        # Whatever it is, what has been computed is kept. The state is that after the last step that was made.
        signals.holding = True
        save(finished, wait=False)
        # A signal to all processes of a run, as a cluster sends it, ends workers too: that is no fault, but a stop.
        if signals.stop is None or isinstance(error, (DataError, RunError)):
            reason = stopping_reason(error)
            if reason is None:
                raise
            raise RunError(f"{reason}; {kept(snapshots)}" if group.first else reason) from error
    finally:
        try:
            trace.stop()
            log.close()
            if group.first:
                draw_curves(output)
        except OSError as error:
            print(f"no curves: {error}", file=sys.stderr)
        finally:
            signals.restore()
    stopped = finished < c.iterations
    number = signals.stop or signal.SIGTERM
    ended = f"stopped by signal {number} after iteration {finished}" if stopped else "all iterations are done"
    if group.first and snapshots.saved < finished:
        raise RunError(f"{ended}, but the state could not be saved ({snapshots.failure}); {kept(snapshots)}")
    if group.first:
        end = kept(snapshots) if stopped else f"weights in {snapshots.last}, curves in {output / 'curves.png'}"
        print(f"{ended}: {end}")
    return 128 + number if stopped else 0


def load_data(config: configs.Config) -> tuple[CocoIndex, CocoIndex | None]:
    """The training split, and the validation split if it is wanted."""
    data, c = config.data, config.train
    index = load_split(data.root, **asdict(data.train))
    if not (c.validate_every or c.ap_every):
        return index, None
    val_index = load_split(data.root, **asdict(data.val))
    same_categories(val_index, index.category_ids, index.category_names, "data.train", "data.val")
    if c.ap_every and not len(val_index.boxes):
        raise DataError(
            "data.val has no objects to measure an AP on: set train.ap_every=0, or use annotations with boxes"
        )
    return index, val_index


def begin(
    config: configs.Config,
    args: argparse.Namespace,
    index: CocoIndex,
    step: Step,
    window: Window,
    snapshots: Snapshots,
    group: Group,
) -> tuple[int, dict | None]:
    """Load what --resume or --init ask for. Returns the iteration to go on from, and the random state then, if any."""
    lines, start, random = [], 0, None
    if found := snapshots.find(args.resume):
        path, state = found
        same_categories(index, *state["categories"], f"the run of {path}", "data.train")
        changed = checkpoint.changed_options(state, configs.to_dict(config), path)
        step.load(state, path)
        window.load(state["window"])
        start, random = state["iteration"], state["random"]
        lines.append(f"resumed from {path} after {start} of {config.train.iterations} iterations")
        if changed:
            lines.append(f"with other options than before: {'; '.join(changed)}")
    elif args.init:
        left_out = checkpoint.load_what_fits(step.network, checkpoint.load(args.init)["model"], args.init)
        if left_out:
            lines.append(f"left out of {args.init}, and drawn anew: {'; '.join(left_out)}")
    elif args.resume is not None:
        lines.append(f"no checkpoint in {snapshots.folder}: beginning anew")
    total, squares = group.counts(start, start**2)
    if squares * group.size != total**2:
        raise DataError(
            f"the processes found different checkpoints: {snapshots.folder} has to be a folder that all of them see"
        )
    if group.first and lines:
        print("\n".join(lines))
    return start, random


def kept(snapshots: Snapshots) -> str:
    """What a run that ends early leaves behind."""
    if snapshots.saved == 0:
        return "nothing is saved"
    return f"the state after iteration {snapshots.saved} is saved: --resume goes on from it"


def due(iteration: int, every: int, end: int) -> bool:
    """Whether something that happens every so many iterations (0: never) happens now; also at the end of a long run."""
    return every > 0 and (iteration % every == 0 or iteration == end > every)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        config = configs.load(args.config, args.overrides)
        return train(config, args, args.output or Path("runs") / Path(args.config).stem)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
