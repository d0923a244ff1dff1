"""Defines the compiled module `external.soft_nms._soft_nms` for cffi. setup.py reads this file."""

import os
from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef(
    "int soft_nms(float *rows, const int64_t *labels, int64_t n, int64_t columns, int method, float sigma,"
    " float overlap, float floor_score, int merge, float exponent, unsigned char *kept);"
)
# setuptools executes this file from the repository's root, without __file__
source = Path("external/soft_nms/soft_nms.c").read_text()
posix = os.name == "posix"
ffi.set_source(
    "external.soft_nms._soft_nms",
    source,
    extra_compile_args=["-O3", "-ffp-contract=off"] if posix else [],
    libraries=["m"] if posix else [],
)
