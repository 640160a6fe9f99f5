"""Short stories from a grammar: people with consistent pronouns, places, things that get lost."""

import collections

import splits
import tasks
import words

# `content` is what the split depends on.
Story = collections.namedtuple('Story', ['text', 'hero', 'friend', 'thing', 'content'])


class _Cast:
    """The hero, a friend, the thing and the place of one story."""

    def __init__(self, rng):
        # Pairs that questions about facts hold out are not told here either.
        self.thing = rng.choice(words.OBJECTS)
        self.hero = tasks.owner_for(rng, splits.TRAIN, self.thing, sorted(words.NAMES))
        self.friend = rng.choice([name for name in sorted(words.NAMES) if name != self.hero])
        self.color = tasks.color_for(rng, splits.TRAIN, self.thing, words.COLORS)
        self.away = tasks.place_for(rng, splits.TRAIN, self.thing, words.PLACES)

    def content(self):
        return self.hero, self.friend, self.thing, self.away


def _names(cast):
    """The words of the templates: {he} {him} {his} of the hero, {fhe} {fhim} {fhis} of the friend,
    capitalized with a capital letter."""
    known = {'hero': cast.hero, 'friend': cast.friend, 'thing': cast.thing, 'color': cast.color,
             'away': cast.away}
    for prefix, name in (('', cast.hero), ('f', cast.friend)):
        noun, he, him, his = words.NAMES[name]
        known.update({prefix + 'noun': noun, prefix + 'he': he, prefix + 'him': him,
                      prefix + 'his': his, prefix + 'He': words.capitalized(he),
                      prefix + 'His': words.capitalized(his)})
    return known


OPENINGS = [
    'Once upon a time, there was a little {noun} named {hero}.',
    'There once was a {noun} named {hero}.',
    '{hero} was a little {noun}.',
]
POSSESSIONS = [
    '{He} had a {color} {thing}, and {he} loved it very much.',
    '{His} best thing was a {color} {thing}.',
    'One day, {friend} gave {him} a {color} {thing}.',
    '{He} liked to play with {his} {color} {thing}.',
]
JOURNEYS = [
    'On a {weather} day, {hero} took the {thing} to the {away}.',
    'It was a {weather} day, and {hero} went to the {away} with {his} {thing}.',
    'One {weather} morning, {he} walked to the {away} to play.',
]
MEETINGS = [
    'There {he} met {his} friend {friend}.',
    '{friend} was there too, and {fhe} smiled at {him}.',
    '{His} friend {friend} came with {him}.',
]
LOSSES = [
    'But then {hero} could not find the {thing}.',
    'Soon the {thing} was gone, and {hero} was sad.',
    '{hero} looked down, and the {thing} was not there.',
]
SEARCHES = [
    '"Where is my {thing}?" {he} asked.',
    '"Can you help me?" {he} asked {friend}.',
    '"I will help you," said {friend}.',
]
FINDS = [
    '{friend} looked behind a tree, and there was the {thing}.',
    'Together they looked everywhere, and {friend} found the {thing}.',
    '{hero} and {friend} looked for a long time, and then {he} saw the {color} {thing}.',
]
SHARINGS = [
    '{hero} let {friend} play with the {thing}, and {fhe} was {feeling}.',
    '"Thank you," said {hero}, and {he} hugged {fhim}.',
    '{friend} showed {him} {fhis} own {other}, and they played together.',
]
ENDINGS = [
    'In the evening they went home, and {hero} was {feeling}.',
    'From that day on, {hero} took good care of {his} {thing}.',
    'They were friends for ever.',
]
PARTS = [OPENINGS, POSSESSIONS, JOURNEYS, MEETINGS, LOSSES, SEARCHES, FINDS, SHARINGS, ENDINGS]


def story(rng, split):
    cast = splits.draw(rng, split, 'story', _Cast, content=_Cast.content)
    known = _names(cast)
    sentences = []
    for part in PARTS:
        others = [one for one in words.OBJECTS if one != cast.thing]
        sentences.append(rng.choice(part).format(
            **known, weather=rng.choice(words.WEATHER), feeling=rng.choice(words.FEELINGS),
            other=rng.choice(others)))
    return Story(' '.join(sentences), cast.hero, cast.friend, cast.thing,
                 ('story', *cast.content()))
