"""Runs the daemons under load for a while, with faults, and says whether anything is left behind.

    tests/fault/soak.sh [--seconds=N] [--seed=N] [--report=FILE] [--verbose]

A weight daemon, a worker that shares its pages and a worker that streams its weights in every step
are asked by clients of all manners. In the first part of the time daemons are also killed, told to
stop, stopped and continued, and the model is replaced by another one; in the second nobody dies, so
that what grows has time to show. Every answer is compared with what the same weights give when
nothing else runs. The exit code is 1 if an answer was wrong, a daemon ended by itself, a request
failed in a way that it should not, or something was not given back.
"""

import argparse
import collections
import contextlib
import datetime
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

import inspection
import soak_clients
from gguf_offload.v1 import inference_pb2_grpc
from harness import eventually
from soak_daemons import SEQUENCES, VARIANTS, WAITING, Fleet

CLIENTS = 4  # of each worker
FAULTS_SHARE = 0.55
# How much more memory of its own a daemon may have at the end of the second part than after a
# minute's worth of everything at its beginning: what allocators and thread pools keep.
MEMORY_TOLERANCE = 16 << 20
SAME = 25  # looks at the open files, 20 ms apart
BURST = 3 * (SEQUENCES + WAITING)


class Soak:
    """One run. `problems` is empty if all was well."""

    def __init__(self, seconds, seed, verbose=False):
        self.seconds = seconds
        self.seed = seed
        self.verbose = verbose
        self.rng = random.Random(seed)
        self.tally = soak_clients.Tally()
        self.faults = collections.Counter()
        self.checks = []  # (what, before, after, whether it is all right)
        self.problems = self.tally.problems
        self.folder = tempfile.mkdtemp(prefix='soak', dir='/tmp')
        self.fleet = None
        self.elapsed = 0

    def run(self):
        began = time.monotonic()
        print(f'soak: {self.seconds} s, --seed={self.seed}', flush=True)
        try:
            self.fleet = Fleet(self.folder)
            self.learn_answers()
            self.part(FAULTS_SHARE * self.seconds,
                      {self.kill_worker: 4, self.kill_weightd: 2, self.stop_worker: 2,
                       self.stop_weightd: 1, self.load: 3, self.burst: 3, self.pause: 3})
            self.settle()
            self.warm_up()
            before = self.measure()
            self.part((1 - FAULTS_SHARE) * self.seconds,
                      {self.load: 2, self.burst: 4, self.pause: 2})
            self.compare(before, self.measure(before))
        except Exception as error:
            self.tally.problem(f'{type(error).__name__}: {error}')
            raise
        finally:
            self.elapsed = time.monotonic() - began
            if self.fleet is not None:
                self.fleet.kill_all()
            if self.problems:
                print(f'what the daemons logged is in {self.folder}', flush=True)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    def note(self, event):
        if self.verbose:
            print(f'{datetime.datetime.utcnow().time()} {event}', flush=True)

    def learn_answers(self):
        self.prompts = soak_clients.make_prompts(self.rng)
        for variant in reversed(VARIANTS):
            if self.fleet.variant != variant:
                self.fleet.load(variant, by_signal=False)
                self.restart(self.fleet.shared, signal.SIGTERM)
            with self.fleet.shared.channel() as channel:
                soak_clients.answer_alone(inference_pb2_grpc.InferenceServiceStub(channel),
                                          self.prompts, variant)
        first, second = ([p.answers[v] for p in self.prompts] for v in VARIANTS)
        assert all(a != b for a, b in zip(first, second)), 'the variants answer alike'

    # Faults. Each is over when it returns.

    def restart(self, worker, number):
        code = worker.end(number)
        self.fleet.start_worker(worker)
        expected = 0 if number == signal.SIGTERM else -number
        if code != expected:
            self.tally.problem(f'{worker.name} ended with {code} after signal {number}')

    def kill_worker(self):
        worker = self.rng.choice(self.fleet.workers)
        self.restart(worker, signal.SIGKILL)
        return f'SIGKILL {worker.name}'

    def stop_worker(self):
        worker = self.rng.choice(self.fleet.workers)
        self.restart(worker, signal.SIGTERM)
        return f'SIGTERM {worker.name}'

    def kill_weightd(self):
        self.fleet.restart_weightd(signal.SIGKILL)
        return 'SIGKILL weightd'

    def stop_weightd(self):
        code = self.fleet.restart_weightd(signal.SIGTERM)
        if code != 0:
            self.tally.problem(f'weightd ended with {code} after SIGTERM')
        return 'SIGTERM weightd'

    def load(self):
        by_signal = self.rng.random() < 0.5
        self.fleet.load(self.rng.choice(VARIANTS), by_signal)
        return 'model replaced, ' + ('SIGHUP' if by_signal else 'LoadModel')

    def burst(self):
        soak_clients.burst(self.rng.choice(self.fleet.workers), self.prompts, self.tally, self.rng,
                           BURST)
        return f'burst of {BURST} requests'

    def pause(self):
        member = self.rng.choice(self.fleet.members)
        member.pause(self.rng.uniform(0.1, 2.0), threading.Event())
        return f'SIGSTOP, SIGCONT {member.name}'

    # Parts.

    def part(self, seconds, faults):
        """Load for so long, with one fault after the other drawn by these weights."""
        stop = threading.Event()
        clients = [soak_clients.Client(worker, self.prompts, self.tally,
                                       self.rng.randrange(1 << 60), stop)
                   for worker in self.fleet.workers for _ in range(CLIENTS)]
        for client in clients:
            client.thread.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                stop.wait(min(self.rng.uniform(0.2, 2.0), max(0, end - time.monotonic())))
                for member in self.fleet.members:
                    if member.ended_by_itself():
                        raise AssertionError(f'{member.name} ended by itself, '
                                             f'{member.current.daemon.process.returncode}')
                fault = self.rng.choices(list(faults), faults.values())[0]
                self.note(f'{fault.__name__} begins')
                what = fault()
                self.note(f'{what} is over')
                self.faults[what] += 1
        finally:
            stop.set()
            for client in clients:
                client.thread.join()

        self.note('the clients have ended')

    def settle(self):
        """Every worker on the newest generation and attached, as at a fresh start."""
        self.fleet.load('first', by_signal=False)
        for worker in self.fleet.workers:
            self.restart(worker, signal.SIGTERM)

    def warm_up(self):
        for _ in range(3):
            for worker in self.fleet.workers:
                soak_clients.burst(worker, self.prompts, self.tally, self.rng, BURST)
        self.part(min(5.0, 0.1 * self.seconds), {self.burst: 1})

    def measure(self, before=None):
        """What the idle daemons hold, once what ends with its clients has ended."""
        def idle():
            held = self.fleet.holdings()
            return all(value == 0 for key, value in held.items()
                       if key.startswith(('requests of', 'KV bytes of')))

        eventually(idle, 'requests or KV pages are left')
        eventually(lambda: len([kind for kind, _ in self.fleet.holdings()['sessions of weightd']
                                if kind == 'lease']) == len(self.fleet.workers),
                   'there are not as many leases as workers')
        held = self.fleet.holdings()
        return held, self.settled_descriptors(before), self.fleet.own_bytes()

    def settled_descriptors(self, before):
        """Open files once they stay the same, as connections end a little after their clients. With
        an earlier measurement: once there are no more than then, unless that takes too long."""
        history = []

        def settled():
            history.append(self.fleet.descriptors())
            if before is not None:
                return not any(_more(before[1][name], names)
                               for name, names in history[-1].items())
            return len(history) > SAME and all(one == history[-1] for one in history[-SAME:])

        with contextlib.suppress(AssertionError):
            eventually(settled, 'there are more open files than before', seconds=30)
        return history[-1]

    def compare(self, before, after):
        for what in before[0]:
            self.check(what, before[0][what], after[0][what], before[0][what] == after[0][what])
        for name in before[1]:
            first, last = before[1][name], after[1][name]
            more = _more(first, last)
            self.check(f'descriptors of {name}', len(first), len(last), not more)
            if more:
                self.problems.append(f'descriptors of {name}: {dict(more)} more than before')
        for name in before[2]:
            self.check(f'own memory of {name}', f'{before[2][name] / 1e6:.1f} MB',
                       f'{after[2][name] / 1e6:.1f} MB',
                       after[2][name] - before[2][name] < MEMORY_TOLERANCE)

    def check(self, what, before, after, good):
        self.checks.append((what, before, after, good))
        if not good:
            self.tally.problem(f'{what}: {before} before, {after} after')

    # The report.

    def report(self):
        tally = self.tally
        lines = [
            f'date: {datetime.date.today()}; machine: {_processor()}',
            f'{self.elapsed:.0f} s, --seed={self.seed}; {sum(tally.outcomes.values())} requests, '
            f'{tally.tokens} tokens received and compared',
            '',
            '| outcome of a request | number |', '|---|---|',
            *(f'| {name} | {number} |' for name, number in sorted(tally.outcomes.items())),
            '',
            '| fault | number |', '|---|---|',
            *(f'| {name} | {number} |' for name, number in sorted(self.faults.items())),
            *(f'| starts of {member.name} | {member.starts} |'
              for member in (self.fleet.members if self.fleet else [])),
            '',
            '| seconds | median | 99th percentile |', '|---|---|---|',
            *(f'| {name} | {inspection.percentile(values, 50):.3f} | '
              f'{inspection.percentile(values, 99):.3f} |'
              for name, values in (('to the first token', tally.first_token_seconds),
                                   ('to the whole answer', tally.total_seconds),
                                   ('to a refusal', tally.refusal_seconds))),
            '',
            '| held when idle | before | after | |', '|---|---|---|---|',
            *(f'| {what} | {before} | {after} | {"" if good else "LEAKED"} |'
              for what, before, after, good in self.checks),
            '',
            *(f'PROBLEM {problem}' for problem in self.problems),
            'all was well' if not self.problems else f'{len(self.problems)} problems',
        ]
        return '\n'.join(lines) + '\n'


def _more(before, after):
    """What `after` has more of than `before`: {name: number}."""
    return collections.Counter(after) - collections.Counter(before)


def _processor():
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        models = [line.split(':', 1)[1].strip() for line in file if line.startswith('model name')]
    return f'{len(models)} x {models[0] if models else platform.machine()}'


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument('--seconds', type=float, default=120)
    parser.add_argument('--seed', type=int, default=None)
    parser.add_argument('--verbose', action='store_true', help='also print faults as they come')
    parser.add_argument('--report', help='a file that also gets the report')
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    soak = Soak(options.seconds, seed, options.verbose)
    try:
        soak.run()
    finally:
        report = soak.report()
        print(report, flush=True)
        if options.report:
            with open(options.report, 'w', encoding='utf-8') as file:
                file.write(report)
    return 1 if soak.problems else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
