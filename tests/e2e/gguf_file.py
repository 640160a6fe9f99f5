"""A minimal writer of GGUF files (version 3), for test files of known content.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct

ALIGNMENT = 32
UINT32, STRING = 4, 8


def _string(text):
    data = text.encode()
    return struct.pack('<Q', len(data)) + data


def _value(value):
    if isinstance(value, str):
        return struct.pack('<I', STRING) + _string(value)
    return struct.pack('<II', UINT32, value)


def write(path, tensors, metadata=None):
    """Writes `tensors`, a list of (name, type number, dimensions fastest first, bytes)."""
    metadata = {'general.architecture': 'llama', 'general.alignment': ALIGNMENT, **(metadata or {})}
    header = struct.pack('<4sIQQ', b'GGUF', 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        header += _string(key) + _value(value)
    offset = 0
    for name, number, dimensions, data in tensors:
        header += _string(name) + struct.pack('<I', len(dimensions))
        header += struct.pack(f'<{len(dimensions)}Q', *dimensions)
        header += struct.pack('<IQ', number, offset)
        offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
    with open(path, 'wb') as file:
        file.write(header)
        file.write(bytes(-file.tell() % ALIGNMENT))
        for _, _, _, data in tensors:
            file.write(data)
            file.write(bytes(-len(data) % ALIGNMENT))
    return path
