"""stories260K, a trained model: its text is known. Needs the environment variable
GGUF_OFFLOAD_REFERENCE_MODELS to name the folder that holds it."""

import os
import unittest

import numpy

import golden
from harness import EXACT, EndToEndTest, ctl, generate, Generation

FOLDER = os.environ.get('GGUF_OFFLOAD_REFERENCE_MODELS', '')
PROMPT = 'Once upon a time'
PROMPT_TOKENS = [1, 403, 407, 261, 378]
TEXT = (', there was a little girl named Lily. She loved to play outside in the park. One day, she '
        'saw a big, red ball. She wanted to play with it, but it was too high.\n'
        'Lily\'s mom said, "Lily, let\'s go to the park."')


@unittest.skipUnless(FOLDER, 'GGUF_OFFLOAD_REFERENCE_MODELS is not set')
class TrainedModelTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.weightd = cls.start_weightd(
            {t: os.path.join(FOLDER, f'stories260K.{t}.gguf') for t in ('F32', 'Q8_0')})

    def check_text(self, quantization, activations):
        worker = self.start_worker(self.weightd, quantization, f'--activations={activations}')
        text = ctl('generate', f'--worker={worker.address}', f'--prompt={PROMPT}',
                   '--max-tokens=128')
        self.assertEqual(text[:len(TEXT)], TEXT)

    def check_logits(self, quantization, activations, tolerance):
        worker = self.start_worker(self.weightd, quantization, f'--activations={activations}')
        expected = numpy.fromfile(os.path.join(FOLDER, f'stories260K.{quantization}.logits.f32'),
                                  dtype='<f4')
        path = os.path.join(self.folder, 'logits.f32')
        ctl('evaluate', f'--worker={worker.address}', f'--tokens={golden.comma(PROMPT_TOKENS)}',
            f'--logits={path}')
        got = numpy.fromfile(path, dtype='<f4')
        self.assertEqual(got.shape, expected.shape)
        self.assertLessEqual(golden.nmse(got, expected), tolerance)

    def test_text_f32(self):
        self.check_text('F32', EXACT)

    def test_text_q8_0(self):
        self.check_text('Q8_0', EXACT)

    def test_logits_f32(self):
        self.check_logits('F32', EXACT, golden.EXACT_NMSE)

    def test_logits_q8_0(self):
        # This file's reference was computed with 8-bit activations (float16 scales): a computation of
        # that kind in numpy agrees with it to 3e-15, an exact one in float64 only to 7.1e-5.
        self.check_logits('Q8_0', EXACT, 1e-4)

    def test_logits_q8_0_int8(self):
        self.check_logits('Q8_0', 'int8', golden.INT8_NMSE)

    def test_prompt_becomes_the_known_tokens(self):
        worker = self.start_worker(self.weightd, 'F32')
        got = Generation(generate(self.stub(worker, 'inference'), text=PROMPT, max_tokens=1))
        self.assertEqual(got.result.prompt_tokens, len(PROMPT_TOKENS))
        ids = ctl('tokenize', f'--worker={worker.address}', f'--text={PROMPT}', '--add-special')
        self.assertEqual(ids, f'{PROMPT_TOKENS}\n')


if __name__ == '__main__':
    unittest.main()
