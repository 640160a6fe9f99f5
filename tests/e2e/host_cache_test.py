"""Experts that come over TCP one by one, when tokens are routed to them (--host-cache)."""

import json
import os
import re
import signal
import subprocess
import unittest

import grpc

import golden
from harness import (BACKEND, COMPUTED, EndToEndTest, Generation, ctl, eventually, free_port,
                     generate)

MODEL = 'qwen3moe-kq'
PROMPT = [5, 6, 7, 8, 9]
TOKENS = 60
# Far from greedy, so that tokens go to many experts.
SAMPLING = {'temperature': 2.0, 'seed': 5}
# On a GPU it is also the model that must not fit; the CPU has no use for it.
FLAGS = ('--context-tokens=256', '--expert-cache=0')


class HostCacheTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = os.path.abspath(golden.path(MODEL))
        cls.weightd = cls.start_weightd({'m': cls.path})
        # What the same weights give when all of them are at hand.
        worker = cls.start_worker(cls.weightd, 'm', *FLAGS)
        cls.expected = cls.ids(worker)
        worker.kill()
        cls.smallest = cls.smallest_cache()

    @classmethod
    def ids(cls, worker):
        out = ctl('generate', f'--worker={worker.address}', f'--tokens={json.dumps(PROMPT)}',
                  f'--max-tokens={TOKENS}', '--ignore-end-of-text', '--json',
                  *[f'--{name}={value}' for name, value in SAMPLING.items()])
        return [token for line in out.splitlines() for token in json.loads(line)['tokens']]

    @classmethod
    def smallest_cache(cls):
        """What the worker says that it needs when it is given far too little."""
        done = subprocess.run([COMPUTED, f'--weights={cls.weightd.address}', '--model=m',
                               '--listen=127.0.0.1:0', f'--backend={BACKEND}', *FLAGS,
                               '--host-cache=1KiB'], capture_output=True, timeout=120, check=False)
        assert done.returncode == 1 and done.stdout == b'', done
        return int(re.search(rb'--host-cache.* the smallest is (\d+) bytes\n\Z', done.stderr)[1])

    def start_cached(self, size, weightd=None):
        return self.start_worker((weightd or self.weightd).address, 'm', *FLAGS,
                                 f'--host-cache={size}')

    def start_own_weightd(self):
        """One on a fixed port, so that it can come back."""
        return self.start_weightd({'m': self.path}, listen=f'127.0.0.1:{free_port()}')

    def generate(self, worker, **options):
        return generate(self.stub(worker, 'inference'), tokens=PROMPT, max_tokens=TOKENS,
                        ignore_end_of_text=True, sampling=SAMPLING, **options)

    def show(self, command, worker):
        return json.loads(ctl(command, f'--worker={worker.address}', '--json'))

    def test_gives_the_same_text_and_counts_what_it_fetches(self):
        received = []
        for size in (self.smallest, '1GiB'):
            worker = self.start_cached(size)
            cached = int(self.show('placement', worker)['cached_bytes'])
            self.assertEqual(self.ids(worker), self.expected)
            layers = self.show('experts', worker)['layers']
            self.assertTrue(all(int(layer['host_misses']) > 0 for layer in layers), layers)
            received.append(sum(int(layer['host_bytes_fetched']) for layer in layers))
            purposes = {use['purpose']: int(use['bytes'])
                        for use in self.show('memory', worker)['uses']}
            if size == self.smallest:
                self.assertEqual(purposes['host cache of experts'], self.smallest)
            self.assertRegex(ctl('experts', f'--worker={worker.address}'),
                             r"HOST HITS(.|\n)*in the host's memory: hits [\d.]+ % of \d+, fetched ")
        # One token's experts are fetched anew again and again; with room for all, each once.
        self.assertGreater(received[0], cached)
        self.assertLessEqual(received[1], cached)

    def test_without_a_cache_experts_are_no_different(self):
        worker = self.start_cached(0)
        self.assertEqual(self.ids(worker), self.expected)
        self.assertEqual(int(self.show('placement', worker).get('cached_bytes', 0)), 0)

    def test_less_than_the_smallest_cache_is_refused(self):
        with self.assertRaisesRegex(AssertionError, 'the smallest is'):
            self.start_cached(self.smallest - 1)

    def test_weightd_comes_back_in_the_middle_of_a_text(self):
        """Without its experts the worker waits, and goes on where it was when they are there again."""
        weightd = self.start_own_weightd()
        worker = self.start_cached(self.smallest, weightd)
        call = self.generate(worker)
        ids = list(next(call).tokens)
        weightd.signal(signal.SIGKILL)
        weightd.wait()
        weightd = self.start_weightd({'m': self.path}, listen=weightd.address)
        ids += Generation(call).ids
        self.assertEqual(ids, self.expected)
        eventually(lambda: [s for s in self.sessions(weightd) if s.kind == 'lease'],
                   'the worker does not reattach')
        self.assertEqual(self.ids(worker), self.expected)

    def test_weightd_stays_away(self):
        """A request that gives up gets no wrong token, and none gets one afterwards."""
        weightd = self.start_own_weightd()
        worker = self.start_cached(self.smallest, weightd)
        call = self.generate(worker, timeout=20)
        ids = list(next(call).tokens)
        weightd.signal(signal.SIGKILL)
        weightd.wait()
        second = self.generate(worker, timeout=2)
        with self.assertRaises(grpc.RpcError) as caught:
            for response in second:
                self.assertEqual(list(response.tokens), [])
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        call.cancel()
        self.assertEqual(ids, self.expected[:len(ids)])
        self.start_weightd({'m': self.path}, listen=weightd.address)
        self.assertEqual(self.ids(worker), self.expected)


if __name__ == '__main__':
    unittest.main()
