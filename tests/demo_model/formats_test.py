"""The formats of the demo models' files: Q8_0 against blocks that ggml decoded and against its
rules, value by value."""

import os
import unittest

import numpy

import export
import formats
import reference
import shapes

GOLDEN = 'tests/testdata/golden/dequant'
EXACT = numpy.float32


def block_of(values):
    """(scale, codes) of one block as quantize_row_q8_0_ref makes them, one operation at a time."""
    scale = max(abs(EXACT(value)) for value in values) / EXACT(127)
    inverse = EXACT(1) / scale if scale else EXACT(0)
    codes = []
    for value in values:
        scaled = float(EXACT(value) * inverse)
        code = int(abs(scaled) + 0.5)
        codes.append(-code if scaled < 0 else code)
    return numpy.float16(scale), codes


class FormatsTest(unittest.TestCase):

    def golden(self, name, dtype):
        return numpy.fromfile(os.path.join(GOLDEN, name), dtype=dtype)

    def test_q8_0_is_read_as_ggml_reads_it(self):
        expected = self.golden('Q8_0.f32', '<f4')
        data = self.golden('Q8_0.blocks', 'u1').tobytes()
        self.assertEqual(len(data), formats.byte_count('Q8_0', expected.size))
        self.assertTrue((formats.decode('Q8_0', data, expected.shape) == expected).all())

    def test_q8_0_is_rounded_as_ggml_rounds_it(self):
        rng = numpy.random.default_rng(1)
        values = rng.standard_normal((40, formats.BLOCK)) * 10.0 ** rng.integers(-6, 3, (40, 1))
        values[0] = 0
        values[1] = numpy.arange(formats.BLOCK) / 2 - 7.75  # of which some are ties
        values[1, 0] = -127
        values[2, 5] = 300 * abs(values[2]).max()
        array = values.astype('<f4')
        blocks = numpy.frombuffer(formats.encode('Q8_0', array), dtype=formats.Q8_0_BLOCK)
        for row, block in zip(array, blocks):
            scale, codes = block_of(row)
            self.assertEqual(block['scale'], scale)
            self.assertEqual(block['codes'].tolist(), codes)

    def test_halves_go_away_from_zero(self):
        array = numpy.zeros((1, formats.BLOCK), dtype='<f4')
        array[0, :5] = 127, 0.5, -0.5, 2.5, -1.5
        block = numpy.frombuffer(formats.encode('Q8_0', array), dtype=formats.Q8_0_BLOCK)[0]
        self.assertEqual(block['codes'][:5].tolist(), [127, 1, -1, 3, -2])

    def test_what_is_rounded_stays(self):
        for name in shapes.SHAPES:
            weights = reference.random_weights(name, 3)
            for tensor, array in export.rounded(name, weights).items():
                self.assertTrue((array == weights[tensor]).all(), tensor)

    def test_partial_blocks_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'rows of 48 are no multiple of 32'):
            formats.encode('Q8_0', numpy.zeros((2, 48)))

    def test_files_are_small(self):
        for name in shapes.SHAPES:
            # Metadata takes 24 KB more; the whole file is to be no larger than 4 MB.
            self.assertLess(shapes.tensor_bytes(name), 3_970_000)


if __name__ == '__main__':
    unittest.main()
