"""Questions with one right answer each: addition, copying, sorting, counting, stated facts.

Each maker takes a random source and a split, and gives a Task. The content by which a task
belongs to a split is stricter than its text: both orders of a sum and both ways of writing it, and
all orders of a list to be sorted, share one.
"""

import collections

import splits
import words

# `kind` is the accuracy under which it counts; `content` is what its split depends on.
Task = collections.namedtuple('Task', ['kind', 'question', 'answer', 'content'])


def addition(rng, split, in_words=None):
    low = 0 if split == splits.TRAIN and rng.random() < 0.1 else 10
    a, b = splits.draw(rng, split, 'addition',
                       lambda r: (r.randint(low, 99), r.randint(low, 99)), content=sorted)
    content = ('addition', *sorted((a, b)))
    if rng.random() < 0.3 if in_words is None else in_words:
        left, right = words.number_words(a), words.number_words(b)
        return Task('addition', f'What is {left} plus {right}?',
                    f'{words.capitalized(left)} plus {right} is {words.number_words(a + b)}.',
                    content)
    return Task('addition', f'What is {a} + {b}?', f'{a} + {b} = {a + b}.', content)


def _word_list(rng, choices, fewest, most):
    return rng.sample(choices, rng.randint(fewest, most))


def copying(rng, split):
    def make(r):
        kind = r.randrange(3)
        if kind == 0:
            return [str(r.randrange(10)) for _ in range(r.randint(3, 8))]
        choices = words.ANIMALS if kind == 1 else words.OBJECTS + words.COLORS + words.PLACES
        return _word_list(r, choices, 3, 7)
    items = splits.draw(rng, split, 'copying', make)
    listed = ', '.join(items)
    return Task('copying', f'Copy this: {listed}', f'{listed}.', ('copying', *items))


def sorting(rng, split):
    def make(r):
        if r.random() < 0.5:
            return _word_list(r, [str(digit) for digit in range(10)], 3, 7)
        return _word_list(r, words.ANIMALS, 3, 5)
    items = splits.draw(rng, split, 'sorting', make, content=sorted)
    return Task('sorting', f'Sort this: {", ".join(items)}', f'{", ".join(sorted(items))}.',
                ('sorting', *sorted(items)))


def counting(rng, split):
    if rng.random() < 0.5:
        def span(r):
            first = r.randint(0, 90)
            return first, first + r.randint(3, 9)
        first, last = splits.draw(rng, split, 'counting', span)
        listed = ', '.join(str(number) for number in range(first, last + 1))
        return Task('counting', f'Count from {first} to {last}.', f'{listed}.',
                    ('counting', first, last))

    def make(r):
        wanted, other, third = r.sample(words.ANIMALS, 3)
        items = [wanted] * r.randint(1, 5) + [r.choice([other, third])
                                              for _ in range(r.randint(1, 4))]
        r.shuffle(items)
        return (wanted, *items)
    wanted, *items = splits.draw(rng, split, 'counting', make)
    times = items.count(wanted)
    return Task('counting', f'How many times is {wanted} in this: {", ".join(items)}',
                f'{words.capitalized(wanted)} is there {words.number_words(times)} '
                f'{"time" if times == 1 else "times"}.', ('counting', wanted, *items))


# Facts. Training never sees an object stated to be at a place, of a color or with a person if that
# pair is held out.

def _pair(rng, split, kind, left, right):
    """Of `right` (not empty), one that belongs to `left` in `split`; None if none does."""
    fitting = [one for one in right if splits.split_of(kind, left, one) == split]
    return rng.choice(fitting) if fitting else None


def place_for(rng, split, thing, places):
    return _pair(rng, split, 'place', thing, places)


def color_for(rng, split, thing, colors):
    return _pair(rng, split, 'color', thing, colors)


def owner_for(rng, split, thing, names):
    return _pair(rng, split, 'owner', thing, names)


class _Scene:
    """A few people, each with a thing of a color somewhere; all different."""

    def __init__(self, rng, count):
        self.rng = rng
        while True:
            self.things = rng.sample(words.OBJECTS, count)
            self.owners = self._choose(owner_for, list(words.NAMES))
            self.colors = self._choose(color_for, words.COLORS)
            self.places = self._choose(place_for, words.PLACES)
            if None not in self.owners + self.colors + self.places:
                break

    def _choose(self, choose, candidates):
        chosen = []
        for thing in self.things:
            left = [one for one in candidates if one not in chosen]
            chosen.append(choose(self.rng, splits.TRAIN, thing, left))
        return chosen

    def sentences(self, which):
        owner, color = self.owners[which], self.colors[which]
        thing, place = self.things[which], self.places[which]
        subject = words.capitalized(words.NAMES[owner][1])
        form = self.rng.randrange(3)
        if form == 0:
            return f'{owner} has a {color} {thing}. {subject} put it in the {place}.'
        if form == 1:
            return f'{owner} has a {color} {thing}. The {thing} is in the {place}.'
        return f'In the {place} there is a {color} {thing}. {owner} has the {thing}.'


FACT_FORMS = {
    'place': ('Where is the {thing}?', 'The {thing} is in the {value}.'),
    'color': ('What color is the {thing}?', 'The {thing} is {value}.'),
    'owner': ('Who has the {thing}?', 'The {thing} is with {value}.'),
}


def facts(rng, split):
    """In the held-out split the pair asked for is held out; the others are not."""
    relation = rng.choice(sorted(FACT_FORMS))
    while True:
        scene = _Scene(rng, rng.randint(2, 4))
        asked = rng.randrange(len(scene.things))
        thing = scene.things[asked]
        values = {'place': scene.places, 'color': scene.colors, 'owner': scene.owners}[relation]
        if split == splits.TRAIN:
            break
        everything = {'place': words.PLACES, 'color': words.COLORS,
                      'owner': list(words.NAMES)}[relation]
        new = _pair(rng, split, relation, thing, [one for one in everything if one not in values])
        if new is not None:
            values[asked] = new
            break
    text = ' '.join(scene.sentences(which) for which in range(len(scene.things)))
    question, answer = FACT_FORMS[relation]
    return Task('facts', f'{text} {question.format(thing=thing)}',
                answer.format(thing=thing, value=values[asked]),
                (relation, thing, values[asked]))


MAKERS = {'addition': addition, 'copying': copying, 'sorting': sorting, 'counting': counting,
          'facts': facts}
