#!/usr/bin/env python3
"""Draws what `offload_bench --row=r1-curve` printed: plot_curve.py CURVE.csv OUT.png

Needs matplotlib (Debian: python3-matplotlib).
"""

import csv
import sys

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402


def main():
    with open(sys.argv[1], encoding='utf-8') as file:
        rows = [{name: float(value) for name, value in row.items()}
                for row in csv.DictReader(file)]
    cache = [row['cache_bytes'] / 1e9 for row in rows]
    figure, step = pyplot.subplots(figsize=(7, 4), layout='constrained')
    step.plot(cache, [row['step_ms'] for row in rows], 'o-', color='#1f4e79')
    step.set_xlabel('cache of experts, GB')
    step.set_ylabel('decode step, ms', color='#1f4e79')
    step.set_ylim(bottom=0)
    fetched = step.twinx()
    fetched.plot(cache, [row['fetched_bytes'] / 1e9 for row in rows], 's--', color='#b8632a')
    fetched.set_ylabel('fetched in a step, GB', color='#b8632a')
    fetched.set_ylim(bottom=0)
    step.set_title('DeepSeek-R1 671B shapes, UD-IQ1_S, random weights', fontsize=10)
    step.grid(alpha=0.3)
    figure.savefig(sys.argv[2], dpi=120)


if __name__ == '__main__':
    main()
