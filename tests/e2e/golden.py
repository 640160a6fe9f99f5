"""The golden models and how their logits compare."""

import json
import os
import statistics

import numpy

from harness import BACKEND, TESTDATA

MODELS = os.path.join(TESTDATA, 'golden/models')
DENSE = ['llama-f32', 'llama-kq', 'llama-ropefreqs', 'llama-linear', 'qwen2-legacy', 'qwen3-iq',
         'qwen3-yarn']
# These may route a token that is near the border to another expert.
EXPERTS = ['qwen2moe-kq', 'qwen3moe-kq', 'glm4moe-kq', 'gpt-oss-mx', 'minimax-m2-kq',
           'deepseek2-split', 'deepseek2-combined']
MODELS_RUN = DENSE + EXPERTS

# In the backend's most exact precision, and with activations in 8 bits.
EXACT_NMSE = 1e-4 if BACKEND == 'cuda' else 1e-6
INT8_NMSE = 5e-3


def index():
    """{model name: {'tokens', 'greedy', 'greedy_min_margin', 'logits' (rows x columns array)}}."""
    with open(os.path.join(MODELS, 'index.json'), encoding='utf-8') as file:
        entries = json.load(file)
    models = {}
    for entry in entries:
        logits = numpy.fromfile(os.path.join(MODELS, entry['logits']), dtype='<f4')
        entry['logits'] = logits.reshape(entry['rows'], entry['columns'])
        models[entry['model'].removesuffix('.gguf')] = entry
    return models


def path(model):
    return os.path.join(MODELS, f'{model}.gguf')


def nmse(got, expected):
    """sum((a-b)^2) / sum(b^2); NaN anywhere gives infinity."""
    got, expected = got.astype(numpy.float64), expected.astype(numpy.float64)
    value = ((got - expected) ** 2).sum() / (expected ** 2).sum()
    return value if numpy.isfinite(value) else float('inf')


def median_nmse(got, expected):
    """The median over rows of each row's nmse."""
    return statistics.median(nmse(*rows) for rows in zip(got, expected))


def exact_error(model):
    """How logits in the backend's most exact precision are judged."""
    rounded = BACKEND == 'cuda' and model in EXPERTS
    return median_nmse if rounded else nmse


def comma(ids):
    return ','.join(str(i) for i in ids)
