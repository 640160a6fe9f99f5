"""`offloadctl tokenize` on vocabulary-only files: the ids that llama.cpp gives, and back to text."""

import json
import os
import unittest

from harness import TESTDATA, EndToEndTest, ctl, offloadctl

FOLDER = os.path.join(TESTDATA, 'golden/tokenizers')


def _cases():
    """The texts, and {model: the ids of each text}."""
    with open(os.path.join(FOLDER, 'cases.json'), encoding='utf-8') as file:
        cases = json.load(file)
    return cases['texts'], {entry['vocab'].removesuffix('.gguf'): entry['ids']
                            for entry in cases['expected']}


class TokenizeTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.texts, cls.expected = _cases()
        cls.weightd = cls.start_weightd(
            {model: os.path.join(FOLDER, f'{model}.gguf') for model in cls.expected})

    def check_model(self, model):
        path = os.path.join(self.folder, 'text')
        for text, expected in zip(self.texts, self.expected[model], strict=True):
            with open(path, 'wb') as file:
                file.write(text.encode())
            printed = ctl('tokenize', f'--weights={self.weightd.address}', f'--model={model}',
                          f'--text-file={path}')
            self.assertEqual(printed.count('\n'), 1)
            with self.subTest(text=text):
                self.assertEqual(json.loads(printed), expected)

    def test_odd_vocabularies(self):
        cases = os.path.join(TESTDATA, 'golden/cases')
        models = {name.removesuffix('.gguf'): os.path.join(cases, name)
                  for name in os.listdir(cases)}
        self.assertEqual(len(models), 10)
        weightd = self.start_weightd(models)
        for model in models:
            with self.subTest(model=model):
                printed = ctl('tokenize', f'--weights={weightd.address}', f'--model={model}',
                              '--text=One 12')
                self.assertEqual(json.loads(printed), [330, 68, 220, 16, 17])

    def test_text_from_standard_input(self):
        printed = ctl('tokenize', f'--weights=unix:{self.weightd.socket}', '--model=tiny-spm',
                      '--text-file=-', stdin=self.texts[0].encode())
        self.assertEqual(json.loads(printed), self.expected['tiny-spm'][0])

    def test_detokenize_gives_the_text_back(self):
        for text, ids in zip(self.texts, self.expected['tiny-bpe.qwen2'], strict=True):
            code, out, err = offloadctl('detokenize', f'--weights={self.weightd.address}',
                                        '--model=tiny-bpe.qwen2', '--render-special',
                                        f'--tokens={json.dumps(ids)}')
            self.assertEqual((code, err), (0, b''))
            with self.subTest(text=text):
                self.assertEqual(out, text.encode() + b'\n')


def _add_cases():
    for model in _cases()[1]:
        word = model.replace('-', '_').replace('.', '_')
        setattr(TokenizeTest, f'test_{word}', lambda self, model=model: self.check_model(model))


_add_cases()

if __name__ == '__main__':
    unittest.main()
