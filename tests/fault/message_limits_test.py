"""Case 43: messages over the limit, to and from both daemons."""

import concurrent.futures
import os
import subprocess

import grpc

from gguf_offload.v1 import (diagnostics_pb2, inference_pb2, inference_pb2_grpc, weights_pb2,
                             weights_pb2_grpc)
from harness import (COMPUTED, EndToEndTest, Generation, eventually, generate, make_model)

MIB = 1 << 20
LIMIT = 4 * MIB  # of a message that a daemon takes
PROMPT = [5, 6, 7, 8]


class OversizedWeights(weights_pb2_grpc.WeightServiceServicer):
    """A weight daemon whose messages are too large for anybody."""

    def Attach(self, requests, context):
        yield weights_pb2.AttachResponse(started=weights_pb2.AttachStarted(
            lease_id='lease-1', generation=1, manifest_bytes=8 * MIB))
        yield weights_pb2.AttachResponse(manifest=weights_pb2.ManifestPiece(
            data=bytes(5 * MIB)))


class MessageLimitsTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 4)
        cls.weightd = cls.start_weightd({'m': cls.path})
        cls.worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=512')
        with cls.worker.channel() as channel:
            cls.expected = cls.ids(inference_pb2_grpc.InferenceServiceStub(channel))

    @staticmethod
    def ids(stub):
        return Generation(generate(stub, tokens=PROMPT, max_tokens=20, timeout=60,
                                   ignore_end_of_text=True)).ids

    def channel(self, daemon, receive=-1):
        channel = grpc.insecure_channel(daemon.address, options=[
            ('grpc.enable_http_proxy', 0), ('grpc.max_receive_message_length', receive),
            ('grpc.use_local_subchannel_pool', 1)])
        self.addCleanup(channel.close)
        return channel

    def assert_refused(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertRegex(caught.exception.details(), r'message larger than max \(\d+ vs\. \d+\)')

    # To a daemon.

    def test_case43_requests_to_weightd(self):
        stub = self.stub(self.weightd, 'weights')
        self.assert_refused(lambda: stub.ListTensors(
            weights_pb2.ListTensorsRequest(model='m', page_token='x' * LIMIT), timeout=30))
        self.assertEqual(len(stub.ListModels(weights_pb2.ListModelsRequest(), timeout=30).models),
                         1)

    def test_case43_messages_on_a_stream_to_weightd(self):
        ranges = [weights_pb2.ByteRange(shard=0, offset=1 << 40, bytes=1 << 40)] * (LIMIT // 12)
        hint = weights_pb2.AttachRequest(hint=weights_pb2.AttachHint(ranges=ranges))
        self.assertGreater(hint.ByteSize(), LIMIT)
        start = weights_pb2.AttachRequest(start=weights_pb2.AttachStart(
            model='m', transport=weights_pb2.TRANSPORT_STREAM, worker='test'))
        call = self.stub(self.weightd, 'weights').Attach(iter([start, hint]), timeout=60)
        self.assert_refused(lambda: list(call))
        # The lease has ended with its stream.
        eventually(lambda: not [s for s in self.sessions(self.weightd) if s.peer == 'test'],
                   'the lease is still there')

    def test_case43_requests_to_the_worker(self):
        stub = self.stub(self.worker, 'inference')
        self.assert_refused(lambda: list(generate(stub, text='x' * LIMIT)))
        self.assert_refused(lambda: stub.Tokenize(
            inference_pb2.TokenizeRequest(text=bytes(LIMIT)), timeout=30))
        diagnostics = self.stub(self.worker, 'diagnostics')
        self.assert_refused(lambda: diagnostics.Ping(
            diagnostics_pb2.PingRequest(payload=bytes(LIMIT)), timeout=30))
        self.assertEqual(self.ids(stub), self.expected)

    def test_case43_requests_just_below_the_limit(self):
        payload = os.urandom(LIMIT - 64)
        for daemon in (self.weightd, self.worker):
            answer = self.stub(daemon, 'diagnostics').Ping(
                diagnostics_pb2.PingRequest(payload=payload), timeout=60)
            self.assertEqual(answer.payload, payload)

    # From a daemon, to a client that takes less.

    def test_case43_answers_of_weightd(self):
        stub = weights_pb2_grpc.WeightServiceStub(self.channel(self.weightd, receive=1024))
        self.assert_refused(lambda: stub.GetModel(
            weights_pb2.GetModelRequest(model='m', include_arrays=True), timeout=30))
        self.assert_refused(lambda: list(stub.ReadBlocks(
            weights_pb2.ReadBlocksRequest(model='m', tensor='token_embd.weight'), timeout=30)))
        self.assertEqual(self.stub(self.weightd, 'weights').GetModel(
            weights_pb2.GetModelRequest(model='m'), timeout=30).status.name, 'm')

    def test_case43_answers_of_the_worker(self):
        stub = inference_pb2_grpc.InferenceServiceStub(self.channel(self.worker, receive=64))
        call = stub.Evaluate(inference_pb2.EvaluateRequest(
            tokens=inference_pb2.TokenIds(ids=PROMPT), logits=True), timeout=30)
        self.assert_refused(lambda: list(call))
        self.assertEqual(self.ids(self.stub(self.worker, 'inference')), self.expected)

    # From a weight daemon that lies.

    def start_oversized_weights(self):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        weights_pb2_grpc.add_WeightServiceServicer_to_server(OversizedWeights(), server)
        address = f'127.0.0.1:{server.add_insecure_port("127.0.0.1:0")}'
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        return address

    def test_case43_a_weight_daemon_whose_messages_are_too_large(self):
        address = self.start_oversized_weights()
        done = subprocess.run(
            [COMPUTED, f'--weights={address}', '--model=m', '--listen=127.0.0.1:0',
             '--backend=cpu', '--attach-timeout=2s'], capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr.decode().splitlines()[-1],
                         r'^computed: .*message larger than max \(\d+ vs\. \d+\)')


if __name__ == '__main__':
    import unittest
    unittest.main()
