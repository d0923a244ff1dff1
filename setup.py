"""Build of the compiled code in external/. Metadata and requirements are in pyproject.toml.

Whatever cannot be built is left out with a warning: everything runs without it, slower. No nvcc, or one that does not
fit torch: the CPU part builds alone. Architectures of the CUDA part: TORCH_CUDA_ARCH_LIST if set, else those of the
GPUs found, else a set from Turing on.
"""

import os
import re
import shutil
import subprocess
import warnings
from functools import partial
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TARGET = (2, 11)  # the torch whose stable ABI the libraries keep to: the oldest they load in
DEFAULT_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0")


def cuda_home(torch_cuda: str | None) -> str | None:
    """Root of the CUDA toolkit whose nvcc is found, None if there is none that fits torch."""
    if torch_cuda is None:
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")
    nvcc = nvcc or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        return None
    # The nvcc found may be a link or a script that calls the real one, so it is asked where it lives
    plan = subprocess.run([nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True, cwd=ROOT)
    here = re.search(r"^#\$ _HERE_=(.+)$", plan.stderr + plan.stdout, re.MULTILINE)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)\.", version.stdout)
    if here is None or release is None:
        warnings.warn(f"{nvcc} does not say where it lives or which version it is: building without CUDA", stacklevel=2)
        return None
    if release[1] != torch_cuda.split(".")[0]:
        warnings.warn(f"nvcc is of CUDA {release[1]}, torch of {torch_cuda}: building without CUDA", stacklevel=2)
        return None
    home = Path(here[1].strip()).resolve().parent
    if not (home / "include" / "cuda_runtime.h").is_file():
        warnings.warn(f"no CUDA headers in {home / 'include'}: building without CUDA", stacklevel=2)
        return None
    return str(home)


def architectures(home: str, gpus: list[str]) -> list[str]:
    """Compute capabilities to compile for, those the toolkit knows, with PTX of the last for newer GPUs."""
    listed = subprocess.run(
        [str(Path(home) / "bin" / "nvcc"), "--list-gpu-arch"], capture_output=True, text=True
    ).stdout
    known = [arch for arch in gpus or DEFAULT_ARCHITECTURES if f"compute_{arch.replace('.', '')}\n" in listed + "\n"]
    return [*known[:-1], known[-1] + "+PTX"] if known else []


def torch_extensions() -> list[Extension]:
    """Libraries of every external/NAME/csrc: `_C` of its C++, and, where CUDA can be compiled, `_CUDA` of its CUDA
    sources. Empty without torch.

    They use torch's stable ABI alone, as of TARGET, and nothing of Python: what one torch builds, any other from TARGET
    on loads. The CUDA kernels lie apart so that the CPU's load under a torch without CUDA, or of another CUDA.
    """
    try:
        import torch
    except ImportError:
        warnings.warn("torch is not installed here: building without the kernels that need it", stacklevel=2)
        return []
    home = cuda_home(torch.version.cuda)
    if home is not None:
        os.environ["CUDA_HOME"] = home  # before cpp_extension is imported: it looks once
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
    """The build step: torch's where torch is, changed so that what does not compile is left out."""
    try:
        from torch.utils.cpp_extension import BuildExtension
    except ImportError:
        base = build_ext
    else:
        base = BuildExtension

    class BuildWhatCompiles(base):
        def build_extensions(self) -> None:
            built = []
            # torch's build step leaves its mark on the compiler (C would be compiled as C++), so plain C goes first
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
                    self.warn(f"{extension.name} is left out; stock PyTorch or numpy takes its place, slower")
                    continue
                built.append(extension)
            self.extensions = built  # so that only these are copied

    return BuildWhatCompiles


setup(
    ext_modules=torch_extensions(),
    cffi_modules=["external/soft_nms/build.py:ffi"],
    cmdclass={"build_ext": build_command()},
)
