"""Registers and loads in flight of the CUDA kernels, from their machine code, without a GPU:

python -m benchmarks.machine_code [FILE.cu] [--all] [--arch 90]

Prints a Markdown table for the corner pools, with an estimate of the share of the memory bandwidth that a kernel
reaches on a map of (4, 128, 128, 128). nvcc is required, and cuobjdump, which Triton's package contains as well. A
FILE.cu of another commit must lie in a copy of its repository.

Loads in flight are the loads of global memory that a thread has issued when it first waits for one of them. They are
counted in the order of the machine code, which is the order of execution if no branch is taken.

The estimate is for a GPU of GPU below. By Little's law, a kernel reads at most the bytes in flight per latency. All
other limits are ignored: the estimate is an upper limit that is reached if nothing but the latency and the amount of
data matter. It is relative to the time that the bandwidth allows for the data that has to be moved at least.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nnet.runtime.errors import exit_code

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "external" / "corner_pool" / "csrc" / "corner_pool_cuda.cu"
PLANES, SIDE = 4 * 128, 128
ELEMENTS = PLANES * SIDE * SIDE


class Processor(NamedTuple):
    """A GPU: its multiprocessors with registers, threads and bytes of shared memory each; bytes/s, seconds."""

    processors: int = 132
    registers: int = 65536
    threads: int = 2048
    shared: int = 227 * 1024
    bandwidth: float = 3.35e12
    latency: float = 0.8e-6  # of a load from memory under load: an assumption


GPU = Processor()  # H100 SXM


class Launch(NamedTuple):
    """A launch on the map: threads per block and of the grid; how often it reads and writes a map, and has to."""

    block: int
    threads: int
    reads: float
    writes: float
    needed: float
    shared: int = 0  # bytes of dynamic shared memory


COLUMNS, ROWS = PLANES * SIDE, PLANES * SIDE  # one thread per column; one lane per row
LAUNCHES = {
    "pool_columns": Launch(256, COLUMNS, 1, 1, 2),
    "pool_rows": Launch(64, ROWS, 1, 1, 2),
    "pool_pair": Launch(SIDE, PLANES * SIDE, 2, 1, 3, 4 * (16 * (SIDE + 1) + SIDE)),
    "backward_columns": Launch(256, COLUMNS, 2, 1, 3),
    "backward_rows": Launch(64, ROWS, 2, 1, 3),
}
TYPES = {"float": 4, "BFloat16": 2, "Half": 2}
LAUNCHED = (None, "false", "0", "16")  # last template arguments of the kernels that are launched on the map


class Kernel(NamedTuple):
    """A kernel in machine code: its demangled name, registers, stack and shared memory in bytes, loads in flight."""

    name: str
    registers: int
    stack: int
    shared: int
    loads: int


def tool(name: str) -> str:
    """Path of a program of the CUDA toolkit, or of the copy in Triton's package."""
    found = shutil.which(name)
    if found is None:
        packaged = next(
            iter(Path(p, "triton/backends/nvidia/bin", name) for p in sys.path if Path(p, "triton").is_dir()), None
        )
        found = str(packaged) if packaged and packaged.is_file() else None
    if found is None:
        raise OSError(f"{name} was not found: install the CUDA toolkit")
    return found


def compile_kernels(source: Path, arch: str, output: Path) -> str:
    """Compile a .cu file with the flags of setup.py, without linking. Returns the compiler's messages."""
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS, include_paths

    target = "-DTORCH_TARGET_VERSION=0x020b000000000000"
    flags = ["-std=c++20", "-O3", "-DUSE_CUDA", target, *COMMON_NVCC_FLAGS, *(f"-I{path}" for path in include_paths())]
    command = [tool("nvcc"), *flags, f"-arch=sm_{arch}", "-cubin", "-o", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{source.name} does not compile for sm_{arch}: {done.stderr.strip()[-2000:]}")
    return done.stderr


def read_kernels(binary: Path) -> Iterator[Kernel]:
    """The kernels of a compiled file."""

    def dump(what: str) -> str:
        return subprocess.run([tool("cuobjdump"), what, str(binary)], capture_output=True, text=True, check=True).stdout

    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", dump("--dump-resource-usage"))
    code = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function : |\Z)", dump("--dump-sass"), re.DOTALL))
    names = subprocess.run(["c++filt", *(name for name, *_ in usage)], capture_output=True, text=True, check=True)
    for (mangled, *numbers), name in zip(usage, names.stdout.splitlines(), strict=True):
        yield Kernel(name, *map(int, numbers), loads_in_flight(code[mangled]))


