"""The corpus as rows of token ids for training, made by many processes.

A row holds whole documents, the first at its start, and padding. An entry is a token id with, in
its two upper bits, how much is to be learned of it (corpus.IGNORED, GIVEN, LEARNED).
"""

import concurrent.futures
import hashlib
import multiprocessing
import os

import numpy

import corpus
import shapes
import tokenizer

LEARN_SHIFT = 14
ID_MASK = (1 << LEARN_SHIFT) - 1
ROWS_A_PART = 2048
SOURCES = ['corpus.py', 'splits.py', 'stories.py', 'tasks.py', 'tokenizer.json', 'tokenizer.py',
           'words.py']


def entries(words, pieces):
    """A document's entries."""
    row = []
    for text, learn in pieces:
        row.extend(index | learn << LEARN_SHIFT for index in words.encode(text))
    return row


def rows_of(words, documents, rows, width):
    """`rows` rows of `width` from an endless iterator of documents. Longer ones are left out."""
    padding = words.id(corpus.END_OF_TEXT)
    result = numpy.full((rows, width), padding, dtype=numpy.uint16)
    row, at = 0, 0
    for pieces in documents:
        document = entries(words, pieces)
        if len(document) > width:
            continue
        if at + len(document) > width:
            row, at = row + 1, 0
            if row == rows:
                return result
        result[row, at:at + len(document)] = document
        at += len(document)
    raise ValueError('too few documents')


def part(seed, split, number, rows=ROWS_A_PART, width=shapes.CONTEXT):
    """Part `number` of the split's rows: a function of the arguments."""
    words = tokenizer.Tokenizer.load()
    documents = corpus.documents(seed, split, number, rows * width)
    return rows_of(words, documents, rows, width)


def make(seed, split, rows, processes):
    """(rows, context) for training; `rows` is rounded up to whole parts."""
    parts = -(-rows // ROWS_A_PART)
    if processes == 1:
        return numpy.concatenate([part(seed, split, number) for number in range(parts)])
    context = multiprocessing.get_context('fork')
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        return numpy.concatenate(list(pool.map(part, [seed] * parts, [split] * parts,
                                               range(parts))))


def sha256(array):
    return hashlib.sha256(numpy.ascontiguousarray(array)).hexdigest()


def source_hashes():
    """{file: SHA-256} of everything that the corpus depends on."""
    folder = os.path.dirname(os.path.abspath(__file__))
    result = {}
    for name in SOURCES:
        with open(os.path.join(folder, name), 'rb') as file:
            result[name] = hashlib.sha256(file.read()).hexdigest()
    return result
