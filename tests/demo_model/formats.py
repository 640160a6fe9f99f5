"""The types in which the demo models' files store tensors: F32, F16 and Q8_0.

Q8_0 is as ggml's reference has it (github.com/ggml-org/ggml, src/ggml-quants.c,
quantize_row_q8_0_ref): 32 values share a scale in half precision, the largest magnitude / 127, by
which each is divided, in full precision, and rounded, halves away from zero.
"""

import numpy

BLOCK = 32
Q8_0_BLOCK = numpy.dtype([('scale', '<f2'), ('codes', 'i1', BLOCK)])
# Numbers of the types in GGUF, and of files whose matrices all have that type.
TENSOR_TYPES = {'F32': 0, 'F16': 1, 'Q8_0': 8}
FILE_TYPES = {'F32': 0, 'F16': 1, 'Q8_0': 7}


def _q8_0(array):
    """Blocks, an array of Q8_0_BLOCK."""
    values = array.astype('<f4').reshape(-1, BLOCK)
    scales = numpy.abs(values).max(axis=1) / numpy.float32(127)
    with numpy.errstate(divide='ignore'):
        inverses = numpy.where(scales > 0, numpy.float32(1) / scales, numpy.float32(0))
    scaled = (values * inverses[:, None]).astype('<f8')
    blocks = numpy.empty(len(values), dtype=Q8_0_BLOCK)
    blocks['scale'] = scales
    blocks['codes'] = numpy.copysign(numpy.floor(numpy.abs(scaled) + 0.5), scaled)
    return blocks


def encode(kind, array):
    """The bytes of a tensor; of Q8_0 its rows must be whole blocks."""
    if kind == 'Q8_0':
        if array.shape[-1] % BLOCK:
            raise ValueError(f'rows of {array.shape[-1]} are no multiple of {BLOCK}')
        return _q8_0(array).tobytes()
    return array.astype({'F32': '<f4', 'F16': '<f2'}[kind]).tobytes()


def decode(kind, data, dims):
    """The float32 array that encode() stored."""
    if kind == 'Q8_0':
        blocks = numpy.frombuffer(data, dtype=Q8_0_BLOCK)
        values = blocks['codes'] * blocks['scale'].astype('<f4')[:, None]
    else:
        values = numpy.frombuffer(data, dtype={'F32': '<f4', 'F16': '<f2'}[kind])
    return values.astype('<f4').reshape(dims)


def byte_count(kind, elements):
    if kind == 'Q8_0':
        return elements // BLOCK * Q8_0_BLOCK.itemsize
    return elements * {'F32': 4, 'F16': 2}[kind]
