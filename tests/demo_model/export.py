"""Writes a demo model as GGUF (version 3; github.com/ggml-org/ggml, docs/gguf.md).

Run as a program it converts the checkpoint that train.py left: export.py CHECKPOINT.npz OUT.gguf.
"""

import struct
import sys

import numpy

import corpus
import formats
import shapes
import tokenizer

ALIGNMENT = 32
UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
NORMAL, CONTROL = 1, 3  # of tokens


def _string(text):
    data = text.encode()
    return struct.pack('<Q', len(data)) + data


def _value(value):
    """A value after the number of its type."""
    if isinstance(value, bool):
        return struct.pack('<I?', BOOL, value)
    if isinstance(value, int):
        return struct.pack('<II', UINT32, value)
    if isinstance(value, float):
        return struct.pack('<If', FLOAT32, value)
    if isinstance(value, str):
        return struct.pack('<I', STRING) + _string(value)
    if isinstance(value[0], str):
        return struct.pack('<IIQ', ARRAY, STRING, len(value)) + b''.join(map(_string, value))
    return struct.pack(f'<IIQ{len(value)}i', ARRAY, INT32, len(value), *value)


def metadata(name, words):
    """Of the model `name` with the Tokenizer `words`."""
    shape = shapes.SHAPES[name]
    architecture = shapes.architecture(shape)
    special = len(corpus.SPECIAL_TOKENS)
    types = [NORMAL] * (len(words) - special) + [CONTROL] * special
    return {
        'general.architecture': architecture, 'general.name': name,
        'general.alignment': ALIGNMENT,
        'general.file_type': formats.FILE_TYPES[shapes.STORED[name]],
        'general.quantization_version': 2,
        **{f'{architecture}.{key}': value for key, value in shapes.metadata(shape).items()},
        'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'qwen2',
        'tokenizer.ggml.tokens': words.tokens, 'tokenizer.ggml.token_type': types,
        'tokenizer.ggml.merges': [f'{left} {right}' for left, right in words.merges],
        'tokenizer.ggml.bos_token_id': words.id(corpus.END_OF_TEXT),
        'tokenizer.ggml.eos_token_id': words.id(corpus.END),
        'tokenizer.ggml.eot_token_id': words.id(corpus.END_OF_TEXT),
        'tokenizer.ggml.padding_token_id': words.id(corpus.END_OF_TEXT),
        'tokenizer.ggml.add_bos_token': False,
        'tokenizer.chat_template': corpus.CHAT_TEMPLATE,
    }


def rounded(name, weights):
    """The weights as the file of the model `name` holds them, in float32. Rounded ones stay."""
    result = {}
    for tensor, array in weights.items():
        kind = shapes.stored_as(name, tensor)
        result[tensor] = formats.decode(kind, formats.encode(kind, array), array.shape)
    return result


def write(path, name, weights, words):
    """Writes `weights`, {tensor name: array}, which must be those of shapes.tensors()."""
    expected = shapes.tensors(shapes.SHAPES[name])
    found = {tensor: tuple(array.shape) for tensor, array in weights.items()}
    if found != expected:
        raise ValueError(f'{name} has other tensors: {set(found.items()) ^ set(expected.items())}')
    described = metadata(name, words)
    header = struct.pack('<4sIQQ', b'GGUF', 3, len(expected), len(described))
    for key, value in described.items():
        header += _string(key) + _value(value)
    data = b''
    for tensor, dims in expected.items():
        array = weights[tensor]
        if not numpy.isfinite(array).all():
            raise ValueError(f'{name}: {tensor} has values that are not finite')
        kind = shapes.stored_as(name, tensor)
        header += _string(tensor) + struct.pack(f'<I{len(dims)}Q', len(dims), *reversed(dims))
        header += struct.pack('<IQ', formats.TENSOR_TYPES[kind], len(data))
        data += formats.encode(kind, array)
        data += bytes(-len(data) % ALIGNMENT)
    with open(path, 'wb') as file:
        file.write(header)
        file.write(bytes(-len(header) % ALIGNMENT))
        file.write(data)


def main():
    checkpoint, path = sys.argv[1:]
    with numpy.load(checkpoint) as stored:
        weights = {key: stored[key] for key in stored.files if key != 'name'}
        name = str(stored['name'])
    write(path, name, weights, tokenizer.Tokenizer.load())


if __name__ == '__main__':
    main()
