#!/usr/bin/env python3
"""Writes the metadata of a GGUF file as JSON, so that tests get real vocabularies without a parser.

Usage: gguf_metadata_to_json.py model.gguf > metadata.json

The output is {key: {"type": GGUF value type, "value": value}}; an array's value is
{"element_type": GGUF value type, "values": [...]}. Strings must be valid UTF-8.
"""
import json
import struct
import sys

STRING, ARRAY = 8, 9
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Reader:
    def __init__(self, data):
        self.data = data
        self.position = 0

    def number(self, code):
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize(code)
        return value

    def string(self):
        length = self.number("Q")
        self.position += length
        return self.data[self.position - length:self.position].decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            element_type = self.number("I")
            count = self.number("Q")
            return {"element_type": element_type,
                    "values": [self.value(element_type) for _ in range(count)]}
        return self.number(FORMATS[kind])


def main():
    with open(sys.argv[1], "rb") as file:
        reader = Reader(file.read())
    assert reader.data[:4] == b"GGUF"
    reader.position = 16  # magic, version, tensor count
    metadata = {}
    for _ in range(reader.number("Q")):
        key = reader.string()
        kind = reader.number("I")
        metadata[key] = {"type": kind, "value": reader.value(kind)}
    json.dump(metadata, sys.stdout)


if __name__ == "__main__":
    main()
