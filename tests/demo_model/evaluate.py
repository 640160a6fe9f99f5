"""What the demo models can do, asked through the daemons: for each file and each quantization of
it, bytes, perplexity on held-out stories, and the share of held-out tasks that are answered right.

    evaluate.py MODEL.gguf... [--types=F32,Q8_0,Q4_K] [--json=FILE]

MODEL.gguf is what train.py wrote; its quantizations are made with modelgen, and what the file has
of a type is copied. Fails if F32 or Q8_0 miss a goal. README.md says how to set PYTHONPATH and
GGUF_OFFLOAD_BINARIES.
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
# What F32 and Q8_0 are to reach, as train.py has it; these two are asked more.
GOALS = {'addition': 0.99, 'copying': 0.98, 'sorting': 0.98, 'facts': 0.95}
TYPES_WITH_GOALS = ['F32', 'Q8_0']
# The longest right answer, in tokens, and some more.
MAX_TOKENS = 64
CALLS_AT_A_TIME = 4


def quantize(source, target, kind):
    done = subprocess.run([MODELGEN, 'quantize', f'--in={source}', f'--out={target}',
                           f'--type={kind}', '--threads=2'], check=False, capture_output=True,
                          text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
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


def evaluate(paths, options):
    """Yields a row for each file and type."""
    words = tokenizer.Tokenizer.load()
    folder = tempfile.mkdtemp(prefix='demo', dir='/tmp')
    try:
        models = {}
        for path in paths:
            stem = os.path.basename(path).removesuffix('.gguf')
            for kind in options.types.split(','):
                models[f'{stem}.{kind}'] = quantize(
                    path, os.path.join(folder, f'{stem}.{kind}.gguf'), kind)
        with Daemons(folder, models, options.activations) as daemons:
            for name, path in models.items():
                model, kind = name.split('.')
                cases = options.goal_cases if kind in TYPES_WITH_GOALS else options.cases
                row = daemons.ask(name, lambda stub: measure(stub, words, cases, options.stories))
                yield {'model': model, 'type': kind, 'bytes': os.path.getsize(path),
                       'cases': cases, 'stories': options.stories, **row}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table_line(row):
    cells = [row['model'], row['type'], f'{row["bytes"]:,}', f'{row["perplexity"]:.4f}',
             *[f'{100 * row[kind]:.1f} %' for kind in tasks.MAKERS], str(row['cases'])]
    return f'| {" | ".join(cells)} |'


def heading():
    """Of a table in Markdown."""
    titles = ['model', 'type', 'bytes', 'perplexity', *tasks.MAKERS, 'of each']
    return f'| {" | ".join(titles)} |\n|---|---|{"---:|" * (len(titles) - 2)}'


def missed(row):
    """What a row's goals were, where it missed them."""
    if row['type'] not in TYPES_WITH_GOALS:
        return []
    return [f'{row["model"]} in {row["type"]}: {kind} {row[kind]:.4f}, the goal is {goal}'
            for kind, goal in GOALS.items() if row[kind] < goal]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('models', nargs='+')
    parser.add_argument('--types', default=','.join(TYPES))
    parser.add_argument('--cases', type=int, default=300, help='tasks of each kind')
    parser.add_argument('--goal-cases', type=int, default=1000,
                        help='the same for the types that have goals, F32 and Q8_0')
    parser.add_argument('--stories', type=int, default=50)
    parser.add_argument('--activations', default='float32')
    parser.add_argument('--json', help='also write the rows here')
    options = parser.parse_args()
    rows = []
    print(heading())
    for row in evaluate(options.models, options):
        print(table_line(row), flush=True)
        rows.append(row)
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump(rows, file, indent=1)
            file.write('\n')
    failures = [failure for row in rows for failure in missed(row)]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
