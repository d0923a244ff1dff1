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


def library_name() -> str:
    """What external.corner_pool looks for; asked there without importing it, which would warn that it is not built."""
    import torch

    return "_C_torch_" + re.sub(r"\W", "_", torch.__version__)


def corner_pool_extensions() -> list[Extension]:
    """The corner pooling library, with CUDA if that can be compiled. Empty without torch."""
    try:
        import torch
    except ImportError:
        warnings.warn("torch is not installed here: building without corner pooling's compiled part", stacklevel=2)
        return []
    home = cuda_home(torch.version.cuda)
    if home is not None:
        os.environ["CUDA_HOME"] = home  # before cpp_extension is imported: it looks once
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    folder = "external/corner_pool/csrc"
    name = f"external.corner_pool.{library_name()}"
    headers = [f"{folder}/corner_pool.h", f"{folder}/directional_max.h"]
    flags = ["-O3"] if os.name != "nt" else ["/O2"]
    if home is None:
        return [CppExtension(name, [f"{folder}/corner_pool.cpp"], depends=headers, extra_compile_args={"cxx": flags})]
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = sorted({torch.cuda.get_device_capability(i) for i in range(count)})
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(
            architectures(home, [f"{major}.{minor}" for major, minor in gpus])
        )
    sources = [f"{folder}/corner_pool.cpp", f"{folder}/corner_pool_cuda.cu"]
    return [CUDAExtension(name, sources, depends=headers, extra_compile_args={"cxx": flags, "nvcc": ["-O3"]})]


def build_command() -> type[build_ext]:
    """The build step: torch's where torch is, changed so that what does not compile is left out."""
    try:
        from torch.utils.cpp_extension import BuildExtension
    except ImportError:
        base = build_ext
    else:
        base = BuildExtension.with_options(no_python_abi_suffix=True)

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
                for attempt in (extension, without_cuda(extension)):
                    if attempt is None:
                        continue
                    self.extensions = [attempt]
                    try:
                        step()
                    except Exception as error:
                        self.warn(f"{attempt.name} does not compile from {', '.join(attempt.sources)}: {error}")
                        continue
                    built.append(attempt)
                    break
                else:
                    self.warn(f"{extension.name} is left out; stock PyTorch or numpy takes its place, slower")
            self.extensions = built  # so that only these are copied

    return BuildWhatCompiles


def without_cuda(extension: Extension) -> Extension | None:
    """The same extension from its C++ sources alone; None if it has no others."""
    sources = [source for source in extension.sources if not source.endswith(".cu")]
    if sources == extension.sources:
        return None
    from torch.utils.cpp_extension import CppExtension

    flags = {"cxx": extension.extra_compile_args["cxx"]}
    cpu = CppExtension(extension.name, sources, depends=extension.depends, extra_compile_args=flags)
    for key, value in vars(extension).items():
        vars(cpu).setdefault(key, value)  # what setuptools noted on it before building
    return cpu


setup(
    ext_modules=corner_pool_extensions(),
    cffi_modules=["external/soft_nms/build.py:ffi"],
    cmdclass={"build_ext": build_command()},
)
