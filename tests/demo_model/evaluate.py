"""What the demo models can do, asked through the daemons: for each file and each quantization of
it, bytes, perplexity on held-out stories, and the share of held-out tasks that are answered right.

    evaluate.py MODEL.gguf... [--types=F32,Q8_0,Q4_K] [--cases=200] [--json=FILE]

MODEL.gguf is what train.py wrote; its quantizations are made with modelgen. README.md says how to
set PYTHONPATH and GGUF_OFFLOAD_BINARIES.
"""

import argparse
import concurrent.futures
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile

import corpus
import service
import tasks
import tokenizer
from gguf_offload.v1 import inference_pb2_grpc
from harness import COMPUTED, MODELGEN, WEIGHTD, Daemon

TYPES = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'Q5_K', 'Q4_K', 'Q3_K', 'Q2_K', 'Q4_0', 'IQ4_NL',
         'IQ4_XS', 'MXFP4']
# The longest right answer, in tokens, and some more.
MAX_TOKENS = 64
CALLS_AT_A_TIME = 4


def quantize(source, target, kind):
    subprocess.run([MODELGEN, 'quantize', f'--in={source}', f'--out={target}', f'--type={kind}',
                    '--threads=2'], check=True, stdout=subprocess.DEVNULL)
    return target


def perplexity(stub, words, stories):
    total, count = 0.0, 0
    for story in stories:
        logprobs = service.logprobs(stub, words.encode(story.text + corpus.END_OF_TEXT))
        total += sum(logprobs)
        count += len(logprobs)
    return math.exp(-total / count)


def right_answers(stub, found):
    """The tasks of `found` that are answered exactly."""
    def ask(task):
        return service.answer(stub, corpus.chat_prompt(task.question), MAX_TOKENS) == task.answer
    with concurrent.futures.ThreadPoolExecutor(CALLS_AT_A_TIME) as pool:
        return [task for task, right in zip(found, pool.map(ask, found)) if right]


def measure(stub, words, cases, stories):
    """{'perplexity': ..., kind of task: share}"""
    result = {'perplexity': perplexity(stub, words, corpus.held_out_stories(stories))}
    for kind in tasks.MAKERS:
        found = corpus.held_out_tasks(kind, cases)
        result[kind] = len(right_answers(stub, found)) / cases
    return result


class Daemons:
    """weightd with some models and, one at a time, a worker. Ends them at the end of a `with`."""

    def __init__(self, folder, models, activations):
        self._folder, self._models, self._activations = folder, models, activations
        self._running = []

    def _start(self, name, *argv):
        daemon = Daemon([*argv, '--listen=127.0.0.1:0', '--log-format=text'],
                        os.path.join(self._folder, f'{name}.log'))
        self._running.append(daemon)
        return daemon.wait_until_listening()

    def __enter__(self):
        self._socket = os.path.join(self._folder, 'weights.sock')
        self._start('weightd', WEIGHTD, f'--socket={self._socket}',
                    *[f'--model={name}={path}' for name, path in self._models.items()])
        return self

    def __exit__(self, *_):
        for daemon in reversed(self._running):
            daemon.kill()

    def ask(self, model, question):
        """question(stub) with a worker for `model`."""
        worker = self._start('worker', COMPUTED, f'--weights=unix:{self._socket}',
                             f'--model={model}', '--backend=cpu',
                             f'--activations={self._activations}')
        self._running.remove(worker)
        try:
            with worker.channel() as channel:
                return question(inference_pb2_grpc.InferenceServiceStub(channel))
        finally:
            worker.kill()


def evaluate(paths, types, cases, stories, activations):
    """Yields a row for each file and type."""
    words = tokenizer.Tokenizer.load()
    folder = tempfile.mkdtemp(prefix='demo', dir='/tmp')
    try:
        models = {}
        for path in paths:
            stem = os.path.basename(path).removesuffix('.gguf')
            for kind in types:
                models[f'{stem}.{kind}'] = quantize(
                    path, os.path.join(folder, f'{stem}.{kind}.gguf'), kind)
        with Daemons(folder, models, activations) as daemons:
            for name, path in models.items():
                row = daemons.ask(name, lambda stub: measure(stub, words, cases, stories))
                yield {'model': name, 'bytes': os.path.getsize(path), **row}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table_line(row):
    cells = [f'{row["model"]:18}', f'{row["bytes"]:9}', f'{row["perplexity"]:10.4f}']
    return ' | '.join(cells + [f'{100 * row[kind]:8.2f}' for kind in tasks.MAKERS])


def heading():
    titles = [f'{"model":18}', f'{"bytes":>9}', f'{"perplexity":>10}']
    return ' | '.join(titles + [f'{kind:>8}' for kind in tasks.MAKERS])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('models', nargs='+')
    parser.add_argument('--types', default=','.join(TYPES))
    parser.add_argument('--cases', type=int, default=200, help='tasks of each kind')
    parser.add_argument('--stories', type=int, default=50)
    parser.add_argument('--activations', default='float32')
    parser.add_argument('--json', help='also write the rows here')
    options = parser.parse_args()
    rows = []
    print(heading())
    for row in evaluate(options.models, options.types.split(','), options.cases, options.stories,
                        options.activations):
        print(table_line(row), flush=True)
        rows.append(row)
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump(rows, file, indent=1)
            file.write('\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
