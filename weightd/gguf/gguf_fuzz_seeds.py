#!/usr/bin/env python3
"""Writes seeds for gguf_fuzz: headers of the golden files, and one small complete file.

Usage: gguf_fuzz_seeds.py FOLDER, from the workspace root.
"""
import glob
import os
import struct
import sys


def string(text):
    return struct.pack("<Q", len(text)) + text


def complete_file():
    """Each value type, an array, two tensors, one of unknown type and an empty one."""
    keys = [string(b"general.alignment") + struct.pack("<II", 4, 32)]
    for number, code in enumerate("BbHhIif?"):
        keys.append(string(b"k%d" % number) + struct.pack("<I" + code, number, 1))
    for number, code in ((10, "Q"), (11, "q"), (12, "d")):
        keys.append(string(b"k%d" % number) + struct.pack("<I" + code, number, 1))
    keys.append(string(b"s") + struct.pack("<I", 8) + string(b"text"))
    keys.append(string(b"as") + struct.pack("<IIQ", 9, 8, 2) + string(b"a") + string(b"b"))
    keys.append(string(b"ai") + struct.pack("<IIQ2i", 9, 5, 2, 1, -1))
    tensors = [string(b"t0") + struct.pack("<IQQIQ", 2, 32, 2, 2, 0),
               string(b"t1") + struct.pack("<IQIQ", 1, 4, 0, 64),
               string(b"t2") + struct.pack("<IQIQ", 1, 7, 142, 96),
               string(b"t3") + struct.pack("<IQIQ", 1, 0, 0, 128)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
    return head + b"\0" * (-len(head) % 32) + b"x" * 128


def main():
    folder = sys.argv[1]
    for path in glob.glob("tests/testdata/golden/*/*.gguf"):
        with open(path, "rb") as file:
            head = file.read(16384)  # shortened, so that mutations reach the interesting parts
        with open(os.path.join(folder, os.path.basename(path)), "wb") as file:
            file.write(head)
    with open(os.path.join(folder, "complete"), "wb") as file:
        file.write(complete_file())


if __name__ == "__main__":
    main()
