"""The trained models of models/: what they answer through the daemons, as they are and quantized
anew, and that the files come from the scripts beside them. The whole table is evaluate.py's."""

import hashlib
import json
import os
import re
import sys
import unittest

import corpus
import evaluate
import shapes
import tasks
import tokenizer
from harness import EndToEndTest, offloadctl

sys.path.insert(0, 'tests/modelgen')
import check_gguf  # noqa: E402

FOLDER = 'tests/demo_model'
QUICKSTART = 'deploy/quickstart.sh'
LARGEST_FILE = 4_000_000
CASES = 40  # of each kind of task
HELD_OUT = 300  # of each kind, among which are quickstart.sh's questions
# The share of all tasks together that is to be answered exactly, with activations in 8 bits as by
# default: of the file itself, and of quantizations of it. The goals for 1,000 tasks of a kind are
# higher and checked by evaluate.py; these are bounds that no rounding may push a model below.
AS_SHIPPED = 'as shipped'
BOUNDS = {AS_SHIPPED: 0.95, 'Q8_0': 0.95, 'Q4_K': 0.90, 'MXFP4': 0.70}


def path_of(name, extension='gguf'):
    return os.path.join(FOLDER, 'models', f'{name}.{extension}')


def sha256(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


class ShippedModelsTest(EndToEndTest):

    def need(self, name):
        for extension in ('gguf', 'json'):
            if not os.path.exists(path_of(name, extension)):
                self.skipTest(f'{path_of(name, extension)} is missing')

    def report(self, name):
        with open(path_of(name, 'json'), encoding='utf-8') as file:
            return json.load(file)

    def check_answers(self, name):
        self.need(name)
        models = {AS_SHIPPED: path_of(name)}
        for kind in BOUNDS:
            if kind not in (AS_SHIPPED, shapes.STORED[name]):
                target = os.path.join(self.folder, f'{name}.{kind}.gguf')
                models[kind] = evaluate.quantize(path_of(name), target, kind)
        weightd = self.start_weightd({kind.replace(' ', '-'): path
                                      for kind, path in models.items()})
        for kind in models:
            worker = self.start_worker(weightd, kind.replace(' ', '-'))
            stub = self.stub(worker, 'inference')
            right = {}
            for task in tasks.MAKERS:
                found = corpus.held_out_tasks(task, CASES)
                right[task] = len(evaluate.right_answers(stub, found))
            worker.kill()
            print(f'{name} {kind}: of {CASES} each {right}')
            with self.subTest(kind=kind):
                self.assertGreaterEqual(sum(right.values()) / (CASES * len(right)), BOUNDS[kind],
                                        right)

    def test_dense_answers(self):
        self.check_answers('demo-dense')

    def test_moe_answers(self):
        self.check_answers('demo-moe')

    def check_file(self, name):
        self.need(name)
        self.assertLessEqual(os.path.getsize(path_of(name)), LARGEST_FILE)
        file = check_gguf.GgufFile(path_of(name))
        self.assertEqual(file.metadata['general.name'], name)
        self.assertEqual(file.metadata['general.architecture'],
                         shapes.architecture(shapes.SHAPES[name]))
        self.assertEqual(file.metadata['tokenizer.chat_template'], corpus.CHAT_TEMPLATE)
        self.assertEqual(list(file.metadata['tokenizer.ggml.tokens']),
                         tokenizer.Tokenizer.load().tokens)
        stored = {tensor: (tuple(reversed(dims)), check_gguf.TYPES[number][0])
                  for tensor, (dims, number, _) in file.tensors.items()}
        self.assertEqual(stored, {tensor: (dims, shapes.stored_as(name, tensor))
                                  for tensor, dims in shapes.tensors(shapes.SHAPES[name]).items()})

    def test_dense_file(self):
        self.check_file('demo-dense')

    def test_moe_file(self):
        self.check_file('demo-moe')

    def check_origin(self, name):
        """The hashes of all that made the file are those of what is here. shapes.py also has the other
        model's shape, which may have changed since: what it says of this one, check_file checks."""
        self.need(name)
        report = self.report(name)
        hashes = report['sha256']
        scripts = {'train.py', 'network.py', 'export.py', 'corpus.py', 'tokenizer.json'}
        self.assertLessEqual({f'{name}.gguf', *scripts}, set(hashes))
        for file, expected in hashes.items():
            if file == 'shapes.py':
                continue
            path = path_of(name) if file == f'{name}.gguf' else os.path.join(FOLDER, file)
            self.assertEqual(sha256(path), expected, f'{file} is not what {name} was made with')
        for kind, goal in evaluate.GOALS.items():
            self.assertGreaterEqual(report['held_out_accuracy'][kind], goal, kind)

    def test_dense_origin(self):
        self.check_origin('demo-dense')

    def test_moe_origin(self):
        self.check_origin('demo-moe')

    def check_quickstart(self, name):
        """What quickstart.sh asks is of the held-out split, and answered right."""
        self.need(name)
        with open(QUICKSTART, encoding='utf-8') as file:
            asked = re.findall(rf"(?m)^ +{name}\) questions=\('(.+)' '(.+)'\)", file.read())
        self.assertEqual(len(asked), 1)
        answers = {task.question: task.answer for kind in tasks.MAKERS
                   for task in corpus.held_out_tasks(kind, HELD_OUT)}
        weightd = self.start_weightd({name: path_of(name)})
        worker = self.start_worker(weightd, name)
        for question in asked[0]:
            code, out, err = offloadctl('generate', f'--worker={worker.address}', '--chat',
                                        f'--prompt={question}')
            self.assertEqual(code, 0, err)
            self.assertEqual(out.decode().rstrip('\n'), answers[question])

    def test_dense_quickstart(self):
        self.check_quickstart('demo-dense')

    def test_moe_quickstart(self):
        self.check_quickstart('demo-moe')


if __name__ == '__main__':
    unittest.main()
