"""Shared by the benchmarks: timing in rounds, median and quartiles, the rows of the table, and facts of the machine.

The works that are compared are timed one after another in each round, and their order changes from round to round. The
ratio is computed per round; the result is the median over the rounds. Other load on the machine slows both sides of a
round, so that it changes the ratio little. Works that run on one thread are timed by their processor time.

On CUDA, works on kernels are captured in CUDA graphs, so that neither Python nor the driver is timed.
"""

import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch

AT_LEAST = {"cpu": 5e-3, "cuda": 2e-3}  # minimum seconds per timing: shorter work is repeated
LARGER_THAN_CACHES = 2**28  # bytes
ROUNDS = 7  # minimum number of rounds
HEAD = "| benchmark | case | ours | compared with | ratio | target | met | also, in multiples of ours |"
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- |"

Work = Callable[[], Any]


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Setting:
    """How to measure.

    seconds: approximate duration of each comparison. small: tiny sizes as in a test; targets are not evaluated.
    data: folder of images in COCO's 2017 layout. None: images are drawn.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: float = 2.0
    small: bool = False
    data: Path | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table: our time or size and the one it is compared with, both in `unit`."""

    benchmark: str
    case: str
    unit: str
    ours: Spread
    against: str  # name of the baseline
    base: Spread  # time or size of the baseline
    ratio: Spread  # ours / base
    target: float | None  # upper bound of the ratio; None: there is no target
    at_least: bool = False  # the target is a lower bound
    others: Mapping[str, Spread] = field(default_factory=dict)  # further works measured in the same rounds
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio.median >= self.target if self.at_least else self.ratio.median <= self.target

    def cells(self) -> str:
        """The row as Markdown."""
        target = "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:.3g}"
        more = [f"{name}: {other.median / self.ours.median:.3g}" for name, other in self.others.items()]
        cells = [self.benchmark, self.case, f"{self.ours} {self.unit}", f"{self.against}: {self.base} {self.unit}"]
        cells += [str(self.ratio), target, {None: "", True: "yes", False: "**no**"}[self.met]]
        return f"| {' | '.join([*cells, '; '.join([*more, *filter(None, [self.note])])])} |"

    def figures(self) -> dict[str, Any]:
        """The row for JSON: every Spread as median, low, high."""

        def plain(value: Any) -> Any:
            if isinstance(value, Spread):
                return value._asdict()
            return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

        names = [name for name in self.__dataclass_fields__ if name not in ("benchmark", "case")]
        values = {name: plain(getattr(self, name)) for name in names}
        return {"benchmark": self.benchmark, "case": self.case, **values, "met": self.met}


def clock(
    device: torch.device, work: Work, calls: int = 1, one_core: bool = False, cold: torch.Tensor | None = None
) -> float:
    """Seconds per call of a work.

    one_core: measure processor time, for work on one thread.
    cold: a tensor larger than the caches. It is written before the timing, or read on CUDA, so that no data of the work
        is cached, and the GPU's L2 cache holds nothing that it would have to write back during the timing.
    """
    if device.type == "cuda":
        if cold is not None:
            cold.sum()  # meanwhile the work is enqueued, so that the GPU does not wait for Python
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for _ in range(calls):
            work()
        done.record()
        done.synchronize()
        return begun.elapsed_time(done) / 1000 / calls
    if cold is not None:
        cold.fill_(1)
    now = time.process_time if one_core else time.perf_counter
    begun = now()
    for _ in range(calls):
        work()
    return (now() - begun) / calls


