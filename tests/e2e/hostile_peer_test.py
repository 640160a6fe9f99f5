"""offloadctl against daemons that lie: it must say so in one line and leave no file behind."""

import concurrent.futures
import os
import tempfile
import unittest

import grpc

from gguf_offload.v1 import (inference_pb2, inference_pb2_grpc, model_pb2, weights_pb2,
                             weights_pb2_grpc)
from harness import ctl, offloadctl


class LyingWeights(weights_pb2_grpc.WeightServiceServicer):
    """Serves one F32 tensor of 16 bytes; `pieces` is what ReadBlocks says of it."""

    pieces = []
    verify = []

    def ListModels(self, request, context):
        return weights_pb2.ListModelsResponse(models=[weights_pb2.ModelStatus(
            name='a\x1b[2Jb', state=weights_pb2.MODEL_STATE_FAILED, error='line one\nline two')])

    def GetModel(self, request, context):
        context.abort(grpc.StatusCode.INTERNAL, 'first line\nsecond\x07 line')

    def ListTensors(self, request, context):
        return weights_pb2.ListTensorsResponse(tensors=[model_pb2.TensorInfo(
            name='t', type=0, type_name='F32', dimensions=[4], bytes=16)])

    def ReadBlocks(self, request, context):
        yield from self.pieces

    def VerifyModel(self, request, context):
        yield from self.verify


class LyingWorker(inference_pb2_grpc.InferenceServiceServicer):
    rows = []

    def Evaluate(self, request, context):
        yield from self.rows


def _piece(offset, data):
    return weights_pb2.ReadBlocksResponse(offset=offset, data=data)


def _row(position, logits, first=0):
    return inference_pb2.EvaluateResponse(position=position, logits=logits, first=first)


class HostilePeerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.weights, cls.worker = LyingWeights(), LyingWorker()
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        weights_pb2_grpc.add_WeightServiceServicer_to_server(cls.weights, server)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(cls.worker, server)
        cls.address = f'127.0.0.1:{server.add_insecure_port("127.0.0.1:0")}'
        server.start()
        cls.addClassCleanup(lambda: server.stop(None).wait())

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = os.path.join(folder.name, 'out')

    def assert_fails(self, message, *arguments):
        code, _, err = offloadctl(*arguments)
        self.assertEqual((code, err.decode()), (1, f'offloadctl: {message}\n'))
        self.assertFalse(os.path.exists(self.out))

    def tensor(self):
        return ('tensor', f'--weights={self.address}', '--model=m', '--name=t', f'--out={self.out}')

    def evaluate(self):
        return ('evaluate', f'--worker={self.address}', '--tokens=1,2', f'--logits={self.out}')

    def test_names_and_errors_cannot_control_the_terminal(self):
        text = ctl('models', f'--weights={self.address}')
        self.assertEqual(len(text.splitlines()), 2)
        self.assertNotIn('\x1b', text)
        self.assertIn('line one line two', text)

    def test_error_of_several_lines_becomes_one(self):
        self.assert_fails(f'{self.address}: first line second  line', 'model', 'm',
                          f'--weights={self.address}')

    def test_tensor_in_pieces(self):
        self.weights.pieces = [_piece(0, b'abc'), _piece(3, b''), _piece(3, b'defghijklmnop')]
        ctl(*self.tensor())
        with open(self.out, 'rb') as file:
            self.assertEqual(file.read(), b'abcdefghijklmnop')

    def test_tensor_with_a_gap(self):
        self.weights.pieces = [_piece(0, b'abcd'), _piece(8, b'ijklmnop')]
        self.assert_fails(f"{self.address}: tensor 't': bytes from 8 came after 4", *self.tensor())

    def test_tensor_too_short(self):
        self.weights.pieces = [_piece(0, b'abcd')]
        self.assert_fails(f"{self.address}: tensor 't': 4 bytes came, not 16", *self.tensor())

    def test_tensor_too_long(self):
        self.weights.pieces = [_piece(0, b'a' * 20)]
        self.assert_fails(f"{self.address}: tensor 't': 20 bytes came, not 16", *self.tensor())

    def test_verification_without_an_end(self):
        self.weights.verify = [weights_pb2.VerifyModelResponse(tensor='t')]
        self.assert_fails(f'{self.address}: the answer has no end', 'verify', 'm',
                          f'--weights={self.address}')

    def test_evaluation_in_pieces(self):
        self.worker.rows = [_row(0, [1, 2]), _row(0, [3], first=2), _row(1, [4, 5, 6])]
        self.assertEqual(ctl(*self.evaluate()), '2 rows of 3 logits\n')

    def test_evaluation_with_rows_missing(self):
        self.worker.rows = [_row(0, [1, 2])]
        self.assert_fails(f'{self.address}: answers for 1 positions came, not 2', *self.evaluate())

    def test_evaluation_with_rows_of_different_lengths(self):
        self.worker.rows = [_row(0, [1, 2]), _row(1, [1])]
        self.assert_fails(f'{self.address}: position 1 has 1 logits, those before have 2',
                          *self.evaluate())

    def test_evaluation_out_of_order(self):
        self.worker.rows = [_row(1, [1, 2]), _row(0, [1, 2])]
        code, _, err = offloadctl(*self.evaluate())
        self.assertEqual(code, 1)
        self.assertEqual(err.count(b'\n'), 1)

    def test_missing_method(self):
        self.assert_fails(f'the daemon at {self.address} does not offer this: Method not found!',
                          'placement', f'--worker={self.address}')


if __name__ == '__main__':
    unittest.main()
