"""Byte-level byte pair encoding (Radford et al., 2019) with the pre-tokenizer that GGUF files call
"qwen2": training it, and encoding text with it. ASCII text only, which is what the corpus has.

The tokens are the 256 bytes, one token a merge, and the special tokens. Digits are never merged.
Run as a program it trains on the corpus and writes tokenizer.json: tokenizer.py [PATH].
"""

import collections
import functools
import json
import os
import re
import sys

import corpus
import splits

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tokenizer.json')
VOCABULARY = 768
TRAINING_DOCUMENTS = 20000
SEED = 1

# The expression of Qwen2's tokenizer for ASCII.
WORD = re.compile(r"'(?i:s|t|re|ve|m|ll|d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]|"
                  r" ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = re.compile('(' + '|'.join(re.escape(token) for token in corpus.SPECIAL_TOKENS) + ')')


def _byte_characters():
    """How token texts write bytes: printable characters of Latin-1 as themselves, others from
    U+0100 on."""
    plain = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    characters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + len(characters) - len(plain))
    return characters


BYTE_CHARACTERS = _byte_characters()


def _spell(text):
    return tuple(BYTE_CHARACTERS[byte] for byte in text.encode('ascii'))


def _merged(pieces, pair):
    """`pieces` with every `pair`, from the left, made one."""
    out, i = [], 0
    while i < len(pieces):
        if pieces[i:i + 2] == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return tuple(out)


def train(texts, vocabulary=VOCABULARY):
    """The merges for a vocabulary of this size: always the most frequent pair, of equals the first
    in the order of the alphabet."""
    counts = collections.Counter()
    for text in texts:
        for part in SPECIAL.split(text):
            if part not in corpus.SPECIAL_TOKENS:
                counts.update(WORD.findall(part))
    spelled = {_spell(word): count for word, count in counts.items()}
    merges = []
    while len(merges) < vocabulary - 256 - len(corpus.SPECIAL_TOKENS):
        pairs = collections.Counter()
        for pieces, count in spelled.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += count
        if not pairs:
            raise ValueError(f'no pairs are left after {len(merges)} merges')
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = {_merged(pieces, best) if best[0] in pieces else pieces: count
                   for pieces, count in spelled.items()}
    return merges


class Tokenizer:
    """Immutable but for a cache of words."""

    def __init__(self, merges):
        self.merges = [tuple(merge) for merge in merges]
        self._rank = {merge: rank for rank, merge in enumerate(self.merges)}
        bytes_in_order = sorted(BYTE_CHARACTERS, key=lambda byte: ord(BYTE_CHARACTERS[byte]))
        self.tokens = [BYTE_CHARACTERS[byte] for byte in bytes_in_order]
        self.tokens += [left + right for left, right in self.merges] + corpus.SPECIAL_TOKENS
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self.encode_word = functools.lru_cache(maxsize=None)(self._encode_word)

    @classmethod
    def load(cls, path=PATH):
        with open(path, encoding='utf-8') as file:
            return cls(merge.split(' ') for merge in json.load(file)['merges'])

    def __len__(self):
        return len(self.tokens)

    def id(self, token):
        return self._ids[token]

    def _encode_word(self, word):
        pieces = _spell(word)
        while len(pieces) > 1:
            best = min(zip(pieces, pieces[1:]),
                       key=lambda pair: self._rank.get(pair, len(self.merges)))
            if best not in self._rank:
                break
            pieces = _merged(pieces, best)
        return tuple(self._ids[piece] for piece in pieces)

    def encode(self, text):
        """Token ids; the texts of special tokens are these tokens."""
        ids = []
        for part in SPECIAL.split(text):
            if part in corpus.SPECIAL_TOKENS:
                ids.append(self._ids[part])
            else:
                for word in WORD.findall(part):
                    ids.extend(self.encode_word(word))
        return ids

    def decode(self, ids):
        bytes_of = {character: byte for byte, character in BYTE_CHARACTERS.items()}
        out = bytearray()
        for index in ids:
            token = self.tokens[index]
            out += (token.encode() if token in corpus.SPECIAL_TOKENS
                    else bytes(bytes_of[character] for character in token))
        return out.decode()


def train_on_corpus():
    return train(''.join(text for text, _ in pieces)
                 for pieces in corpus.documents(SEED, splits.TRAIN, 'tokenizer',
                                                TRAINING_DOCUMENTS))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else PATH
    merges = [' '.join(merge) for merge in train_on_corpus()]
    with open(path, 'w', encoding='utf-8') as file:
        json.dump({'merges': merges}, file, indent=0, ensure_ascii=True)
        file.write('\n')


if __name__ == '__main__':
    main()
