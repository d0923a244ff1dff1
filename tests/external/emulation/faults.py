"""Faults in the CUDA kernels, and a table of the runs of check_kernels.py that find each of them:

    python -m tests.external.emulation.faults [NAME ...]

Each fault is a change of the source. The kernels with the fault are compiled for the CPU and run in forward and in
random thread order. If neither run finds the fault, AddressSanitizer and UBSan are used. The exit status is 1 if a
fault is not found at all.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from tests.external.emulation.runs import RUNS, finding, start


class Fault(NamedTuple):
    """Replaces one occurrence of `old` in a package's .cu file."""

    package: str
    kernel: str  # the first occurrence after the definition of this function is replaced
    old: str
    new: str


FAULTS = {
    "no barrier before the scan of a tile": Fault(
        "corner_pool", "pool_rows", "__syncwarp();\n#pragma unroll\n        for (int s", "for (int s"
    ),
    "no barrier before a tile is stored": Fault(
        "corner_pool", "pool_rows", "__syncwarp();\n        if (step < length && pass", "if (step < length && pass"
    ),
    "no barrier before the next tile is loaded": Fault("corner_pool", "backward_rows", "__syncwarp();  // also", "//"),
    "barrier not reached by all threads": Fault(
        "corner_pool",
        "backward_rows",
        "__syncwarp();\n      if (step < length) {",
        "if (step < length) {\n__syncwarp();",
    ),
    "tiles overlap by one step": Fault("corner_pool", "pool_rows", "start += kTile", "start += kTile - 1"),
    "tiles not padded, but read so": Fault("corner_pool", "pool_rows", "[kTile][kTile + 1]", "[kTile][kTile - 1]"),
    "wrong stride between groups of lines": Fault(
        "corner_pool", "pool_columns", "/ lines.inner * lines.length", "/ lines.inner * (lines.length - 1)"
    ),
    "lines beyond the first grid are not computed": Fault(
        "corner_pool", "pool_columns", "line += threads", "line += count"
    ),
    "reads beyond the end of a row": Fault(
        "corner_pool", "pool_rows", "position(min(step, length - 1),", "position(step,"
    ),
    "later of equal values takes over": Fault("corner_pool", "takes_over", "value > best", "value >= best"),
    "NaN does not take over": Fault("corner_pool", "takes_over", "(value != value && best == best)", "false"),
    "gradient of a whole line goes to the first maximum": Fault(
        "corner_pool", "go_on", "(x == run.best || x != x)", "false"
    ),
    "sums rounded to 16 bits after each tile": Fault(
        "corner_pool",
        "backward_rows",
        "__syncwarp();  // also",
        "run.sum = static_cast<T>(run.sum);\n__syncwarp();  //",
    ),
    "elements without a gradient are not zero": Fault("corner_pool", "go_on", "g[k] = own;", "if (begin) g[k] = own;"),
    "sum of a run that ends in a later tile is not written": Fault(
        "corner_pool", "go_on", "write(run.winner, sum);", "return;"
    ),
    "no barrier before the segments are read": Fault(
        "corner_pool", "pool_pair", "__syncthreads();\n      load(elements", "load(elements"
    ),
    "no barrier before the maxima of segments are used": Fault(
        "corner_pool", "pool_pair", "__syncthreads();\n      highest", "highest"
    ),
    "no barrier before the rows are added": Fault(
        "corner_pool", "pool_pair", "steps, elements);\n      __syncthreads();", "steps, elements);"
    ),
    "no barrier before the tile is overwritten": Fault(
        "corner_pool", "pool_pair", "__syncthreads();\n    }\n  }", "}\n  }"
    ),
    "the segment before is left out": Fault(
        "corner_pool", "pool_pair", "threads : thread)", "threads : thread - lines)"
    ),
    "other channels than the group's": Fault("corner_pool", "pool_pair", "min(c, planes.channels - 1)", "c"),
    "no barrier within the sum of a block": Fault("focal_loss", "sum_of_block", "    }\n    __syncthreads();", "    }"),
    "sum of a block loses its last thread": Fault(
        "focal_loss", "sum_of_block", "threadIdx.x < half", "threadIdx.x + 1 < half"
    ),
    "elements after the last pack are skipped": Fault(
        "focal_loss", "partial_sums", "if (last < n)", "if (last < n - n % N)"
    ),
    "only the first 256 partial sums are added": Fault(
        "focal_loss", "total_sum", "i < count", "i < min<int64_t>(count, kThreads)"
    ),
    "one pack too many": Fault("focal_loss", "gradient", "pack < n / N", "pack <= n / N"),
    "alignment of the logits is not checked": Fault(
        "focal_loss", "loss_backward", "aligned(in, kPackSize * sizeof(T)) && ", ""
    ),
}
NAMES = sorted(FAULTS)


def changes(name: str) -> dict[str, Callable[[str], str]]:
    """The change of a package's CUDA source that puts in a fault, for `build_all`.

    It raises ValueError if the source has no such code: the fault has to be adapted to a changed kernel.
    """
    fault = FAULTS[name]

    def change(text: str) -> str:
        start = re.search(rf"\b{fault.kernel}\([^;]*?\)\s*\{{", text)
        at = text.find(fault.old, start.start()) if start else -1
        if at < 0:
            raise ValueError(f"fault {name!r}: {fault.kernel} does not contain {fault.old!r}")
        return text[:at] + fault.new + text[at + len(fault.old) :]

    return {fault.package: change}


def find(name: str, run: str, folder: str, sanitize: bool = False) -> str | None:
    """What check_kernels.py finds in the kernels with a fault, see `runs.finding`.

    Args:
        name: of the fault.
        run: a key of RUNS.
        folder: where the libraries are built.
        sanitize: with AddressSanitizer and UBSan.
    """
    return finding(start(*RUNS[run], "--fault", name, "--libraries", folder, sanitize=sanitize))


def main(names: list[str]) -> int:
    print("| fault | kernel | forward order | random order, 2 blocks | sanitizers |")
    print("| --- | --- | --- | --- | --- |")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in names or FAULTS:
            findings = [find(name, run, folder) for run in RUNS]
            if not any(findings):
                findings.append(find(name, "random", folder, sanitize=True))
            cells = [name, FAULTS[name].kernel, *(text or "-" for text in findings), *[""] * (3 - len(findings))]
            print("|", " | ".join(cells), "|", flush=True)
            missed |= not any(findings)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
