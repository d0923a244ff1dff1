"""Builds the compiled code in external/. Metadata and requirements are in pyproject.toml.

All compiled parts are optional: what cannot be built is skipped with a warning, and everything runs without it, more
slowly. Without an nvcc of PyTorch's CUDA version only the CPU part is built. The GPU architectures are those in
TORCH_CUDA_ARCH_LIST if it is set, else those of the installed GPUs, else DEFAULT_ARCHITECTURES (Turing and later).
"""

import os
import re
import shutil
import subprocess
import warnings
from functools import partial
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TARGET = (2, 11)  # PyTorch version of the stable ABI that the libraries use: the oldest version that can load them
DEFAULT_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0")


def cuda_home(torch_cuda: str | None) -> str | None:
    """Root folder of the CUDA toolkit of the nvcc found, or None if there is none of the given major version.

    torch_cuda: torch.version.cuda.
    """
    if torch_cuda is None:
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")
    nvcc = nvcc or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        return None
    # The nvcc found may be a link or a wrapper script; a dry run prints the folder of the real one
    plan = subprocess.run([nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True, cwd=ROOT)
    here = re.search(r"^#\$ _HERE_=(.+)$", plan.stderr + plan.stdout, re.MULTILINE)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)\.", version.stdout)
    if here is None or release is None:
        warnings.warn(f"{nvcc} does not report its folder or its version: building without CUDA", stacklevel=2)
        return None
    if release[1] != torch_cuda.split(".")[0]:
        warnings.warn(
            f"nvcc is of CUDA {release[1]} but torch of CUDA {torch_cuda}: building without CUDA", stacklevel=2
        )
        return None
    home = Path(here[1].strip()).resolve().parent
    if not (home / "include" / "cuda_runtime.h").is_file():
        warnings.warn(f"no CUDA headers in {home / 'include'}: building without CUDA", stacklevel=2)
        return None
    return str(home)


def architectures(home: str, gpus: list[str]) -> list[str]:
    """Compute capabilities to compile for: those of `gpus`, or the default ones, that the toolkit supports.

    The last one includes PTX, which newer GPUs can run.
    """
    listed = subprocess.run(
        [str(Path(home) / "bin" / "nvcc"), "--list-gpu-arch"], capture_output=True, text=True
    ).stdout
    known = [arch for arch in gpus or DEFAULT_ARCHITECTURES if f"compute_{arch.replace('.', '')}\n" in listed + "\n"]
    return [*known[:-1], known[-1] + "+PTX"] if known else []


def torch_extensions() -> list[Extension]:
    """The libraries of each external/NAME/csrc: `_C` from its C++ sources, and `_CUDA` from its CUDA sources if CUDA
    can be compiled. Empty if torch is not installed.

    The libraries use only the stable ABI of PyTorch as of TARGET, and no symbols of Python. So a library built with one
    PyTorch can be loaded by any other from TARGET on. The CUDA kernels are in a separate library, so that `_C` can also
    be loaded by a PyTorch without CUDA or with another CUDA version.
    """
    try:
        import torch
    except ImportError:
        warnings.warn("torch is not installed: building without the kernels that need it", stacklevel=2)
        return []
    home = cuda_home(torch.version.cuda)
    if home is not None:
        os.environ["CUDA_HOME"] = home  # cpp_extension reads it when it is imported
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    if home is not None and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = sorted({torch.cuda.get_device_capability(i) for i in range(count)})
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(
            architectures(home, [f"{major}.{minor}" for major, minor in gpus])
        )
    defines = [("TORCH_TARGET_VERSION", f"0x{TARGET[0]:02x}{TARGET[1]:02x}000000000000")]
    flags = {"cxx": ["-O3"] if os.name != "nt" else ["/O2"]}
    extensions = []
    for folder in sorted(Path("external").glob("*/csrc")):
        headers = sorted(str(path) for path in [*folder.glob("*.h"), *folder.parent.parent.glob("*.h")])
        for name, kind, sources, macros, arguments in (
            ("_C", CppExtension, folder.glob("*.cpp"), defines, flags),
            ("_CUDA", CUDAExtension, folder.glob("*.cu"), [*defines, ("USE_CUDA", None)], {**flags, "nvcc": ["-O3"]}),
        ):
            sources = sorted(map(str, sources))
            if sources and (kind is CppExtension or home is not None):
                extensions.append(
                    kind(
                        f"external.{folder.parent.name}.{name}",
                        sources,
                        depends=headers,
                        define_macros=macros,
                        extra_compile_args=arguments,
                        py_limited_api=True,
                    )
                )
    return extensions


def build_command() -> type[build_ext]:
    """A build_ext command, PyTorch's if torch is installed, that skips extensions which do not compile."""
    try:
        from torch.utils.cpp_extension import BuildExtension
    except ImportError:
        base = build_ext
    else:
        base = BuildExtension

    class BuildWhatCompiles(base):
        def build_extensions(self) -> None:
            built = []
            # C extensions go first: PyTorch's build step modifies the compiler so that it compiles C as C++
            for extension in sorted(self.extensions, key=lambda extension: extension.language == "c++"):
                step = (
                    super().build_extensions
                    if extension.language == "c++"
                    else partial(build_ext.build_extensions, self)
                )
                self.extensions = [extension]
                try:
                    step()
                except Exception as error:
                    self.warn(f"{extension.name} does not compile from {', '.join(extension.sources)}: {error}")
                    self.warn(f"{extension.name} is skipped; stock PyTorch or NumPy replaces it, which is slower")
                    continue
                built.append(extension)
            self.extensions = built  # build_ext copies the libraries of these

    return BuildWhatCompiles


class NoWheel(bdist_wheel):
    """Refuses to build a wheel. `pip install -e .` does not run this command."""

    def run(self) -> None:
        raise SystemExit(
            "error: this project runs from a clone, not from a wheel, which would lack train.py and test.py: "
            "git clone the repository, then `pip install --no-build-isolation -e .` in it"
        )


setup(
    ext_modules=torch_extensions(),
    cffi_modules=["external/soft_nms/build.py:ffi"],
    cmdclass={"build_ext": build_command(), "bdist_wheel": NoWheel},
)