def use_own_stream(device: torch.device) -> None:
    """On CUDA, make a new stream the current one, as the default stream cannot be captured in CUDA graphs."""
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def captured(work: Work) -> Work:
    """The replay of a CUDA graph of a work. Call it after `use_own_stream`, and after the work has run once.

    A work that cannot be captured is returned as it is, with a message on stderr.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work()
    except RuntimeError as error:
        torch.cuda.synchronize()
        print(f"timed without a CUDA graph: {error}", file=sys.stderr)
        return work
    return graph.replay


def race(
    setting: Setting,
    works: Mapping[str, Work],
    seldom: Sequence[str] = (),
    rounds: int = ROUNDS,
    one_core: bool = False,
    from_memory: bool = False,
    graphs: bool = False,
    eager: Sequence[str] = (),
) -> dict[str, list[float]]:
    """Time works in turn. Returns the seconds per call of each work, one value per round. The first call is not timed.

    seldom: works that are timed only in the first, the middle and the last round.
    one_core: as in `clock`.
    from_memory: for work that is bound by memory bandwidth. None of its data is cached when a call starts.
    graphs: on CUDA, capture the works in CUDA graphs, as from_memory does as well.
    eager: works that are not captured, because they wait for the GPU.
    """
    cold = None
    if from_memory:
        kind = torch.uint8 if setting.device.type == "cpu" else torch.float32
        cold = torch.zeros(
            1 if setting.small else LARGER_THAN_CACHES // kind.itemsize, dtype=kind, device=setting.device
        )
    works, timed = dict(works), partial(clock, setting.device, one_core=one_core, cold=cold)
    for work in works.values():
        timed(work)
    if setting.device.type == "cuda" and (from_memory or graphs):
        works = {name: work if name in eager else captured(work) for name, work in works.items()}
    once = {name: timed(work) for name, work in works.items()}
    least = 0 if setting.small or cold is not None else AT_LEAST[setting.device.type]
    calls = {name: max(1, math.ceil(least / max(seconds, 1e-7))) for name, seconds in once.items()}
    cost = sum(once[name] * calls[name] for name in works if name not in seldom)
    rounds = 3 if setting.small else max(rounds, min(200, int(setting.seconds / max(cost, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            if name not in seldom or number in (0, rounds // 2, rounds - 1):
                times[name].append(timed(works[name], calls[name]))
    return times


def timed_row(
    setting: Setting,
    benchmark: str,
    case: str,
    ours: Work,
    against: tuple[str, Work],
    target: float | None,
    others: Mapping[str, Work] | None = None,
    one_core: bool = False,
    from_memory: bool = False,
    graphs: bool = False,
    eager: Sequence[str] = (),
    **more: Any,
) -> Row:
    """Compare our work with the baseline `against`, whose ratio has the target, and, less often, with others.

    The options are those of `race`.
    """
    works, seldom = {"ours": ours, "base": against[1], **(others or {})}, tuple(others or {})
    times = race(setting, works, seldom, one_core=one_core, from_memory=from_memory, graphs=graphs, eager=eager)
    return times_row(setting, benchmark, case, times, against[0], target, **more)


def times_row(
    setting: Setting,
    benchmark: str,
    case: str,
    times: Mapping[str, Sequence[float]],
    against: str,
    target: float | None,
    **more: Any,
) -> Row:
    """A row from times in seconds. times: "ours" and "base" with a value per round, and further works."""
    longest = max(median(times["ours"]), median(times["base"]))
    unit, factor = ("s", 1) if longest >= 1 else ("ms", 1e3)
    spreads = {name: Spread.of([factor * t for t in values]) for name, values in times.items()}
    ratio = Spread.of([a / b for a, b in zip(times["ours"], times["base"], strict=True)])
    others = {name: spread for name, spread in spreads.items() if name not in ("ours", "base")}
    target = None if setting.small else target
    return Row(benchmark, case, unit, spreads["ours"], against, spreads["base"], ratio, target, others=others, **more)


def limit_row(
    setting: Setting,
    benchmark: str,
    case: str,
    unit: str,
    value: float,
    limit: float,
    against: str = "limit",
    judged: bool = True,
    **more: Any,
) -> Row:
    """A row for a quantity with an upper limit."""
    ours, base, ratio = (Spread.of([x]) for x in (value, limit, value / limit))
    return Row(benchmark, case, unit, ours, against, base, ratio, 1.0 if judged and not setting.small else None, **more)


def machine(setting: Setting) -> dict[str, Any]:
    """Facts of the machine that the results depend on, without host names and paths."""
    facts = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    facts |= {"python": platform.python_version(), "system": platform.system()}
    if setting.device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(setting.device), "cuda": torch.version.cuda}
    chosen = asdict(setting)
    return facts | {
        "seconds": chosen["seconds"],
        "small": setting.small,
        "images": "drawn" if not setting.data else "own",
    }


def processor() -> str:
    """Name of the CPU."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
