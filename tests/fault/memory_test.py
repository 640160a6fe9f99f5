"""Case 39: memory runs out, of the KV cache, of the host's budget, of the GPU."""

import concurrent.futures
import os
import subprocess
import unittest

import grpc

import inspection
from gguf_offload.v1 import inference_pb2_grpc
from harness import (BACKEND, COMPUTED, EndToEndTest, Generation, eventually, generate, make_model)

CONTEXT = 1024
KV_TOKENS = 512  # less than one sequence may become, and of several only some fit at once


def prompt(index):
    return [5 + index, 6, 7 + 3 * index, 8]


class MemoryCases(EndToEndTest):
    """A model, a weight daemon, and what a worker with enough of everything answers."""

    TOKENS = 200

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        cls.weightd = cls.start_weightd({'m': cls.path})
        worker = cls.start_worker(cls.weightd, 'm', f'--context-tokens={CONTEXT}')
        with worker.channel() as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            cls.expected = [cls.ids(stub, index) for index in range(8)]
        worker.kill()

    @classmethod
    def ids(cls, stub, index, tokens=None):
        return Generation(generate(stub, tokens=prompt(index), max_tokens=tokens or cls.TOKENS,
                                   ignore_end_of_text=True)).ids

    def assert_nothing_left(self, worker):
        with worker.channel() as channel:
            eventually(lambda: not inspection.sessions(channel)
                       and inspection.kv_bytes_in_use(channel) == 0,
                       'requests or their KV cache are left')

    def refused_start(self, *flags):
        """The last line that a worker says that cannot start."""
        done = subprocess.run(
            [COMPUTED, f'--weights={self.weightd.address}', '--model=m', '--listen=127.0.0.1:0',
             f'--backend={BACKEND}', f'--context-tokens={CONTEXT}', *flags],
            capture_output=True, timeout=120, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, b''), done.stderr.decode())
        return done.stderr.decode()


class HostMemoryTest(MemoryCases):

    def test_case39_requests_that_the_kv_cache_cannot_hold(self):
        worker = self.start_worker(self.weightd, 'm', f'--context-tokens={CONTEXT}',
                                   f'--kv-tokens={KV_TOKENS}')
        stub = self.stub(worker, 'inference')
        with self.assertRaises(grpc.RpcError) as caught:
            list(generate(stub, tokens=[5] * (KV_TOKENS + 1)))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertRegex(caught.exception.details(), r'needs \d+ KV cache pages of \d+ there are')
        # Together they need three times what there is: they take turns.
        self.assertGreater(8 * self.TOKENS, 3 * KV_TOKENS)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda index: self.ids(stub, index), range(8)))
        self.assertEqual(answers, self.expected)
        self.assert_nothing_left(worker)

    @unittest.skipIf(BACKEND == 'cuda', 'the host has no budget of its own with a GPU')
    def test_case39_a_host_budget_that_is_too_small(self):
        self.assertRegex(self.refused_start('--host-memory=1KiB'),
                         r'\Acomputed: .*the smallest budget is \d+ bytes\n\Z')


@unittest.skipUnless(BACKEND == 'cuda', 'GGUF_OFFLOAD_BACKEND is not cuda')
class GpuMemoryTest(MemoryCases):
    """All GPU memory is taken at start: that is where it runs out, and nobody who runs is hurt."""

    TOKENS = 24  # an emulated GPU is slow

    def test_case39_more_gpu_memory_than_there_is(self):
        worker = self.start_worker(self.weightd, 'm', f'--context-tokens={CONTEXT}')
        stub = self.stub(worker, 'inference')
        running = generate(stub, tokens=prompt(0), max_tokens=self.TOKENS,
                           ignore_end_of_text=True)
        ids = list(next(running).tokens)
        # Another worker asks for more than any GPU has.
        message = self.refused_start('--gpu-memory=100TiB', '--kv-tokens=268435456')
        self.assertRegex(message, r'(?i)memory')
        self.assertNotRegex(message, r'(?i)terminate|segmentation|core dumped')
        self.assertEqual(ids + Generation(running).ids, self.expected[0])
        self.assertEqual(self.ids(stub, 1), self.expected[1])
        self.assert_nothing_left(worker)

    def test_case39_a_budget_that_is_too_small(self):
        self.assertRegex(self.refused_start('--gpu-memory=1MiB'), r'smallest budget +[\d.]+ MiB')


del MemoryCases  # no test of its own

if __name__ == '__main__':
    unittest.main()
