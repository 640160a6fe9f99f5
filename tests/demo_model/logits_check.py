"""PyTorch's logits and the service's, of the same file: NMSE <= 1e-6 with float32 activations.

    logits_check.py CHECKPOINT.npz MODEL.gguf

Both are what train.py wrote. Needs PyTorch beside what evaluate.py needs.
"""

import shutil
import sys
import tempfile

import numpy
import torch

import corpus
import evaluate
import golden
import network
import reference
import service
import shapes
import splits
import tokenizer

LIMIT = 1e-6
POSITIONS = 200


def main():
    checkpoint, path = sys.argv[1:]
    with numpy.load(checkpoint) as stored:
        name = str(stored['name'])
        weights = {key: stored[key] for key in stored.files if key != 'name'}
    words = tokenizer.Tokenizer.load()
    text = ''.join(text for pieces in corpus.documents(11, splits.HELD_OUT, 'logits', 50)
                   for text, _ in pieces)
    ids = words.encode(text)[:POSITIONS]

    model = network.Network(shapes.SHAPES[name], seed=0)
    model.load_arrays(weights)
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0][0].numpy()
    by_numpy = reference.Reference(shapes.SHAPES[name], weights).logits(ids)
    folder = tempfile.mkdtemp(prefix='logits', dir='/tmp')
    try:
        with evaluate.Daemons(folder, {name: path}, 'float32') as daemons:
            got = daemons.ask(name, lambda stub: service.logits(stub, ids))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    error = golden.nmse(got, expected)
    print(f'{name}: {len(ids)} positions; NMSE of the service to PyTorch {error:.3g}, to NumPy '
          f'{golden.nmse(got, by_numpy):.3g}; of PyTorch to NumPy '
          f'{golden.nmse(expected, by_numpy):.3g}')
    if not error <= LIMIT:
        print(f'more than {LIMIT}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
