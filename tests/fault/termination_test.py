"""Case 41: SIGTERM while requests and streams run, on each daemon."""

import os
import threading

import grpc

import inspection
import standard_services_pb2
from gguf_offload.v1 import inference_pb2_grpc, weights_pb2, weights_pb2_grpc
from harness import EndToEndTest, Generation, eventually, generate, make_model, terminate

TOKENS = 500
REQUESTS = 6
NOT_SERVING = standard_services_pb2.HealthResponse.NOT_SERVING
SERVING = standard_services_pb2.HealthResponse.SERVING


def prompt(index):
    return [5 + index, 6, 7 + 3 * index, 8]


class TerminationTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 16)
        cls.weightd = cls.start_weightd({'m': cls.path})
        worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=1024')
        with worker.channel() as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            cls.expected = [Generation(cls.call(stub, index)).ids for index in range(REQUESTS)]
        worker.kill()

    @staticmethod
    def call(stub, index):
        return generate(stub, tokens=prompt(index), max_tokens=TOKENS, ignore_end_of_text=True)

    def assert_refused_and_not_serving(self, daemon, call):
        """Both on connections that are there and on new ones; `call(channel)` tries something."""
        old, new = daemon.channel(), daemon.channel()
        self.addCleanup(old.close)
        self.addCleanup(new.close)
        self.assertEqual(inspection.health(old), SERVING)
        terminate(daemon)
        eventually(lambda: inspection.health(old) == NOT_SERVING, 'health is still SERVING')
        for channel in (old, new):
            self.assertEqual(inspection.health(channel), NOT_SERVING)
            with self.assertRaises(grpc.RpcError) as caught:
                call(channel)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertRegex(caught.exception.details(), 'draining')

    def test_case41_worker(self):
        worker = self.start_worker(self.weightd, 'm', '--context-tokens=1024',
                                   f'--max-sequences={REQUESTS // 2}')
        stub = self.stub(worker, 'inference')
        # Half of them run, half wait for a place: all were taken, all are answered.
        calls = [self.call(stub, index) for index in range(REQUESTS)]
        eventually(lambda: len(self.sessions(worker)) == REQUESTS,
                   'not all requests have arrived')
        first = list(next(calls[0]).tokens)
        self.assert_refused_and_not_serving(
            worker, lambda channel: next(generate(
                inference_pb2_grpc.InferenceServiceStub(channel), tokens=[5], max_tokens=1)))
        answers = [Generation(call).ids for call in calls]
        answers[0] = first + answers[0]
        self.assertEqual(answers, self.expected)
        self.assertEqual(worker.wait(), 0)

    def test_case41_weightd(self):
        path = make_model(os.path.join(self.folder, 'large.gguf'), 'qwen2.5-0.5b', 'Q8_0', 1)
        weightd = self.start_weightd({'m': self.path, 'large': path})
        worker = self.start_worker(weightd, 'm', '--context-tokens=1024')
        tensors = self.stub(weightd, 'weights').ListTensors(
            weights_pb2.ListTensorsRequest(model='large'), timeout=30).tensors
        largest = max(tensors, key=lambda tensor: tensor.bytes)
        # More than gRPC's windows hold, so that the streams still run when the signal arrives.
        self.assertGreater(largest.bytes, 64 << 20)
        streams = [self.stub(weightd, 'weights').ReadBlocks(weights_pb2.ReadBlocksRequest(
            model='large', tensor=largest.name), timeout=240) for _ in range(2)]
        received = [len(next(stream).data) for stream in streams]
        calls = [self.call(self.stub(worker, 'inference'), index) for index in range(REQUESTS)]
        begun = [list(next(call).tokens) for call in calls]
        self.assert_refused_and_not_serving(
            weightd, lambda channel: weights_pb2_grpc.WeightServiceStub(channel).ListModels(
                weights_pb2.ListModelsRequest(), timeout=30))

        def read(index):
            received[index] += sum(len(response.data) for response in streams[index])

        readers = [threading.Thread(target=read, args=[index]) for index in range(len(streams))]
        for reader in readers:
            reader.start()
        # The worker answers on, whatever its weight daemon does.
        answers = [ids + Generation(call).ids for ids, call in zip(begun, calls)]
        for reader in readers:
            reader.join()
        self.assertEqual(answers, self.expected)
        self.assertEqual(received, [largest.bytes] * len(streams))
        self.assertEqual(weightd.wait(), 0)

    def test_case41_the_grace_period_ends(self):
        """What has not finished by then is cancelled, and that is an orderly end too."""
        worker = self.start_worker(self.weightd, 'm', '--context-tokens=4096', '--grace=100ms')
        call = generate(self.stub(worker, 'inference'), tokens=prompt(0), max_tokens=4000,
                        ignore_end_of_text=True)
        next(call)
        terminate(worker)
        self.assertEqual(worker.wait(), 0)
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in call:
                pass
        self.assertIn(caught.exception.code(),
                      (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))


if __name__ == '__main__':
    import unittest
    unittest.main()
