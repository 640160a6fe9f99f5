#!/usr/bin/env python3
"""Writes unicode_ranges.inc from UnicodeData.txt of Unicode 15.0 (Unicode Character Database).

Usage: generate_unicode_ranges.py UnicodeData.txt > unicode_ranges.inc

Each line of the output is {first code point of a range, class}; a range ends where the next one
starts. The two additions of Unicode 15.1 are made here, because the pre-tokenizers' reference
implementation knows that version.
"""
import sys

CLASS_OF_MAJOR_CATEGORY = {
    "L": "kLetter",
    "N": "kNumber",
    "P": "kPunctuation",
    "S": "kSymbol",
    "M": "kMark",
}
# The White_Space property (PropList.txt).
WHITE_SPACE = [
    *range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
    0x2028, 0x2029, 0x202F, 0x205F, 0x3000,
]


def classes(path):
    table = ["kOther"] * 0x110000
    first = None
    with open(path, encoding="ascii") as file:
        for line in file:
            fields = line.split(";")
            code = int(fields[0], 16)
            if fields[1].endswith(", First>"):
                first = code
                continue
            start = code if first is None else first
            first = None
            name = CLASS_OF_MAJOR_CATEGORY.get(fields[2][0], "kOther")
            table[start:code + 1] = [name] * (code + 1 - start)
    for code in range(0x2EBF0, 0x2EE5E):  # CJK unified ideographs extension I
        table[code] = "kLetter"
    for code in (0x2FFC, 0x2FFD, 0x2FFE, 0x2FFF, 0x31EF):  # ideographic description characters
        table[code] = "kSymbol"
    for code in WHITE_SPACE:
        table[code] = "kSpace"
    return table


def main():
    table = classes(sys.argv[1])
    print("// Written by generate_unicode_ranges.py from the Unicode Character Database 15.1.")
    line = ""
    for code, name in enumerate(table):
        if code > 0 and table[code - 1] == name:
            continue
        entry = "{0x%X, CharClass::%s}," % (code, name)
        if len(line) + len(entry) + 1 > 100:
            print(line)
            line = ""
        line = entry if not line else line + " " + entry
    print(line)


if __name__ == "__main__":
    main()
