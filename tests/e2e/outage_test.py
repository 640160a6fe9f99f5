"""Daemons that die, come back, or are told to stop while requests run."""

import os
import signal
import unittest

import grpc

import process_memory
from gguf_offload.v1 import inference_pb2_grpc, weights_pb2
from harness import (EndToEndTest, Generation, eventually, free_port, generate, make_model,
                     terminate)

PROMPT = [5, 6, 7, 8]
TOKENS = 400


class OutageTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 16)
        weightd = cls.start_weightd({'m': cls.path})
        worker = cls.start_worker(weightd, 'm', '--context-tokens=1024')
        with worker.channel() as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            cls.expected = Generation(generate(stub, tokens=PROMPT, max_tokens=TOKENS,
                                               ignore_end_of_text=True)).ids
        worker.kill()
        weightd.kill()

    def start_pair(self, shared=True):
        """A weight daemon on a fixed port, so that it can come back, and a worker on it."""
        port = free_port()
        socket = os.path.join(self.folder, f's{port}')
        weightd = self.start_weightd({'m': self.path}, listen=f'127.0.0.1:{port}', socket=socket)
        worker = self.start_worker(weightd if shared else weightd.address, 'm',
                                   '--context-tokens=1024')
        return weightd, worker

    def restart(self, weightd):
        return self.start_weightd({'m': self.path}, listen=weightd.address, socket=weightd.socket)

    def start_long_request(self, worker):
        """A request that has begun to answer; gives the call and the ids so far."""
        call = generate(self.stub(worker, 'inference'), tokens=PROMPT, max_tokens=TOKENS,
                        ignore_end_of_text=True)
        return call, list(next(call).tokens)

    def leases(self, weightd):
        return [s for s in self.sessions(weightd) if s.kind == 'lease']

    def check_weightd_killed(self, shared):
        weightd, worker = self.start_pair(shared)
        call, ids = self.start_long_request(worker)
        weightd.signal(signal.SIGKILL)
        weightd.wait()
        self.assertLess(len(ids), TOKENS)
        rest = Generation(call)
        self.assertEqual(ids + rest.ids, self.expected)
        # And requests that begin while it is away.
        again = Generation(generate(self.stub(worker, 'inference'), tokens=PROMPT,
                                    max_tokens=TOKENS, ignore_end_of_text=True))
        self.assertEqual(again.ids, self.expected)
        weightd = self.restart(weightd)
        # A lease has no model before it has begun.
        eventually(lambda: [lease.model for lease in self.leases(weightd)] == ['m'],
                   'the worker does not reattach')
        after = Generation(generate(self.stub(worker, 'inference'), tokens=PROMPT,
                                    max_tokens=TOKENS, ignore_end_of_text=True))
        self.assertEqual(after.ids, self.expected)

    def test_weightd_killed_while_shared_memory_is_used(self):
        self.check_weightd_killed(shared=True)

    def test_weightd_killed_after_weights_were_streamed(self):
        self.check_weightd_killed(shared=False)

    def test_lease_ends_when_the_worker_is_killed(self):
        weightd, worker = self.start_pair()
        self.assertEqual(len(self.leases(weightd)), 1)
        worker.signal(signal.SIGKILL)
        worker.wait()
        eventually(lambda: not self.leases(weightd), 'the lease of a dead worker is still there')

    def test_killed_worker_comes_back_without_reading_the_file(self):
        path = make_model(os.path.join(self.folder, 'large.gguf'), 'llama-3-8b', 'Q4_K_M', 2)
        weightd = self.start_weightd({'large': path}, '--residency=warm')
        self.wait_until_warm(weightd)
        worker = self.start_worker(weightd, 'large', '--context-tokens=512')
        first = Generation(generate(self.stub(worker, 'inference'), tokens=PROMPT, max_tokens=3,
                                    ignore_end_of_text=True)).ids
        worker.signal(signal.SIGKILL)
        worker.wait()
        worker = self.start_worker(weightd, 'large', '--context-tokens=512')
        again = Generation(generate(self.stub(worker, 'inference'), tokens=PROMPT, max_tokens=3,
                                    ignore_end_of_text=True)).ids
        self.assertEqual(again, first)
        # Less than one percent of the file: programs and libraries may be read, weights may not.
        self.assertLess(process_memory.bytes_read_from_disk(worker.pid),
                        os.stat(path).st_size // 100)

    # SIGTERM.

    def assert_unavailable(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_worker_told_to_stop_finishes_what_runs(self):
        _, worker = self.start_pair()
        stub = self.stub(worker, 'inference')
        call, ids = self.start_long_request(worker)
        terminate(worker)

        def refused():
            try:
                next(generate(stub, tokens=PROMPT, max_tokens=1))
            except grpc.RpcError as error:
                return error.code()
            return None

        code = eventually(refused, 'new requests are still taken')
        self.assertEqual(code, grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(ids + Generation(call).ids, self.expected)
        self.assertEqual(worker.wait(), 0)

    def test_weightd_told_to_stop_while_a_worker_runs(self):
        weightd, worker = self.start_pair()
        call, ids = self.start_long_request(worker)
        terminate(weightd)
        self.assertEqual(weightd.wait(), 0)
        self.assertEqual(ids + Generation(call).ids, self.expected)
        weightd = self.restart(weightd)
        eventually(lambda: self.leases(weightd), 'the worker does not reattach')

    def test_weightd_told_to_stop_finishes_running_streams(self):
        path = make_model(os.path.join(self.folder, 'stream.gguf'), 'qwen2.5-0.5b', 'Q8_0', 1)
        weightd = self.start_weightd({'m': path})
        stub = self.stub(weightd, 'weights')
        tensors = stub.ListTensors(weights_pb2.ListTensorsRequest(model='m'), timeout=30).tensors
        largest = max(tensors, key=lambda tensor: tensor.bytes)
        # More than gRPC's windows hold, so that it is still running when the signal arrives.
        self.assertGreater(largest.bytes, 64 << 20)
        stream = stub.ReadBlocks(weights_pb2.ReadBlocksRequest(model='m', tensor=largest.name),
                                 timeout=240)
        received = len(next(stream).data)
        terminate(weightd)

        def refused():
            try:
                stub.ListModels(weights_pb2.ListModelsRequest(), timeout=30)
            except grpc.RpcError as error:
                return error.code()
            return None

        code = eventually(refused, 'new calls are still taken')
        self.assertEqual(code, grpc.StatusCode.UNAVAILABLE)
        received += sum(len(response.data) for response in stream)
        self.assertEqual(received, largest.bytes)
        self.assertEqual(weightd.wait(), 0)


if __name__ == '__main__':
    unittest.main()
