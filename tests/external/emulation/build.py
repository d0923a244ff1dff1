"""Libraries with the CUDA kernels in external/, compiled for the CPU."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from tests.external.emulation.translate import translate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
# CXXFLAGS and LDFLAGS in the environment are added
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w")

Change = Callable[[str], str]


def sources() -> list[Path]:
    """The CUDA sources: external/*/csrc/*.cu."""
    return sorted(ROOT.glob("external/*/csrc/*.cu"))


def compiler() -> list[str] | None:
    """The command of the C++ compiler (CXX in the environment, else c++), or None if it is not installed."""
    command = shlex.split(os.environ.get("CXX") or "c++")
    return command if shutil.which(command[0]) else None


def missing_requirement() -> str | None:
    """Why the emulation cannot be built on this machine, or None if it can."""
    if not sys.platform.startswith("linux"):
        return "the emulation of CUDA kernels runs on Linux only"
    return None if compiler() else "no C++ compiler"


def build(source: Path, folder: Path, change: Change | None = None) -> Path:
    """Compile the emulated kernels of a CUDA source, unless `folder` has them already.

    Args:
        source: a .cu file.
        folder: where libraries are stored, named after a hash of everything that they depend on.
        change: applied to the CUDA source first.

    Returns the library. Raises RuntimeError with the compiler's messages if the source does not compile.
    """
    text = source.read_text()
    text = translate(change(text) if change else text, source)
    command = _command(source)
    headers = [*source.parent.glob("*.h"), *source.parents[2].glob("*.h"), HERE / "emulated_cuda.h"]
    parts = [torch.__version__, *command, text, *(path.read_text() for path in sorted(headers))]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = folder / f"{source.stem}-{key}.so"
    if library.is_file():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{library.stem}-{os.getpid()}"
    translated = unfinished.with_suffix(".cpp")
    translated.write_text(text)
    link = [*(f"-L{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]
    link += shlex.split(os.environ.get("LDFLAGS", ""))
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # of a sanitizer
    command += ["-shared", str(translated), "-o", str(unfinished), *link]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{source} does not compile for the CPU:\n{done.stderr[-4000:]}")
    unfinished.rename(library)
    return library


def build_all(folder: Path, changes: dict[str, Change] | None = None) -> dict[str, Path]:
    """Compile all CUDA sources: the library for each package's name. See `build`.

    changes: by the name of a package.
    """
    packages = {source.parents[1].name: source for source in sources()}
    changes = changes or {}
    with ThreadPoolExecutor() as pool:
        jobs = {name: pool.submit(build, source, folder, changes.get(name)) for name, source in packages.items()}
        return {name: job.result() for name, job in jobs.items()}


def _command(source: Path) -> list[str]:
    """The compiler with its flags, those of setup.py among them."""
    major, minor = re.search(r"^TARGET = \((\d+), (\d+)\)", (ROOT / "setup.py").read_text(), re.MULTILINE).groups()
    target = f"-DTORCH_TARGET_VERSION=0x{int(major):02x}{int(minor):02x}000000000000"
    folders = [HERE, source.parent, *include_paths()]
    flags = shlex.split(os.environ.get("CXXFLAGS", ""))
    return [*(compiler() or ["c++"]), *FLAGS, target, *(f"-I{folder}" for folder in folders), *flags]
