"""Case 34: clients of a worker that stop reading."""

import os

import grpc

import inspection
from gguf_offload.v1 import inference_pb2, inference_pb2_grpc
from harness import EndToEndTest, Generation, eventually, generate, make_model

MIB = 1 << 20
POSITIONS = 400
# Of a vocabulary of some 150,000 logits: a row is 0.6 MB, all rows are 240 MB.
PRESET = 'qwen2.5-0.5b'


class SlowReaderTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), PRESET, 'Q8_0', 1)
        cls.weightd = cls.start_weightd({'m': cls.path})
        cls.worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=1024')
        cls.channel = cls.worker.channel()
        cls.addClassCleanup(cls.channel.close)
        cls.inference = inference_pb2_grpc.InferenceServiceStub(cls.channel)
        cls.expected = cls.ids()

    @classmethod
    def ids(cls):
        return Generation(generate(cls.inference, tokens=[5, 6, 7], max_tokens=5,
                                   ignore_end_of_text=True)).ids

    def assert_ends_at_its_deadline(self, call):
        """The client reads nothing until the worker has let go of the request."""
        eventually(lambda: not inspection.sessions(self.channel)
                   and inspection.kv_bytes_in_use(self.channel) == 0, 'the request is still there')
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in call:
                pass
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def processed(self):
        return [session.processed_tokens for session in inspection.sessions(self.channel)]

    def test_case34_logits_that_nobody_reads(self):
        request = inference_pb2.EvaluateRequest(
            tokens=inference_pb2.TokenIds(ids=[k % 500 + 5 for k in range(POSITIONS)]),
            logits=True)
        list(self.inference.Evaluate(inference_pb2.EvaluateRequest(
            tokens=inference_pb2.TokenIds(ids=[5] * 64), logits=True), timeout=60))
        before = inspection.own_bytes(self.worker.pid)
        call = self.inference.Evaluate(request, timeout=4)
        next(call)
        # Others are served meanwhile, and what waits to be sent stays a small part of the whole.
        self.assertEqual(self.ids(), self.expected)
        self.assertLess(max(self.processed()), POSITIONS)
        self.assertLess(inspection.own_bytes(self.worker.pid) - before, 120 * MIB)
        self.assert_ends_at_its_deadline(call)
        self.assertEqual(self.ids(), self.expected)

    def test_case34_tokens_that_nobody_reads(self):
        """A text is small: it is finished, and kept until the client comes for it."""
        before = inspection.own_bytes(self.worker.pid)
        calls = [generate(self.inference, tokens=[5, 6, 7], max_tokens=200, timeout=60,
                          ignore_end_of_text=True) for _ in range(8)]
        for call in calls:
            next(call)
        eventually(lambda: not self.processed(), 'the texts are not finished')
        self.assertLess(inspection.own_bytes(self.worker.pid) - before, 32 * MIB)
        self.assertEqual(len({tuple(Generation(call).ids) for call in calls}), 1)


if __name__ == '__main__':
    import unittest
    unittest.main()
