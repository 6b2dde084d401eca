"""Compares programs that train, on a noisy machine: each runs while the others are stopped, by turns.

    python tests/reference/by_turns.py --turns 20 --seconds 3 target/old/clip target/release/clip -- --preset ViT-Mini-16-96

What follows `--` goes to `clip pretrain`. Prints each program's steps per second and how many cores it keeps busy, as
medians, and its rate over the first program's in the same turn: their median and quartiles. Needs Linux.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Run:
    """A training run without an end, stopped but for its turns."""

    def __init__(self, program, arguments, folder):
        self.program = program
        self.metrics = folder / "metrics.jsonl"
        self.rates, self.cores = [], []
        command = [program, "pretrain", "--plain", "--quiet", "--steps", "1000000", "--set", "eval.steps=1000000"]
        self.process = subprocess.Popen([*command, *arguments, "--out", str(folder)], stdout=subprocess.DEVNULL)
        while self.steps() == 0:
            if self.process.poll() is not None:
                raise SystemExit(f"{program} ended; its error is above")
            time.sleep(0.1)
        self.send(signal.SIGSTOP)

    def send(self, what):
        self.process.send_signal(what)

    def steps(self):
        return self.metrics.read_bytes().count(b"\n") if self.metrics.exists() else 0

    def next_step(self):
        """Waits for the end of a step, and counts the steps up to there."""
        before = self.steps()
        while (steps := self.steps()) == before:
            time.sleep(0.001)
        return steps

    def processor_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def turn(self, seconds):
        self.send(signal.SIGCONT)
        self.next_step()  # The one that was stopped.
        first, began, used = self.next_step(), time.monotonic(), self.processor_seconds()
        time.sleep(seconds)
        last, took = self.next_step(), time.monotonic() - began
        self.rates.append((last - first) / took)
        self.cores.append((self.processor_seconds() - used) / took)
        self.send(signal.SIGSTOP)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=20, help="at least 2")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("programs", nargs="+")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, arguments = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        try:
            for at, program in enumerate(options.programs):
                runs.append(Run(program, arguments, Path(folder) / str(at)))
            for _ in range(options.turns):
                for run in runs:
                    run.turn(options.seconds)
        finally:
            for run in runs:
                run.process.kill()
                run.process.wait()
    for run in runs:
        ratios = [rate / first for rate, first in zip(run.rates, runs[0].rates)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{run.program}: {statistics.median(run.rates):.2f} steps/s on {statistics.median(run.cores):.2f} cores, "
            f"{middle:.3f} ({low:.3f} to {high:.3f}) of the first's"
        )


if __name__ == "__main__":
    main()
