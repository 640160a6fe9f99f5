"""Where the memory is: one copy of the weights for all processes of a host, little besides."""

import os
import unittest

import golden
import process_memory
from gguf_offload.v1 import diagnostics_pb2
from harness import EXACT, EndToEndTest, Generation, generate, make_model

MIB = 1 << 20


class SharingTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'shared.gguf'), 'qwen3-8b', 'Q4_K_M', 5)
        cls.file_bytes = os.stat(cls.path).st_size
        cls.weightd = cls.start_weightd({'m': cls.path}, '--residency=warm')
        cls.workers = [cls.start_worker(cls.weightd, 'm', '--context-tokens=1024')
                       for _ in range(2)]

    def prefill(self, worker):
        """Every layer's weights are read at least once."""
        return Generation(generate(self.stub(worker, 'inference'), tokens=list(range(20, 84)),
                                   max_tokens=2, ignore_end_of_text=True)).ids

    def test_pages_exist_once(self):
        self.wait_until_warm(self.weightd)
        self.assertEqual(self.prefill(self.workers[0]), self.prefill(self.workers[1]))
        proportional = 0
        for daemon in (self.weightd, *self.workers):
            maps = process_memory.mappings_of(daemon.pid, 'shared.gguf')
            self.assertGreaterEqual(maps['Size'], self.file_bytes * 0.99)
            self.assertEqual(maps['Anonymous'], 0, 'pages have been copied')
            proportional += maps['Pss']
            if daemon is not self.weightd:
                # What a worker has mapped, weightd has too. Weightd alone may have the rows of the
                # embedding that no prompt has asked for.
                self.assertLess(maps['Private_Clean'] + maps['Private_Dirty'],
                                self.file_bytes * 0.01)
        # Every process counts its share of each page: all shares make the file, once.
        self.assertLessEqual(proportional, self.file_bytes * 1.02)
        self.assertGreaterEqual(proportional, self.file_bytes * 0.5)

    def test_a_worker_needs_little_memory_of_its_own(self):
        worker = self.workers[0]
        self.prefill(worker)
        memory = self.stub(worker, 'diagnostics').GetMemory(diagnostics_pb2.GetMemoryRequest(),
                                                            timeout=30)
        caches = sum(use.bytes for use in memory.uses if 'mapped' not in use.purpose)
        own = process_memory.private_bytes(worker.pid, besides='shared.gguf')
        print(f'file {self.file_bytes / MIB:.0f} MiB, private {own / MIB:.0f} MiB, of which '
              f'{caches / MIB:.0f} MiB are KV cache and activations')
        self.assertLess(own, 200 * MIB + caches)
        # The daemon says the same of itself as the operating system does.
        self.assertAlmostEqual(memory.private_bytes / MIB, own / MIB,
                               delta=max(32, 0.1 * own / MIB))

    def test_weightd_needs_little_memory_of_its_own(self):
        own = process_memory.private_bytes(self.weightd.pid, besides='shared.gguf')
        self.assertLess(own, 200 * MIB)


class RemoteMemoryTest(EndToEndTest):
    """Without shared memory the worker has its own copy, and no more than one."""

    def test_one_copy(self):
        path = make_model(os.path.join(self.folder, 'remote.gguf'), 'qwen2.5-0.5b', 'Q8_0', 4)
        weightd = self.start_weightd({'m': path})
        worker = self.start_worker(weightd.address, 'm', '--context-tokens=512')
        Generation(generate(self.stub(worker, 'inference'), tokens=[5, 6, 7], max_tokens=2,
                            ignore_end_of_text=True))
        self.assertEqual(process_memory.mappings_of(worker.pid, 'remote.gguf'), {})
        memory = self.stub(worker, 'diagnostics').GetMemory(diagnostics_pb2.GetMemoryRequest(),
                                                            timeout=30)
        accounted = sum(use.bytes for use in memory.uses)
        self.assertGreaterEqual(accounted, os.stat(path).st_size * 0.95)
        self.assertLess(process_memory.private_bytes(worker.pid), 200 * MIB + accounted)


class GoldenFileTest(EndToEndTest):

    def test_two_models_on_one_daemon(self):
        """Workers of different models on one weight daemon do not disturb each other."""
        index = golden.index()
        names = ['llama-f32', 'qwen3-iq']
        weightd = self.start_weightd({name: golden.path(name) for name in names})
        workers = {name: self.start_worker(weightd, name, f'--activations={EXACT}')
                   for name in names}
        for name in names * 2:
            got = Generation(generate(self.stub(workers[name], 'inference'),
                                      tokens=index[name]['tokens'], ignore_end_of_text=True))
            self.assertEqual(got.ids, index[name]['greedy'])


if __name__ == '__main__':
    unittest.main()
