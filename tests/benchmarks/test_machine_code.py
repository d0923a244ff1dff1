"""The figures that benchmarks/machine_code.py takes from machine code."""

import pytest

from benchmarks.machine_code import ELEMENTS, GPU, LAUNCHES, Kernel, estimate, loads_in_flight, table

CODE = """
        /*0010*/                   LDG.E.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/              @!P1 LDG.E.U16.CONSTANT R5, desc[UR4][R2.64+0x4] ;
        /*0030*/                   IADD3 R9, P0, R2, UR6, RZ ;
        /*0040*/                   LDG.E R6, desc[UR4][R8.64] ;
        /*0050*/                   FSETP.GT.AND P0, PT, R5, R40, PT ;
        /*0060*/               @P0 LDG.E R7, desc[UR4][R8.64] ;
        /*0070*/                   LDS R10, [R11] ;
        /*0080*/                   STG.E desc[UR4][R12.64], R7 ;
        /*0090*/                   LDG.E R4, desc[UR4][R8.64] ;
"""


def test_loads_in_flight():
    """The first use of R5 waits for R4 and R5: loads return in order. R6 and R7 are fewer."""
    assert loads_in_flight(CODE) == 3
    assert loads_in_flight(CODE.replace("R5, R40", "R41, R40")) == 4
    assert loads_in_flight("") == 0


def test_estimate():
    """Few loads are bound by latency, many by bandwidth, and superfluous passes lower the share."""
    launch = LAUNCHES["backward_columns"]
    kernel = Kernel("", registers=32, stack=0, shared=0, loads=1)
    flying, share = estimate(kernel, launch, 4)
    assert flying == pytest.approx(launch.threads / GPU.processors * 4 / 1024)
    floor = 3 * ELEMENTS * 4 / GPU.bandwidth
    assert share == pytest.approx(floor / (2 * ELEMENTS * GPU.latency / launch.threads))
    assert estimate(kernel._replace(loads=64), launch, 4)[1] == 1
    assert estimate(kernel._replace(loads=64), launch._replace(writes=2), 4)[1] == pytest.approx(3 / 4)
    # 255 registers leave room for one block of 256 threads
    assert estimate(kernel._replace(registers=255), launch, 4)[0] == pytest.approx(256 * 4 / 1024)


def test_table_names_the_instances_that_are_used():
    names = [
        "void corner_pool::pool_rows<float, float, false>(int)",
        "void corner_pool::pool_rows<float, float, true>(int)",
    ]
    lines = list(table([Kernel(name, 40, 0, 8448, 16 * i + 8) for i, name in enumerate(names)]))
    assert len(lines) == 3 and lines[2].startswith("| pool_rows | float | 40 | 0 | 8 |")


def test_table_of_all_instances():
    names = ["pool_pair<float, float, (int)16>", "pool_pair<c10::Half, float, 8>", "pool_pair<double, double, 16>"]
    lines = list(table([Kernel(f"void corner_pool::{name}(int)", 40, 0, 0, 9) for name in names], every=True))
    assert lines[2].startswith("| pool_pair | float | 40 | 0 | 9 | ") and len(lines) == 5
    assert lines[3:] == ["| pool_pair<8> | Half | 40 | 0 | 9 | | |", "| pool_pair<16> | double | 40 | 0 | 9 | | |"]
