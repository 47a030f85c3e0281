"""Interleaved rounds of several ways to do one job: only ratios taken side by side in one run mean anything."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np


@dataclass(frozen=True)
class Bar:
    """What must hold: the second way takes at least `least` times as long as the first."""

    number: str
    fast: str
    slow: str
    least: float
    words: str


def rounds(ways: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, np.ndarray]:
    """Name to (repeats, 2): wall and process CPU seconds for one unit of work; a way returns how many units it did."""
    for work in ways.values():
        work()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            units = work()
            taken[name].append(((time.perf_counter() - wall) / units, (time.process_time() - cpu) / units))
    return {name: np.array(values) for name, values in taken.items()}


def ratio(taken: Mapping[str, np.ndarray], slow: str, fast: str) -> tuple[float, float]:
    """Median over rounds of slow / fast, in wall and in CPU time."""
    wall, cpu = np.median(taken[slow] / taken[fast], axis=0)
    return float(wall), float(cpu)


def report(taken: Mapping[str, np.ndarray], bars: list[Bar], unit: str) -> bool:
    """Prints the table of rates and that of the bars; whether all hold, in wall or in CPU time."""
    for name, values in taken.items():
        wall, cpu = np.median(values, axis=0)
        print(f"  {name:<52}{1 / wall:>12,.0f} {unit}/s {1 / max(cpu, 1e-9):>12,.0f} {unit}/cpu-s")
    held = True
    for bar in bars:
        if bar.slow not in taken or bar.fast not in taken:
            print(f"  bar {bar.number}: not measured ({bar.words})")
            continue
        wall, cpu = ratio(taken, bar.slow, bar.fast)
        holds = max(wall, cpu) >= bar.least
        held &= holds
        print(
            f"  bar {bar.number}: {bar.words}: {wall:.2f}x wall, {cpu:.2f}x cpu, needs {bar.least:g}x: "
            f"{'holds' if holds else 'MISSED'}"
        )
    return held


def anonymous_mb() -> float:
    """MB of memory that is this process's own, without mapped files (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")
