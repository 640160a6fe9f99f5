"""The text that the demo models learn: stories, and questions in the form of a chat.

Everything comes from a grammar and a seed, so the same call gives the same text on every machine.
Run as a program it prints samples: corpus.py [SEED [COUNT]].
"""

import random
import sys

import splits
import stories
import tasks

END_OF_TEXT, START, END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
SPECIAL_TOKENS = [END_OF_TEXT, START, END]
# What the two functions below do, for programs that read the file's tokenizer.chat_template.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

# How often each kind of document comes, in parts of the whole.
MIX = [('story', 20), ('story-chat', 5), ('addition', 26), ('copying', 12), ('sorting', 12),
       ('counting', 8), ('facts', 17)]

# How much the model is to learn from a piece of text: nothing, a little (what a user says), all.
IGNORED, GIVEN, LEARNED = 0, 1, 2


def chat_prompt(question):
    """What precedes the assistant's answer."""
    return f'{START}user\n{question}{END}\n{START}assistant\n'


def chat_pieces(question, answer):
    """A document as (text, how much to learn)."""
    return [(chat_prompt(question), GIVEN), (answer + END, LEARNED), ('\n', GIVEN)]


def story_request(story):
    return f'Tell me a story about {story.hero} and a {story.thing}.'


def document(rng, split):
    """One document of the mix."""
    kind = rng.choices([name for name, _ in MIX], [part for _, part in MIX])[0]
    if kind in tasks.MAKERS:
        task = tasks.MAKERS[kind](rng, split)
        return chat_pieces(task.question, task.answer)
    story = stories.story(rng, split)
    if kind == 'story-chat':
        return chat_pieces(story_request(story), story.text)
    return [(story.text + END_OF_TEXT, LEARNED)]


def random_source(seed, *path):
    """A source of its own for each seed and path."""
    return random.Random('/'.join(map(str, (seed, *path))))


def documents(seed, split, part, count):
    """`count` documents; `part` is the number of the piece, for many processes at once."""
    rng = random_source(seed, split, part)
    for _ in range(count):
        yield document(rng, split)


def held_out_tasks(kind, count, seed=1):
    """Different tasks of the held-out split for evaluation."""
    rng = random_source(seed, 'evaluation', kind)
    found = {}
    while len(found) < count:
        task = tasks.MAKERS[kind](rng, splits.HELD_OUT)
        found.setdefault(task.question, task)
    return list(found.values())


def held_out_stories(count, seed=1):
    rng = random_source(seed, 'evaluation', 'story')
    return [stories.story(rng, splits.HELD_OUT) for _ in range(count)]


def main():
    seed = sys.argv[1] if len(sys.argv) > 1 else 1
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    for pieces in documents(seed, splits.TRAIN, 0, count):
        print(''.join(text for text, _ in pieces).rstrip('\n'), end='\n\n')


if __name__ == '__main__':
    main()
