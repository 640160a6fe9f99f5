"""A worker whose model does not fit its GPU budget. Needs a GPU, or a computed that emulates one:
GGUF_OFFLOAD_BACKEND=cuda says that there is one."""

import json
import os
import re
import signal
import subprocess
import threading
import unittest

from harness import (BACKEND, COMPUTED, EndToEndTest, Generation, ctl, eventually, free_port,
                     generate, make_model)

PROMPT = [5, 6, 7, 8]
TOKENS = 40
MIB = 1 << 20


@unittest.skipUnless(BACKEND == 'cuda', 'GGUF_OFFLOAD_BACKEND is not cuda')
class GpuTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 12)
        experts = make_model(os.path.join(cls.folder, 'e.gguf'), 'tiny-qwen3moe', 'Q4_K', 6)
        cls.weightd = cls.start_weightd({'m': cls.path, 'e': experts})
        worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=512')
        with worker.channel() as channel:
            from gguf_offload.v1 import inference_pb2_grpc
            cls.expected = cls.ids(inference_pb2_grpc.InferenceServiceStub(channel))
        worker.kill()

    @staticmethod
    def ids(stub):
        return Generation(generate(stub, tokens=PROMPT, max_tokens=TOKENS,
                                   ignore_end_of_text=True)).ids

    def start_streaming(self, *flags, weightd=None):
        return self.start_worker(weightd or self.weightd, 'm', '--context-tokens=512',
                                 '--resident-weights=0', *flags)

    def show(self, command, worker):
        return json.loads(ctl(command, f'--worker={worker.address}', '--json'))

    def check_streaming(self, worker, transport):
        before = self.show('link', worker)
        self.assertEqual(self.ids(self.stub(worker, 'inference')), self.expected)
        placement, after = self.show('placement', worker), self.show('link', worker)
        self.assertEqual(placement['bytes_per_step'], placement['streamed_bytes'])
        self.assertGreater(int(placement['streamed_bytes']), os.path.getsize(self.path) // 2)
        self.assertGreater(placement['link_bytes_per_second'], 0)
        self.assertEqual(after['transport'], transport)
        # Every step moves every streamed byte; the ring may be ahead.
        moved = int(after['bytes']) - int(before.get('bytes', 0))
        step = int(placement['bytes_per_step'])
        self.assertGreaterEqual(moved, (TOKENS - 1) * step)
        self.assertLessEqual(moved, (TOKENS + 2) * step)

    def test_streams_from_the_mapped_file(self):
        worker = self.start_streaming()
        self.check_streaming(worker, 'registered')
        self.assertEqual(self.show('memory', worker).get('fallbacks', []), [])

    def test_streams_through_pinned_memory(self):
        worker = self.start_streaming('--transport=staged')
        self.check_streaming(worker, 'parallel copy')
        fallbacks = self.show('memory', worker)['fallbacks']
        self.assertEqual(len(fallbacks), 1, fallbacks)

    def test_streams_over_the_network(self):
        worker = self.start_worker(self.weightd.address, 'm', '--context-tokens=512',
                                   '--resident-weights=0')
        self.check_streaming(worker, 'stream')
        self.assertRegex(self.show('memory', worker)['fallbacks'][0], 'network')

    def test_keeps_the_budget_and_names_the_smallest(self):
        argv = [COMPUTED, f'--weights=unix:{self.weightd.socket}', '--model=m',
                '--listen=127.0.0.1:0', '--backend=cuda', '--context-tokens=512',
                '--step-tokens=64']
        done = subprocess.run([*argv, '--gpu-memory=1MiB'], capture_output=True, timeout=120,
                              check=False)
        self.assertEqual(done.returncode, 1)
        table = done.stderr.decode()
        for purpose in ('kv cache', 'activations', 'vectors and ring'):
            self.assertIn(purpose, table)
        smallest = float(re.search(r'smallest budget +([\d.]+) MiB', table)[1])
        budget = int((smallest + 1) * MIB)
        worker = self.start_worker(self.weightd, 'm', '--context-tokens=512', '--step-tokens=64',
                                   f'--gpu-memory={budget}')
        self.assertEqual(self.ids(self.stub(worker, 'inference')), self.expected)
        for length in (1, 3, 64, 65, 200, 400):
            tokens = [1 + i % 300 for i in range(length)]
            Generation(generate(self.stub(worker, 'inference'), tokens=tokens, max_tokens=2,
                                ignore_end_of_text=True))
        memory = self.show('memory', worker)
        self.assertEqual(int(memory['budget_bytes']), budget)
        self.assertLessEqual(int(memory['device_bytes']), budget)

    def test_caches_experts(self):
        whole = self.start_worker(self.weightd, 'e', '--context-tokens=512')
        expected = self.ids(self.stub(whole, 'inference'))
        uses = [layer['uses'] for layer in self.show('experts', whole)['layers']]
        self.assertEqual(len(uses), 6)
        whole.kill()
        self.assertEqual({sum(layer) for layer in uses}, {2 * (len(PROMPT) + TOKENS - 1)})

        banks = sum(int(t['bytes']) for t in json.loads(ctl(
            'tensors', 'e', f'--weights=unix:{self.weightd.socket}', '--json'))['tensors']
                    if '_exps.' in t['name'])
        worker = self.start_worker(self.weightd, 'e', '--context-tokens=512',
                                   f'--expert-cache={banks // 2}')
        before = int(self.show('link', worker).get('bytes', 0))
        self.assertEqual(self.ids(self.stub(worker, 'inference')), expected)
        self.assertEqual(int(self.show('placement', worker)['cached_bytes']), banks)
        layers = self.show('experts', worker)['layers']
        self.assertEqual([layer['uses'] for layer in layers], uses)
        for layer in layers:
            self.assertEqual(layer['experts'], 8)
            self.assertIn(layer['slots'], (3, 4))
            self.assertGreater(int(layer['hits']), 0)
            self.assertGreater(int(layer['misses']), 0)
        fetched = sum(int(layer['bytes_fetched']) for layer in layers)
        self.assertGreaterEqual(int(self.show('link', worker)['bytes']) - before, fetched)
        table = ctl('experts', f'--worker={worker.address}')
        self.assertRegex(table, r'hits [\d.]+ % of \d+, fetched')
        path = os.path.join(self.folder, 'experts.png')
        ctl('experts', f'--worker={worker.address}', f'--png={path}')
        with open(path, 'rb') as file:
            self.assertEqual(file.read(8), b'\x89PNG\r\n\x1a\n')

    def test_predicts_experts(self):
        banks = sum(int(t['bytes']) for t in json.loads(ctl(
            'tensors', 'e', f'--weights=unix:{self.weightd.socket}', '--json'))['tensors']
                    if '_exps.' in t['name'])
        ids = []
        for flags in ([], ['--predict-experts=64MiB']):
            worker = self.start_worker(self.weightd, 'e', '--context-tokens=512',
                                       f'--expert-cache={banks // 2}', *flags)
            ids.append(self.ids(self.stub(worker, 'inference')))
            layers = self.show('experts', worker)['layers']
            table = ctl('experts', f'--worker={worker.address}')
            for layer in layers:
                predicted = int(layer.get('predicted', 0))
                self.assertEqual(predicted > 0, bool(flags) and int(layer.get('layer', 0)) > 0)
                self.assertEqual(predicted > 0, int(layer.get('predicted_bytes', 0)) > 0)
                self.assertLessEqual(int(layer.get('predicted_used', 0)), predicted)
            self.assertEqual('predicted ' in table, bool(flags))
            worker.kill()
        self.assertEqual(ids[0], ids[1])

    def test_trace_shows_the_lanes(self):
        worker = self.start_streaming()
        stub = self.stub(worker, 'inference')
        path = os.path.join(self.folder, 'trace.json')
        recorder = threading.Thread(target=ctl, args=(
            'trace', f'--worker={worker.address}', '--seconds=3', f'--out={path}'))
        recorder.start()
        while recorder.is_alive():
            self.ids(stub)
        recorder.join()
        with open(path, encoding='utf-8') as file:
            events = json.load(file)['traceEvents']
        lanes = {e['tid']: e['args']['name'] for e in events if e['name'] == 'thread_name'}
        spans = {}
        for event in events:
            if event['ph'] == 'X':
                spans.setdefault(lanes[event['tid']], []).append(event)
        self.assertLessEqual({'copy', 'compute', 'host'}, set(spans))
        for lane in ('copy', 'compute'):
            # A stream does one thing after the other.
            ordered = sorted(spans[lane], key=lambda e: e['ts'])
            for first, second in zip(ordered, ordered[1:]):
                self.assertGreaterEqual(second['ts'], first['ts'] + first['dur'] - 20)
        # The host queues a whole step before it waits, once.
        steps = [e for e in spans['host'] if e['name'] == 'step']
        self.assertTrue(steps)
        for step in steps:
            within = [e for e in spans['host'] + spans.get('launch', [])
                      if step['ts'] <= e['ts'] < step['ts'] + step['dur']]
            waits = [e for e in within if e['name'] == 'wait for the GPU']
            self.assertEqual(len(waits), 1)
            for event in within:
                if event['name'] in ('layer', 'head'):
                    self.assertLessEqual(event['ts'] + event['dur'], waits[0]['ts'] + 1)

    def test_weightd_killed_while_layers_are_streamed(self):
        port = free_port()
        socket = os.path.join(self.folder, f's{port}')
        weightd = self.start_weightd({'m': self.path}, listen=f'127.0.0.1:{port}', socket=socket)
        worker = self.start_streaming(weightd=weightd)
        stub = self.stub(worker, 'inference')
        call = generate(stub, tokens=PROMPT, max_tokens=TOKENS, ignore_end_of_text=True)
        ids = list(next(call).tokens)
        weightd.signal(signal.SIGKILL)
        weightd.wait()
        self.assertEqual(ids + Generation(call).ids, self.expected)
        self.assertEqual(self.ids(stub), self.expected)
        weightd = self.start_weightd({'m': self.path}, listen=weightd.address,
                                     socket=weightd.socket)
        eventually(lambda: [s for s in self.sessions(weightd) if s.kind == 'lease'],
                   'the worker does not reattach')
        self.assertEqual(self.ids(stub), self.expected)


if __name__ == '__main__':
    unittest.main()
