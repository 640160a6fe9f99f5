"""Logits and greedy continuations of the golden models, through both transports."""

import os
import unittest

import numpy

import golden
from harness import EXACT, EndToEndTest, Generation, ctl, generate


class GoldenModelsTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.index = golden.index()
        cls.weightd = cls.start_weightd({name: golden.path(name) for name in golden.MODELS_RUN})

    def logits(self, worker, model):
        """The model's logits of the golden prompt, as `offloadctl evaluate` writes them."""
        expected = self.index[model]['logits']
        path = os.path.join(self.folder, 'logits.f32')
        ctl('evaluate', f'--worker={worker.address}',
            f'--tokens={golden.comma(self.index[model]["tokens"])}', f'--logits={path}')
        return numpy.fromfile(path, dtype='<f4').reshape(expected.shape)

    def check_exact(self, model):
        entry = self.index[model]
        worker = self.start_worker(self.weightd, model, f'--activations={EXACT}')
        shared = self.logits(worker, model)
        self.assertLessEqual(golden.exact_error(model)(shared, entry['logits']), golden.EXACT_NMSE)
        if entry['greedy_min_margin'] > 1e-3:
            got = Generation(generate(self.stub(worker, 'inference'), tokens=entry['tokens'],
                                      ignore_end_of_text=True))
            self.assertEqual(got.ids, entry['greedy'])
        worker.kill()
        streamed_worker = self.start_worker(self.weightd.address, model, f'--activations={EXACT}')
        streamed = self.logits(streamed_worker, model)
        streamed_worker.kill()
        self.assertEqual(shared.tobytes(), streamed.tobytes(),
                         'the two transports give different logits')

    def check_int8(self, model):
        worker = self.start_worker(self.weightd, model, '--activations=int8')
        got = self.logits(worker, model)
        worker.kill()
        error = golden.nmse if model in golden.DENSE else golden.median_nmse
        self.assertLessEqual(error(got, self.index[model]['logits']), golden.INT8_NMSE)

    def test_nmse_refuses_nan(self):
        expected = numpy.ones((2, 2), dtype='<f4')
        self.assertEqual(golden.nmse(numpy.full((2, 2), numpy.nan, dtype='<f4'), expected),
                         float('inf'))


def _add_cases():
    for model in golden.MODELS_RUN:
        word = model.replace('-', '_')
        setattr(GoldenModelsTest, f'test_{word}_exact',
                lambda self, model=model: self.check_exact(model))
        setattr(GoldenModelsTest, f'test_{word}_int8',
                lambda self, model=model: self.check_int8(model))


_add_cases()

if __name__ == '__main__':
    unittest.main()
