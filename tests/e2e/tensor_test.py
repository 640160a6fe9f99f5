"""`offloadctl tensor`: every quantized type as float32 and raw, from files made for the test."""

import json
import os
import unittest

import numpy

import gguf_file
from harness import TESTDATA, EndToEndTest, ctl, make_model, offloadctl

FOLDER = os.path.join(TESTDATA, 'golden/dequant')


def _types():
    with open(os.path.join(FOLDER, 'index.json'), encoding='utf-8') as file:
        return json.load(file)


def _read(name):
    with open(os.path.join(FOLDER, name), 'rb') as file:
        return file.read()


class TensorTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.types = _types()
        tensors = []
        for name, entry in cls.types.items():
            elements = entry['blocks'] * entry['block_elems']
            # Rows of whole blocks: two of them where the blocks can be halved.
            rows = 2 if entry['blocks'] % 2 == 0 else 1
            tensors.append((f'{name}.weight', entry['ggml_type'], [elements // rows, rows],
                            _read(f'{name}.blocks')))
        # Only an intermediate format of products, which has no meaning on its own.
        cls.q8_1 = bytes(range(36))
        tensors.append(('intermediate', 9, [32], cls.q8_1))
        tensors.append(('empty', 0, [0, 7], b''))
        # Of a type that is none: its bytes reach to the next tensor.
        cls.unknown = bytes(range(64))
        tensors.append(('unknown', 142, [100], cls.unknown))
        tensors.append(('last', 0, [1], bytes(4)))
        cls.path = gguf_file.write(os.path.join(cls.folder, 'types.gguf'), tensors)
        cls.weightd = cls.start_weightd({'types': cls.path})

    def fetch(self, name, *flags, weights=None):
        out = os.path.join(self.folder, 'tensor.out')
        ctl('tensor', f'--weights={weights or self.weightd.address}', '--model=types',
            f'--name={name}', f'--out={out}', *flags)
        with open(out, 'rb') as file:
            return file.read()

    def check_type(self, name):
        entry = self.types[name]
        expected = numpy.frombuffer(_read(f'{name}.f32'), dtype='<f4')
        got = numpy.frombuffer(self.fetch(f'{name}.weight'), dtype='<f4')
        self.assertEqual(got.shape, expected.shape)
        # Differences count relative to the largest value of their block.
        block = max(entry['block_elems'], 32)
        largest = numpy.abs(expected.reshape(-1, block)).max(axis=1, keepdims=True)
        difference = numpy.abs(got.reshape(-1, block) - expected.reshape(-1, block))
        self.assertTrue((difference <= 1e-6 * largest).all(), f'largest: {difference.max()}')
        self.assertEqual(self.fetch(f'{name}.weight', '--raw'), _read(f'{name}.blocks'))

    def test_over_the_unix_socket(self):
        got = self.fetch('Q4_K.weight', '--raw', weights=f'unix:{self.weightd.socket}')
        self.assertEqual(got, _read('Q4_K.blocks'))

    def check_only_raw(self, name, data, type_name):
        self.assertEqual(self.fetch(name, '--raw'), data)
        out = os.path.join(self.folder, 'none.out')
        code, _, err = offloadctl('tensor', f'--weights={self.weightd.address}', '--model=types',
                                  f'--name={name}', f'--out={out}')
        self.assertEqual((code, err.decode()), (
            1, f"offloadctl: tensor '{name}' is {type_name}, which only --raw can write\n"))
        self.assertFalse(os.path.exists(out))

    def test_intermediate_format_only_raw(self):
        self.check_only_raw('intermediate', self.q8_1, 'Q8_1')

    def test_case18_unknown_type_only_raw(self):
        self.check_only_raw('unknown', self.unknown, 'UNKNOWN_142')

    def test_case16_empty_tensor(self):
        self.assertEqual(self.fetch('empty'), b'')
        self.assertEqual(self.fetch('empty', '--raw'), b'')

    def test_pieces_that_end_within_blocks(self):
        """A tensor of many pieces of 1 MiB, which is no multiple of Q6_K's 210 bytes."""
        blocks = _read('Q6_K.blocks')
        values = _read('Q6_K.f32')
        times = 400  # 4 MB
        row = len(values) // 4 * times
        path = gguf_file.write(os.path.join(self.folder, 'large.gguf'),
                               [('large', 14, [row], blocks * times)])
        ctl('load', 'types', path, f'--weights={self.weightd.address}')
        try:
            got = self.fetch('large')
        finally:
            ctl('load', 'types', self.path, f'--weights={self.weightd.address}')
        numpy.testing.assert_allclose(numpy.frombuffer(got, dtype='<f4'),
                                      numpy.frombuffer(values * times, dtype='<f4'),
                                      rtol=1e-6, atol=0)


def _add_cases():
    for name in _types():
        setattr(TensorTest, f'test_{name}', lambda self, name=name: self.check_type(name))


_add_cases()

if __name__ == '__main__':
    unittest.main()
