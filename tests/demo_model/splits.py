"""Which contents training may see.

A task has a content that says what is to be learned: the two numbers of a sum, the words of a list,
who put what where. Its hash decides for ever whether it belongs to the training split or to the one
that is held out, so that the two are disjoint by construction, whatever the seed.
"""

import hashlib

TRAIN, HELD_OUT = 'train', 'held-out'
HELD_OUT_ONE_IN = 10


def split_of(kind, *content):
    """TRAIN or HELD_OUT. `content` is anything whose str() is always the same."""
    key = '\x1f'.join([kind, *map(str, content)])
    digest = hashlib.sha256(key.encode()).digest()
    return HELD_OUT if int.from_bytes(digest[:4], 'big') % HELD_OUT_ONE_IN == 0 else TRAIN


def draw(rng, split, kind, make, content=lambda made: made):
    """Calls make(rng) until content(made), a tuple, is in `split`."""
    while True:
        made = make(rng)
        if split_of(kind, *content(made)) == split:
            return made
