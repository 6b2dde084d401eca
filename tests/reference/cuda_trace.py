"""What a training step on a GPU is made of, by the trace that cuda_trace.c writes.

    python tests/reference/cuda_trace.py trace.txt

A step ends with the optimizer's kernels. Of the last whole one: its time, how long any kernel ran, the usual wait between
two, the longest waits and what came after them, and the kernels by their share.
"""

import collections
import statistics
import sys

OPTIMIZER = "step_kernel"
BETWEEN_STEPS = 15e6
SHOWN = 30

kernels = []
for line in open(sys.argv[1]):
    kind, *fields = line.split()
    if kind == "kernel":
        begin, time, _, grid, _, registers, shared, name = fields
        kernels.append((int(begin), int(time), name, f"{grid}, {registers} registers, {shared} bytes"))
kernels.sort()

steps = []
last = -BETWEEN_STEPS
for begin, _, name, _ in kernels:
    if name.startswith(OPTIMIZER):
        if begin - last > BETWEEN_STEPS:
            steps.append(begin)
        last = begin
if len(steps) < 3:
    sys.exit("the trace has no three steps")
print("steps, ms:", *(f"{(b - a) / 1e6:.1f}" for a, b in zip(steps, steps[1:])))

first, after = steps[-3], steps[-2]
step = [kernel for kernel in kernels if first <= kernel[0] < after]
ran, until, waits = 0, first, []
for begin, time, name, _ in step:
    if begin > until:
        waits.append((begin - until, until - first, name))
    ran += max(0, begin + time - max(begin, until))
    until = max(until, begin + time)
print(f"one of {(after - first) / 1e6:.1f} ms: {len(step)} kernels ran for {ran / 1e6:.1f} ms")
print(f"  median of {len(waits)} waits {statistics.median(wait for wait, *_ in waits) / 1e3:.2f} us")
for wait, at, name in sorted(waits, reverse=True)[:8]:
    print(f"  waited {wait / 1e6:6.2f} ms at {at / 1e6:6.1f} ms for {name}")

total, count, largest = collections.Counter(), collections.Counter(), {}
for _, time, name, shape in step:
    total[name] += time
    count[name] += 1
    largest[name] = max(largest.get(name, (0, "")), (time, shape))
for name, time in total.most_common(SHOWN):
    print(f"{time / 1e6:8.3f} ms in {count[name]:4}  {name}  ({largest[name][1]})")
