"""Train a network of a config:

python train.py CONFIG [key.sub=value ...] [--output DIR] [--resume [PATH] | --init PATH] [--profile]
torchrun --nproc_per_node=N train.py CONFIG ...

Writes to DIR (runs/<name of the config> by default): config.yaml, last.pt, best.pt and the newest snapshots,
metrics.jsonl, TensorBoard's files, curves.png. Exit codes: 0 done, 1 the run had to stop, 2 bad input, 128 + n stopped
by signal n with its state saved.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

import configs
from db import CocoIndex, DataError, Evaluation, evaluate, to_results
from models import build_network
from models.losses import LossWeights
from nnet import checkpoint
from nnet.distributed import Group
from nnet.experiment import (
    choose_device,
    detect_all,
    exit_code,
    load_split,
    make_detector,
    make_folder,
    make_objective,
    same_categories,
    set_up_backends,
    split_files,
    stopping_reason,
)
from nnet.inference import DetectSettings
from nnet.log import NoLog, RunLog, draw_curves, peak_memory, read_metrics
from nnet.snapshots import Snapshots
from nnet.training import (
    NotFinite,
    Precision,
    RunError,
    Signals,
    Step,
    UnreadableCount,
    checkpoint_activations,
    learning_rate,
    random_state,
    restore_random_state,
    validation_loss,
)
from nnet.watch import draw_predictions
from sample import Augment, Batch, MicroBatches, Penalty, TrainingSet, make_loader, validation_batches

SKIPS = 10  # so many steps in a row without a finite loss end a run also where they are skipped
SHOWN = 4  # validation images whose targets and predictions TensorBoard shows
PROFILED = 3  # steps of a --profile trace, after as many to warm up


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
    index = load_split(config.data.root, **asdict(config.data.train))
    val_index = None
    if c.validate_every or c.ap_every:
        val_index = load_split(config.data.root, **asdict(config.data.val))
        same_categories(val_index, index.category_ids, index.category_names, "data.train", "data.val")
    batch, mine = group.deal(c.batch)
    batches = MicroBatches(len(index), batch, config.seed, 0, c.iterations, mine)
    if c.sync_batch_norm and device.type != "cuda":
        raise DataError("train.sync_batch_norm needs CUDA: PyTorch has it for GPUs alone")
    if c.sync_batch_norm and (len(batch) % group.size or c.checkpointing):
        raise DataError(
            "train.sync_batch_norm needs the same number of micro-batches on each process, and no train.checkpointing"
        )
    if c.ap_every and not len(val_index.boxes):
        raise DataError(
            "data.val has no objects to measure an AP on: set train.ap_every=0, or use annotations with boxes"
        )

    torch.manual_seed(config.seed)
    network = build_network(index.num_classes, **asdict(config.model))
    if min(batch) == 1 and all(n <= network.divisor for n in config.data.input_size):
        raise DataError(
            f"data.input_size {config.data.input_size} leaves one cell at the bottom of the network, too few for the "
            "BatchNorm statistics of a micro-batch of one image: use larger images, or larger numbers in train.batch"
        )
    snapshots = Snapshots(output, c.keep, c.keep_every)
    start = 0
    found = snapshots.find(args.resume)
    if found:
        path, state = found
        same_categories(index, *state["categories"], f"the run of {path}", "data.train")
        changed = checkpoint.changed_options(state, configs.to_dict(config), path)
        checkpoint.load_weights(network, state["model"], path)
        start = batches.start = state["iteration"]
    elif args.init:
        left_out = checkpoint.load_what_fits(network, checkpoint.load(args.init)["model"], args.init)
        if group.first and left_out:
            print(f"left out of {args.init}, and drawn anew: {'; '.join(left_out)}")
    total, squares = group.counts(start, start**2)
    if squares * group.size != total**2:
        raise DataError(f"the processes found different checkpoints: {output} has to be a folder that all of them see")
    network.to(device)
    if c.channels_last:
        network.to(memory_format=torch.channels_last)
    if c.sync_batch_norm:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if c.checkpointing:
        checkpoint_activations(network)
    fused = c.fused_adam or None  # False would forbid PyTorch its choice, on CUDA a loop over tensors by one kernel
    optimizer = torch.optim.Adam(network.parameters(), lr=c.lr, fused=fused)
    precision = Precision(c.precision, device)
    if found:
        for parameters in state["optimizer"]["param_groups"]:
            parameters["fused"] = fused  # as the config has it now
        optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in optimizer.state.items():  # in the layout that the parameters have now
            moments.update((k, torch.empty_like(parameter).copy_(v)) for k, v in moments.items() if v.ndim)
        if state["scaler"]:  # empty, unless the run was in float16
            precision.scaler.load_state_dict(state["scaler"])
        random = state["random"]
        if group.first:
            print(f"resumed from {path} after {start} of {c.iterations} iterations")
            if changed:
                print(f"with other options than before: {'; '.join(changed)}")
        del found, state  # the weights are in the network, the rest in the optimiser
    elif args.resume is not None and group.first:
        print(f"no checkpoint in {output}: beginning anew")

    penalty, weights = Penalty(**asdict(config.penalty)), LossWeights(**asdict(config.loss))
    objective = make_objective(network, index.num_classes, penalty, weights, c.channels_last, precision.autocast)
    terms = "loss", *objective.terms._fields[1:]  # as they are logged: the total is the loss
    stepped = torch.compile(network) if c.compile else network
    step = Step(stepped, optimizer, objective, group, len(batch), precision.scaler)
    size = tuple(config.data.input_size)
    augment = Augment(**asdict(config.augment))
    loader = make_loader(TrainingSet(index, size, augment, config.seed), batches, c.workers, c.worker_timeout, device)

    if group.first:
        make_folder(output)
        if removed := snapshots.clear(start, path if start else None):
            print(f"removed the snapshots of later iterations: {', '.join(removed)}")
        (output / "config.yaml").write_text(configs.dump(config))
        parameters = sum(p.numel() for p in network.parameters())
        print(
            f"{parameters:,} parameters, {index.num_classes} classes, {len(index):,} images with {len(index.boxes):,} "
            f"objects; {c.iterations:,} iterations of {sum(batch)} images on {group.size} x {device.type}; "
            f"output in {output}"
        )
    log = RunLog(output, start, c.iterations, terms) if group.first else NoLog()
    best = max(
        [row.get("val_AP") or 0.0 for row in read_metrics(output / "metrics.jsonl") if "val_AP" in row], default=-1.0
    )

    def snapshot(iteration: int) -> bool:
        """Save the state after this iteration. A full disk, or another fault of it, is no end of the run."""
        if not group.first:
            return False
        state = {
            "iteration": iteration,
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": precision.scaler.state_dict(),
            "random": random_state(),
            "config": configs.to_dict(config),
            "categories": [list(index.category_ids), list(index.category_names)],
        }
        try:
            snapshots.save(state)
        except OSError as error:
            log.say(f"iteration {iteration}: not saved: {error}")
            if iteration == c.iterations:
                raise
            return False
        return True

    def measure(iteration: int, loss: bool, ap: bool) -> None:
        """Validation loss and AP after this iteration, as wanted."""
        nonlocal best, saved
        if loss:
            if group.first:
                shown = val_index.limit(c.validate_images)
                validate(network, objective, shown, size, max(batch), device, iteration, log, signals)
            group.wait()
        figures = measure_ap(network, config, val_index, group, log, signals) if ap else None
        if figures:
            ap = figures["AP"] or 0.0
            if ap > best and (snapshots.path(iteration).exists() or snapshot(iteration)):
                saved = iteration
                try:
                    snapshots.mark_best(iteration)
                    best = ap
                except OSError as error:
                    log.say(f"iteration {iteration}: best.pt is as it was: {error}")
            # Logged last: a run that is killed before measures again.
            log.row(iteration, **{f"val_{name}": value for name, value in figures.items()})
            log.say(f"iteration {iteration}: validation AP {ap:.3f}, AP50 {figures['AP50'] or 0.0:.3f}")

    unreadable, skipped, saved = UnreadableCount(len(index)), 0, start
    finished, waited, sums, norms, steps, since, clock = start, 0.0, 0, 0, 0, start, time.perf_counter()
    signals, profiler = Signals(), profile(args.profile, output, group)
    try:
        stream = iter(loader)
        signals.watch_workers()
        if start:
            restore_random_state(random)  # the workers have drawn from it
            # The run was stopped after a step, perhaps before the validation that was due.
            wanted = [due(start, every, c.iterations) for every in (c.validate_every, c.ap_every)]
            missing = [group.first and not log.has(start, name) for name in ("val_loss", "val_AP")]
            measure(start, *(a and b for a, b in zip(wanted, group.counts(*missing), strict=True)))
        for iteration in range(start + 1, c.iterations + 1):
            lr = learning_rate(iteration - 1, c.lr, c.lr_drops, c.lr_factor, c.warmup)
            for parameters in optimizer.param_groups:
                parameters["lr"] = lr

            before = time.perf_counter()
            micro_batches = [next(stream) for _ in mine]
            for micro_batch in micro_batches:
                for line in unreadable.add(micro_batch):
                    log.say(line)
            waited += time.perf_counter() - before

            with signals.held():  # a worker's death waits until this iteration is logged and saved
                made = step([micro_batch.to(device) for micro_batch in micro_batches])
                if not isinstance(made, NotFinite):
                    sums, norms, steps, skipped = sums + made[0], norms + made[1], steps + 1, 0
                else:
                    skipped += 1
                    what = not_finite(made, index, iteration)
                    if c.nan == "stop" or skipped == SKIPS:
                        raise RunError(f"{what}: try a lower train.lr, train.warmup, or train.nan=skip")
                    log.say(f"{what}: the step is skipped")
                finished = iteration
                log.step()
                profiler.step()

                asked, seen, failures = group.counts(signals.stop is not None, unreadable.seen, unreadable.failures)
                last = iteration == c.iterations or asked > 0
                if iteration % c.log_every == 0 or last:
                    count = iteration - since
                    seconds = time.perf_counter() - clock
                    speed, wait = count * sum(batch) / seconds, waited / seconds
                    more = {"lr": lr, "images_per_second": speed, "data_wait": wait, "memory_gb": peak_memory(device)}
                    if steps:  # not every one was skipped
                        means = (group.sum(sums) / steps).tolist()
                        log.losses(iteration, means, **more, gradient_norm=float(norms) / steps)
                    waited, sums, norms, steps, since, clock = 0.0, 0, 0, 0, iteration, time.perf_counter()

                unreadable.judge(seen, failures)

                pause = time.perf_counter()
                # Saved first: what follows may take long, and longer than a cluster waits.
                if due(iteration, c.snapshot_every, c.iterations) or last:
                    saved = iteration if snapshot(iteration) else saved
            if asked:
                break
            measure(iteration, *(due(iteration, every, c.iterations) for every in (c.validate_every, c.ap_every)))
            clock += time.perf_counter() - pause  # not part of the training speed
    except Exception as error:
        # Whatever it is, what has been computed is kept. The state is that after the last step that was made.
        signals.holding = True
        logged = finished % c.log_every != 0 or since == finished  # else its row would be lost
        kept = finished > saved and logged and snapshot(finished)
        reason = stopping_reason(error, c.collective_timeout)
        # A signal to all processes of a run, as a cluster sends it, ends workers too: that is no fault, but a stop.
        if signals.stop is None or isinstance(error, (DataError, RunError)):
            saved = finished if kept else saved
            if group.first and saved > 0:
                reason += f". The state after iteration {saved} is saved: --resume goes on from it"
            raise RunError(reason) from error
    finally:
        try:
            profiler.stop()
            log.close()
            if group.first:
                draw_curves(output)
        except OSError as error:
            print(f"no curves: {error}", file=sys.stderr)
        finally:
            signals.restore()
    if finished < c.iterations:
        number = signals.stop or signal.SIGTERM
        if group.first:
            print(f"stopped by signal {number} after iteration {finished}: --resume goes on from iteration {saved}")
        return 128 + number
    if group.first:
        print(f"done: weights in {snapshots.last}, curves in {output / 'curves.png'}")
    return 0


def due(iteration: int, every: int, end: int) -> bool:
    """Whether something that happens every so many iterations (0: never) happens now; also at the end of a long run."""
    return every > 0 and (iteration % every == 0 or iteration == end > every)


def not_finite(what: NotFinite, index: CocoIndex, iteration: int) -> str:
    """Names the terms of the loss and the images."""
    paths = [index.path(int(index.image_ids.searchsorted(i))) for i in what.image_ids[:5]]
    more = ", ..." if len(what.image_ids) > 5 else ""
    images = f", on {', '.join(paths)}{more}" if paths else ""  # those of another process are named there
    return f"iteration {iteration}: {', '.join(what.terms)} not finite{images}"


def validate(network, objective, index: CocoIndex, size, batch, device, iteration, log, signals) -> None:
    """Log the validation loss over the images of the index, unchanged, and pictures; ends early on a signal."""
    loader = make_loader(TrainingSet(index, size, None, 0), validation_batches(len(index), batch), 0, 0, device)
    unreadable = UnreadableCount(len(index))

    def batches() -> Iterator[Batch]:
        for part in loader:
            if signals.stop is not None:
                return
            for line in unreadable.add(part):
                log.say(f"validation: {line}")
            yield part

    try:
        terms = validation_loss(network, objective, batches(), device)
    except DataError as error:  # bad validation data is no reason to end training
        log.say(f"iteration {iteration}: no validation loss: {error}")
        return
    if terms is None or signals.stop is not None:
        return
    log.row(iteration, **{f"val_{name}": value for name, value in zip(log.terms, terms, strict=True)})
    log.say(f"iteration {iteration}: validation loss {terms.total:.4g}")
    for name, picture in draw_predictions(network, objective, index.limit(SHOWN), size, device):
        log.picture(iteration, name, picture)


def measure_ap(network, config: configs.Config, index: CocoIndex, group: Group, log, signals) -> Evaluation | None:
    """COCO's figures on the validation split, of which each process detects its share.

    None on processes other than the first, and when a signal has asked the run to stop meanwhile.
    """
    group.share_buffers(network)
    detector = make_detector(network, DetectSettings(**asdict(config.test)), config.data.input_size, group.device)
    decimals = 2 if config.test.as_published else None
    results = []
    for i, _, found in detect_all(detector, index, group, lambda line: log.say(f"skipped {line}"), leave=False):
        if signals.stop is not None:
            break
        results += to_results(index, i, *found, decimals)
    results = group.gather(results)
    stopped, *_ = group.counts(signals.stop is not None)
    split = config.data.val
    _, files = split_files(config.data.root, split.images, split.annotations)
    return evaluate(files, results, index.image_ids) if group.first and not stopped else None


def profile(wanted: bool, output: Path, group: Group) -> torch.profiler.profile:
    """A profiler of some steps of the first process, which does nothing unless wanted."""
    schedule = torch.profiler.schedule(wait=1, warmup=PROFILED, active=PROFILED, repeat=1)

    def write(p: torch.profiler.profile) -> None:
        p.export_chrome_trace(str(output / "trace.json"))

    if wanted and group.first:
        p = torch.profiler.profile(schedule=schedule, on_trace_ready=write, profile_memory=True)
        p.start()
        return p
    return NoProfiler()


class NoProfiler:
    def step(self) -> None: ...
    def stop(self) -> None: ...


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        config = configs.load(args.config, args.overrides)
        return train(config, args, args.output or Path("runs") / Path(args.config).stem)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
