"""modelgen quantize, from the file to the logits: golden llama-f32 and models of the demo's shapes
to every type, read by an independent reader, loaded by the daemons, compared with the source."""

import os
import subprocess
import sys
import unittest

import evaluate
import export
import formats
import golden
import reference
import service
import shapes
import tokenizer
from harness import EXACT, MODELGEN, EndToEndTest

sys.path.insert(0, 'tests/modelgen')
import check_gguf  # noqa: E402

# The mean squared error of each type on values of unit deviation (modelgen's tests check these).
# Through a few layers of random weights it grows about thirtyfold, whatever the type, which is
# what the logits' NMSE is to be held to. Trained models bear much more than random ones.
SQUARED_ERROR = {'F32': 2e-8, 'F16': 4e-8, 'BF16': 2.6e-6, 'Q8_0': 2.2e-5, 'Q6_K': 2.8e-4,
                 'Q5_K': 1.2e-3, 'Q4_K': 4.9e-3, 'IQ4_NL': 5.4e-3, 'IQ4_XS': 5.5e-3,
                 'Q4_0': 6.6e-3, 'MXFP4': 1.25e-2, 'Q3_K': 2.1e-2, 'Q2_K': 6.8e-2}
GROWTH = 45
# Of these, each must do better than the next.
FEWER_AND_FEWER_BITS = ['F16', 'BF16', 'Q8_0', 'Q6_K', 'Q5_K', 'Q4_K', 'Q3_K', 'Q2_K']
TYPES_OF_32 = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'IQ4_NL', 'MXFP4']
KEPT = '.ffn_gate_inp.weight'


class QuantizeModelsTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        words = tokenizer.Tokenizer.load()
        cls.sources, cls.paths = {'llama': golden.path('llama-f32')}, {}
        for seed, name in enumerate(shapes.SHAPES):
            cls.sources[name] = os.path.join(cls.folder, f'{name}.gguf')
            export.write(cls.sources[name], name, reference.random_weights(name, seed), words)
        for name, source in cls.sources.items():
            for kind in TYPES_OF_32 if name == 'llama' else SQUARED_ERROR:
                target = os.path.join(cls.folder, f'{name}.{kind}.gguf')
                cls.paths[f'{name}.{kind}'] = evaluate.quantize(source, target, kind)
        cls.weightd = cls.start_weightd(cls.paths)

    def logits(self, model, ids):
        worker = self.start_worker(self.weightd, model, f'--activations={EXACT}')
        got = service.logits(self.stub(worker, 'inference'), ids)
        worker.kill()
        return got

    def check_errors(self, name, kinds, ids, expected):
        # Where a token goes to another expert, its row of a random model is another one.
        routed = isinstance(shapes.SHAPES.get(name), shapes.Experts)
        measure = golden.median_nmse if routed else golden.nmse
        errors = {kind: measure(self.logits(f'{name}.{kind}', ids), expected) for kind in kinds}
        print(name, {kind: f'{error:.2e}' for kind, error in errors.items()})
        for kind, error in errors.items():
            self.assertLessEqual(error, GROWTH * SQUARED_ERROR[kind], kind)
        falling = [errors[kind] for kind in FEWER_AND_FEWER_BITS
                   if kind in errors and kind != shapes.STORED.get(name)]
        self.assertEqual(falling, sorted(falling))

    def test_golden_model(self):
        entry = golden.index()['llama-f32']
        self.check_errors('llama', TYPES_OF_32, entry['tokens'], entry['logits'])

    def check_demo(self, name):
        ids = list(range(0, shapes.VOCABULARY, 16))
        expected = self.logits(f'{name}.F32', ids)
        self.check_errors(name, SQUARED_ERROR, ids, expected)

    def test_demo_dense(self):
        self.check_demo('demo-dense')

    def test_demo_moe(self):
        self.check_demo('demo-moe')

    def test_files_by_an_independent_reader(self):
        for name, source in self.sources.items():
            original = check_gguf.GgufFile(source)
            numbers = {entry[0]: number for number, entry in check_gguf.TYPES.items()}
            for model, path in self.paths.items():
                if not model.startswith(f'{name}.'):
                    continue
                file = check_gguf.GgufFile(path)
                self.assertEqual(list(file.tensors), list(original.tensors))
                for key, value in original.metadata.items():
                    if key not in ('general.file_type', 'general.quantization_version'):
                        self.assertEqual(file.metadata[key], value, key)
                        self.assertEqual(file.types[key], original.types[key], key)
                kind = model.removeprefix(f'{name}.')
                for tensor, (dims, number, _) in file.tensors.items():
                    self.assertEqual(dims, original.tensors[tensor][0])
                    whole = dims[0] % check_gguf.TYPES[numbers[kind]][1] == 0
                    kept = len(dims) == 1 or not whole or tensor.endswith(KEPT)
                    self.assertEqual(number, numbers['F32' if kept else kind], tensor)

    def test_what_was_rounded_once_stays(self):
        for name, kind in shapes.STORED.items():
            path = os.path.join(self.folder, 'back.gguf')
            evaluate.quantize(self.paths[f'{name}.F32'], path, kind)
            back = check_gguf.GgufFile(path).data
            for tensor, data in check_gguf.GgufFile(self.sources[name]).data.items():
                kind = shapes.stored_as(name, tensor)
                # Scales in Q8_0 may have another sign.
                values = [formats.decode(kind, blocks, -1) for blocks in (data, back[tensor])]
                self.assertTrue((values[0] == values[1]).all(), f'{name} {tensor}')

    def run_quantize(self, *flags):
        return subprocess.run([MODELGEN, 'quantize', *flags], capture_output=True, check=False,
                              text=True)

    def test_what_it_says(self):
        path = os.path.join(self.folder, 'said.gguf')
        done = self.run_quantize(f'--in={self.sources["llama"]}', f'--out={path}', '--type=Q8_0')
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        self.assertRegex(done.stdout, r'(?m)^  F32 +-> Q8_0 +\d+ tensors ')
        self.assertRegex(done.stdout,
                         r'(?m)^  \d+ stay F32, rows of 176 are no multiple of 32: blk')
        self.assertRegex(done.stdout, r'(?m)^  \d+ stay F32, one dimension: blk')
        again = self.run_quantize(f'--in={path}', f'--out={path}.2', '--type=Q4_0')
        self.assertEqual(again.returncode, 0)
        self.assertRegex(again.stderr, r'^modelgen: warning: \d+ tensors were quantized already')

    def test_errors(self):
        path = os.path.join(self.folder, 'never.gguf')
        broken = os.path.join(self.folder, 'broken.gguf')
        with open(self.sources['llama'], 'rb') as file:
            whole = file.read()
        with open(broken, 'wb') as file:
            file.write(whole[:len(whole) // 2])
        for message, flags in {
                'no type .Q9. for --type': [f'--in={self.sources["llama"]}', '--type=Q9'],
                'type IQ1_S cannot be written': [f'--in={self.sources["llama"]}', '--type=IQ1_S'],
                '--in is missing': ['--type=Q8_0'],
                'broken.gguf: .*offset': [f'--in={broken}', '--type=Q8_0'],
                'none.gguf: cannot open': ['--in=none.gguf', '--type=Q8_0']}.items():
            done = self.run_quantize(f'--out={path}', *flags)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf'\Amodelgen: .*{message}.*\n\Z')
            self.assertFalse(os.path.exists(path))


if __name__ == '__main__':
    unittest.main()