def loads_in_flight(code: str) -> int:
    """The most loads of global memory that are issued before the first use of one of their results."""
    waiting: list[str] = []  # registers that loads in flight will write, oldest first
    most = 0
    for operation, operands in re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", code):
        named = set(re.findall(r"\bR\d+\b", operands))
        used = [i for i, register in enumerate(waiting) if register in named]
        if used:  # loads return in order
            waiting = waiting[max(used) + 1 :]
        if operation.startswith("LDG"):
            waiting.append(re.search(r"\bR\d+\b", operands)[0])
            most = max(most, len(waiting))
    return most


def estimate(kernel: Kernel, launch: Launch, size: int) -> tuple[float, float]:
    """KB in flight per multiprocessor, and the share of the bandwidth. size: bytes of an element."""
    registers = -(-kernel.registers // 8) * 8 * launch.block
    blocks = min(GPU.registers // registers, GPU.threads // launch.block)
    # the driver reserves 1 KiB per block
    blocks = min(blocks, GPU.shared // (kernel.shared + launch.shared + 1024))
    resident = min(blocks * launch.block, launch.threads / GPU.processors)
    flying = resident * kernel.loads * size
    moved = (launch.reads + launch.writes) * ELEMENTS * size / GPU.bandwidth
    waited = launch.reads * ELEMENTS * size * GPU.latency / (flying * GPU.processors)
    return flying / 1024, launch.needed * ELEMENTS * size / GPU.bandwidth / max(moved, waited)


def table(kernels: Sequence[Kernel], zeroed: bool = False, every: bool = False) -> Iterator[str]:
    """The Markdown table.

    Args:
        zeroed: gradients are zeroed in a pass of their own, before the backward kernels.
        every: all kernels, not only those that are launched on the map. The others have no estimate.
    """
    yield "| kernel | type | registers | stack, bytes | loads in flight | KB in flight per SM | estimated share |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, launch in LAUNCHES.items():
        if zeroed and name.startswith("backward"):
            launch = launch._replace(writes=launch.writes + 1)
        for kind in (*TYPES, "double"):
            for kernel in kernels:
                found = re.search(rf"\b{name}<(?:\w+::)*{kind}, \w+(?:, (?:\(\w+\))?(\w+))?>", kernel.name)
                numbers = f"{kernel.registers} | {kernel.stack} | {kernel.loads}"
                if found and found[1] in LAUNCHED and kind in TYPES:
                    flying, share = estimate(kernel, launch, TYPES[kind])
                    yield f"| {name} | {kind} | {numbers} | {flying:.1f} | {share:.0%} |"
                elif found and every:
                    variant = f"<{found[1]}>" if found[1] else ""
                    yield f"| {name}{variant} | {kind} | {numbers} | | |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine_code", description="Machine code of the pools.")
    parser.add_argument("source", nargs="?", type=Path, default=SOURCE, metavar="FILE.cu")
    parser.add_argument("--all", action="store_true", help="every kernel, also those for float64 and for other shapes")
    parser.add_argument("--arch", default="90", help="compute capability without the dot (default: %(default)s)")
    args = parser.parse_args(argv)

    def run() -> int:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "kernels.cubin"
            print(compile_kernels(args.source, args.arch, output), end="", file=sys.stderr)
            zeroed = "zero_(" in args.source.read_text()
            print("\n".join(table(list(read_kernels(output)), zeroed, args.all)))
        return 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
