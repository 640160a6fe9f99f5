"""Case 36: ten times more requests than a worker can take.

What is asserted is what must hold on any machine: who is turned away is told so and when to come
back, whoever is not gets the right answer, nothing is left behind, memory does not grow. How fast
it is depends on the machine and on what else runs there, so it is printed and no verdict. Worker
and clients get a core each, so that the figures are of the worker and not of its clients.
"""

import os
import threading
import time

import grpc

import inspection
from gguf_offload.v1 import inference_pb2_grpc
from harness import EndToEndTest, Generation, eventually, generate, make_model

SEQUENCES = 8
WAITING = 8
PROMPTS = 16
TOKENS = 48
TIMES = 10
# How long the best throughput is measured at each number of clients, and the overload.
SECONDS = float(os.environ.get('GGUF_OFFLOAD_OVERLOAD_SECONDS', '6'))
CLIENTS = (2, 4, 8)
WARM_UP = 1.0
# The allocator keeps what requests needed that were there at one time, hundreds on a busy machine.
# If each of the thousands left 32 KiB behind, it would be more than this.
GROWTH = 64 << 20


def prompt(index):
    return [5 + index % PROMPTS, 6, 7 + 3 * (index % PROMPTS), 8]


def keep_to_core(pid, core):
    """All threads of a process, and those that they start."""
    for thread in os.listdir(f'/proc/{pid}/task'):
        os.sched_setaffinity(int(thread), {core})


class Outcomes:
    """What became of many requests. Thread safe.

    Tokens count while they arrive, from `WARM_UP` seconds after the beginning until `stop`, so that
    requests that run at either end count with what of them lies within.
    """

    def __init__(self, expected):
        self.expected = expected
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.ended = None
        self.tokens = 0
        self.accepted = []  # seconds until the end
        self.rejected = []  # seconds until the refusal
        self.retries = []   # seconds to wait that refusals name, None if they do not
        self.wrong = []

    def stop(self):
        with self.lock:
            self.ended = time.monotonic()

    def tokens_per_second(self):
        return self.tokens / (self.ended - self.began - WARM_UP)

    def _count(self, tokens):
        with self.lock:
            if self.ended is None and time.monotonic() - self.began > WARM_UP:
                self.tokens += tokens

    def request(self, stub, index):
        began = time.monotonic()
        ids = []
        error = None
        try:
            for response in generate(stub, tokens=prompt(index), max_tokens=TOKENS,
                                     ignore_end_of_text=True, timeout=120):
                ids.extend(response.tokens)
                self._count(len(response.tokens))
        except grpc.RpcError as caught:
            error = caught
        seconds = time.monotonic() - began
        with self.lock:
            if error is None:
                self.accepted.append(seconds)
                if ids != self.expected[index % PROMPTS]:
                    self.wrong.append((index, ids))
            elif error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and not ids:
                self.rejected.append(seconds)
                self.retries.append(inspection.retry_seconds(error))
            else:
                self.wrong.append((index, error.code(), error.details()))


class OverloadTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 32)
        cls.weightd = cls.start_weightd({'m': path})
        cls.worker = cls.start_worker(
            cls.weightd, 'm', '--context-tokens=512', f'--max-sequences={SEQUENCES}',
            f'--max-waiting={WAITING}', '--threads=1')
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            keep_to_core(cls.worker.pid, cores[0])
            keep_to_core('self', cores[1])
            cls.addClassCleanup(os.sched_setaffinity, 0, cores)
        cls.channel = cls.worker.channel()
        cls.addClassCleanup(cls.channel.close)
        cls.inference = inference_pb2_grpc.InferenceServiceStub(cls.channel)
        cls.expected = [
            Generation(generate(cls.inference, tokens=prompt(index), max_tokens=TOKENS,
                                ignore_end_of_text=True)).ids for index in range(PROMPTS)]

    def closed_loop(self, clients, seconds):
        """Tokens a second of clients that ask again when they are answered."""
        outcomes = Outcomes(self.expected)

        def client(index):
            while outcomes.ended is None:
                outcomes.request(self.inference, index)
                index += 1

        threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
        for thread in threads:
            thread.start()
        threading.Event().wait(seconds)
        outcomes.stop()
        for thread in threads:
            thread.join()
        self.assertEqual(outcomes.wrong, [])
        self.assertEqual(outcomes.rejected, [])
        return outcomes.tokens_per_second()

    def offer(self, rate, seconds):
        """Requests at a fixed rate, whatever becomes of them."""
        outcomes = Outcomes(self.expected)
        pace = threading.Event()
        threads = []
        for index in range(int(rate * seconds)):
            pace.wait(outcomes.began + index / rate - time.monotonic())
            thread = threading.Thread(target=outcomes.request, args=[self.inference, index])
            thread.start()
            threads.append(thread)
        outcomes.stop()
        for thread in threads:
            thread.join()
        return outcomes

    def test_case36_ten_times_overload(self):
        rates = {clients: self.closed_loop(clients, WARM_UP + SECONDS / 2) for clients in CLIENTS}
        best = max(rates.values())
        eventually(lambda: not self.sessions(self.worker), 'requests are left')
        before = inspection.own_bytes(self.worker.pid)

        rate = TIMES * best / TOKENS
        outcomes = self.offer(rate, WARM_UP + SECONDS)
        goodput = outcomes.tokens_per_second()
        refused = len(outcomes.rejected)
        offered = refused + len(outcomes.accepted)
        print(f'''
best:      {best:.0f} tokens/s, {best / TOKENS:.1f} requests/s (of {CLIENTS} clients)
offered:   {rate:.1f} requests/s for {WARM_UP + SECONDS:.0f} s; {offered} requests, \
{len(outcomes.accepted)} accepted, {refused} refused
goodput:   {goodput:.0f} tokens/s, {goodput / best:.3f} of the best
refusal:   {1000 * inspection.percentile(outcomes.rejected, 50):.1f} ms median, \
{1000 * inspection.percentile(outcomes.rejected, 99):.1f} ms 99th percentile, \
{1000 * max(outcomes.rejected):.1f} ms at worst
retry in:  {min(r or 0 for r in outcomes.retries):.2f} to \
{max(r or 0 for r in outcomes.retries):.2f} s
answered:  {inspection.percentile(outcomes.accepted, 50):.2f} s median, \
{inspection.percentile(outcomes.accepted, 99):.2f} s 99th percentile
''', flush=True)
        self.assertEqual(outcomes.wrong, [])
        self.assertGreater(refused, offered // 2)
        self.assertGreater(len(outcomes.accepted), SEQUENCES)
        self.assertTrue(all(delay is not None and delay > 0 for delay in outcomes.retries))
        eventually(lambda: not self.sessions(self.worker)
                   and inspection.kv_bytes_in_use(self.channel) == 0,
                   'requests or their KV cache are left')
        after = inspection.own_bytes(self.worker.pid)
        print(f'memory:    {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after', flush=True)
        self.assertLess(after - before, GROWTH)


if __name__ == '__main__':
    import unittest
    unittest.main()
