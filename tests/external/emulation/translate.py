"""Translation of the CUDA sources in external/ into C++ for emulated_cuda.h."""

import re
from pathlib import Path

FUNCTION = r"[A-Za-z_]\w*(?:<[^<>;()]*>)?"  # name of a kernel, with template arguments
KERNEL = r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\("  # the beginning of its definition
# Host code that needs CUDA, and what replaces it. The operators are registered for CPU tensors. Limits of the grid
# size, which are called kMax..., can be lowered.
HOST_CODE = (
    (r"#include <cuda_runtime\.h>", '#include "emulated_cuda.h"'),
    (r"const torch::stable::accelerator::DeviceGuard guard\(.*\);", ""),
    (r"native::current_stream\(\w+\)", "cudaStream_t()"),
    (r"STD_CUDA_KERNEL_LAUNCH_CHECK\(\)", "static_cast<void>(stream)"),
    (r"(STABLE_TORCH_LIBRARY_IMPL\(\w+, )CUDA", r"\1CPU"),
    (r"constexpr (int64_t kMax\w+) = ([^;]+);", r"const \1 = emulated::max_blocks(\2);"),
)


def translate(text: str, path: Path) -> str:
    """C++ source that runs the kernels of a .cu file on the CPU. Lines keep their numbers.

    Args:
        text: the CUDA source.
        path: its file, named in messages of the compiler.

    Raises ValueError if the source lacks code that is expected in every .cu file, or uses CUDA in an unknown way.
    """
    text = _count_launches(text)
    text = _translate_shared_variables(text)
    text = _translate_launches(text)
    unknown = re.search(r"__shared__|<<<|\b(cuda(?!Stream_t)[A-Z]|atomic[A-Z]|__shfl_|__ballot_|__ldg)\w*", text)
    if unknown:
        raise ValueError(f"{path}: the emulation does not support {unknown[0]}")
    for pattern, replacement in HOST_CODE:
        text, count = re.subn(pattern, replacement, text)
        if count == 0:
            raise ValueError(f"{path}: nothing matches {pattern}")
    return f'#line 1 "{path}"\n{text}'


def kernels(text: str) -> set[str]:
    """The names of the kernels in a CUDA source."""
    return set(re.findall(KERNEL, text))


def _count_launches(text: str) -> str:
    """Insert a call of emulated::enter_kernel at the start of each kernel."""
    for kernel in reversed(list(re.finditer(KERNEL, text))):
        _, end = _split_arguments(text, kernel.end())
        body = text.index("{", end) + 1
        text = text[:body] + " emulated::enter_kernel(__PRETTY_FUNCTION__);" + text[body:]
    return text


def _translate_shared_variables(text: str) -> str:
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* const \2 = emulated::dynamic_shared<\1>();", text)
    pattern = r"__shared__ (\w+) (\w+)((?:\[[^]]*\])+);"
    return re.sub(pattern, r"auto& \2 = emulated::shared<\1\3>(__LINE__);", text)


def _translate_launches(text: str) -> str:
    """Replace kernel<<<grid, block, ...>>>(arguments) by a call of emulated::launch."""
    while launch := re.search(rf"({FUNCTION})\s*<<<", text):
        (grid, block, *more), end = _split_arguments(text, launch.end())
        arguments, last = _split_arguments(text, text.index("(", end) + 1)
        body = f"[&] {{ {launch[1]}({', '.join(arguments)}); }}"
        newlines = "\n" * text.count("\n", launch.start(), last)
        call = f"emulated::launch({grid}, {block}, {more[0] if more else 0}, {body}){newlines}"
        text = text[: launch.start()] + call + text[last + 1 :]
    return text


def _split_arguments(text: str, start: int) -> tuple[list[str], int]:
    """The arguments in text[start:], separated by commas, and where they end: at the closing ")" or ">>>"."""
    parts, depth, at = [""], 0, start
    while depth > 0 or not (text.startswith(">>>", at) or text[at] == ")"):
        if text[at] == "," and depth == 0:
            parts.append("")
        else:
            depth += (text[at] in "([{") - (text[at] in ")]}")
            parts[-1] += text[at]
        at += 1
    return [" ".join(part.split()) for part in parts], at
