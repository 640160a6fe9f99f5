#!/usr/bin/env python3
"""Writes seeds for pre_tokenizer_fuzz: for each set of expressions, texts of all kinds.

Usage: pre_tokenizer_fuzz_seeds.py FOLDER
"""
import os
import random
import sys


def main():
    chooser = random.Random(1)
    for expressions in range(32):
        for number in range(4):
            data = bytearray([expressions])
            for _ in range(60):
                if chooser.random() < 0.7:
                    data.append(chooser.randrange(0x80))
                else:
                    code = chooser.choice([chooser.randrange(0x3000), chooser.randrange(0x30000)])
                    data += bytes([0x80 | code >> 16, code >> 8 & 0xFF, code & 0xFF])
            with open(os.path.join(sys.argv[1], f"{expressions}-{number}"), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
