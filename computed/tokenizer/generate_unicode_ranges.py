#!/usr/bin/env python3
"""Writes the tables of unicode.cc from the Unicode Character Database 15.0.

Usage: generate_unicode_ranges.py classes UnicodeData.txt > unicode_ranges.inc
       generate_unicode_ranges.py han Scripts.txt > unicode_han.inc

Each entry of the first is {first code point of a range, class}; a range ends where the next one
starts. Each entry of the second is {first, last code point} of a range of the script Han. The
additions of Unicode 15.1 are made here, because the pre-tokenizers' reference implementation knows
that version.
"""
import sys

CLASS_OF_CATEGORY = {
    "Lu": "kUpper", "Ll": "kLower", "Lt": "kTitle", "Lm": "kModifier", "Lo": "kOtherLetter",
    "Mn": "kMark", "Mc": "kMark", "Me": "kMark",
    "Nd": "kDecimal", "Nl": "kOtherNumber", "No": "kOtherNumber",
    "Pc": "kConnector",
    **{category: "kPunctuation" for category in ("Pd", "Ps", "Pe", "Pi", "Pf", "Po")},
    "Sm": "kSymbol", "Sc": "kSymbol", "Sk": "kSymbol", "So": "kSymbol",
}
# The White_Space property (PropList.txt).
WHITE_SPACE = [
    *range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
    0x2028, 0x2029, 0x202F, 0x205F, 0x3000,
]
# CJK unified ideographs extension I, and ideographic description characters.
NEW_LETTERS = range(0x2EBF0, 0x2EE5E)
NEW_SYMBOLS = (0x2FFC, 0x2FFD, 0x2FFE, 0x2FFF, 0x31EF)


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
            name = CLASS_OF_CATEGORY.get(fields[2], "kOther")
            table[start:code + 1] = [name] * (code + 1 - start)
    for code in NEW_LETTERS:
        table[code] = "kOtherLetter"
    for code in NEW_SYMBOLS:
        table[code] = "kSymbol"
    for code in WHITE_SPACE:
        table[code] = "kSpace"
    return table


def class_entries(path):
    table = classes(path)
    for code, name in enumerate(table):
        if code == 0 or table[code - 1] != name:
            yield "{0x%X, CharClass::%s}," % (code, name)


def han_entries(path):
    ranges = [(NEW_LETTERS[0], NEW_LETTERS[-1])]
    with open(path, encoding="utf-8") as file:
        for line in file:
            codes, _, script = line.partition("#")[0].partition(";")
            if script.strip() == "Han":
                first, _, last = codes.strip().partition("..")
                ranges.append((int(first, 16), int(last or first, 16)))
    merged = []
    for first, last in sorted(ranges):
        if merged and merged[-1][1] + 1 == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return ["{0x%X, 0x%X}," % entry for entry in merged]


def main():
    entries = {"classes": class_entries, "han": han_entries}[sys.argv[1]](sys.argv[2])
    print("// Written by generate_unicode_ranges.py from the Unicode Character Database 15.1.")
    line = ""
    for entry in entries:
        if len(line) + len(entry) + 1 > 100:
            print(line)
            line = ""
        line = entry if not line else line + " " + entry
    print(line)


if __name__ == "__main__":
    main()
