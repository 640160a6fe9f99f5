"""The corpus: the same every time, held-out contents never in training, answers right, pronouns of
the right person."""

import collections
import hashlib
import re
import unittest

import numpy

import batches
import corpus
import shapes
import splits
import stories
import tasks
import tokenizer
import words

COUNT = 800


def text_of(pieces):
    return ''.join(text for text, _ in pieces)


def made(kind, split, count=COUNT):
    rng = corpus.random_source(3, kind, split)
    return [tasks.MAKERS[kind](rng, split) for _ in range(count)]


NUMBERS = {words.number_words(number): number for number in range(199)}


def number(text):
    return NUMBERS[text.lower()] if text.lower() in NUMBERS else int(text)


class TaskTest(unittest.TestCase):

    def test_splits_are_disjoint(self):
        for kind in tasks.MAKERS:
            train = {task.content for task in made(kind, splits.TRAIN)}
            held_out = {task.content for task in made(kind, splits.HELD_OUT)}
            self.assertGreater(len(held_out), 30, kind)
            self.assertFalse(train & held_out, kind)
            for content in train:
                self.assertEqual(splits.split_of(*content), splits.TRAIN)
            for content in held_out:
                self.assertEqual(splits.split_of(*content), splits.HELD_OUT)

    def test_a_tenth_is_held_out(self):
        shares = [splits.split_of('addition', a, b) == splits.HELD_OUT
                  for a in range(100) for b in range(a, 100)]
        self.assertAlmostEqual(numpy.mean(shares), 0.1, delta=0.015)

    def test_the_split_is_for_ever(self):
        self.assertEqual(hashlib.sha256(''.join(
            splits.split_of('addition', a, b) for a in range(100) for b in range(100)
        ).encode()).hexdigest()[:16], 'c9348f4ad1cc3c16')

    def test_sums(self):
        for split in (splits.TRAIN, splits.HELD_OUT):
            for task in made('addition', split):
                left, right = re.fullmatch(r'What is (.+) (?:\+|plus) (.+)\?',
                                           task.question).groups()
                said = re.fullmatch(r'(.+) (?:\+|plus) (.+) (?:=|is) (.+)\.',
                                    task.answer).groups()
                self.assertEqual([number(part) for part in said],
                                 [number(left), number(right), number(left) + number(right)])
                # Neither order nor spelling makes another content of it.
                self.assertEqual(task.content[1:], tuple(sorted((number(left), number(right)))))
                if split == splits.HELD_OUT:
                    self.assertGreaterEqual(task.content[1], 10)

    def test_number_words(self):
        self.assertEqual(len(NUMBERS), 199)
        self.assertEqual([words.number_words(n) for n in (0, 13, 20, 47, 100, 115, 198)],
                         ['zero', 'thirteen', 'twenty', 'forty-seven', 'one hundred',
                          'one hundred and fifteen', 'one hundred and ninety-eight'])

    def test_copies(self):
        for task in made('copying', splits.TRAIN):
            self.assertEqual(task.question, f'Copy this: {task.answer[:-1]}')
            self.assertEqual(task.answer[:-1].split(', '), list(task.content[1:]))

    def test_sorting(self):
        for task in made('sorting', splits.TRAIN):
            items = task.question.removeprefix('Sort this: ').split(', ')
            self.assertEqual(task.answer, ', '.join(sorted(items)) + '.')
            self.assertEqual(len(set(items)), len(items))
            self.assertEqual(task.content[1:], tuple(sorted(items)))
        self.assertEqual(len({animal[0] for animal in words.ANIMALS}), len(words.ANIMALS))

    def test_counting(self):
        for task in made('counting', splits.TRAIN):
            if task.question.startswith('Count'):
                first, last = map(int, re.findall(r'\d+', task.question))
                self.assertEqual([int(n) for n in re.findall(r'\d+', task.answer)],
                                 list(range(first, last + 1)))
                continue
            wanted, listed = re.fullmatch(r'How many times is (\w+) in this: (.+)',
                                          task.question).groups()
            times = listed.split(', ').count(wanted)
            self.assertEqual(task.answer, f'{wanted.capitalize()} is there {words.SMALL[times]} '
                                          f'time{"s" if times > 1 else ""}.')

    def facts_of(self, text):
        """{(relation, thing): value} by reading the sentences alone."""
        facts, owner, thing = {}, None, None
        for sentence in re.findall(r'[^.?]+[.]', text):
            sentence = sentence.strip(' .')
            if has := re.fullmatch(r'(\w+) has a (\w+) (\w+)', sentence):
                owner, color, thing = has.groups()
                facts['owner', thing], facts['color', thing] = owner, color
            elif put := re.fullmatch(r'(\w+) put it in the (\w+)', sentence):
                self.assertEqual(put[1].lower(), words.NAMES[owner][1])
                facts['place', thing] = put[2]
            elif lies := re.fullmatch(r'The (\w+) is in the (\w+)', sentence):
                facts['place', lies[1]] = lies[2]
            elif there := re.fullmatch(r'In the (\w+) there is a (\w+) (\w+)', sentence):
                place, color, thing = there.groups()
                facts['place', thing], facts['color', thing] = place, color
            else:
                owns = re.fullmatch(r'(\w+) has the (\w+)', sentence)
                self.assertIsNotNone(owns, sentence)
                facts['owner', owns[2]] = owns[1]
        return facts

    def test_facts(self):
        for split in (splits.TRAIN, splits.HELD_OUT):
            for task in made('facts', split):
                relation, thing, value = task.content
                text = task.question[:task.question.rindex('.') + 1]
                facts = self.facts_of(text)
                self.assertEqual(facts[relation, thing], value)
                self.assertTrue(task.answer.endswith(f' {value}.'))
                self.assertIn(thing, task.question[len(text):])
                # Otherwise a question could have two answers.
                for other in ('place', 'color', 'owner'):
                    values = [v for (kind, _), v in facts.items() if kind == other]
                    self.assertEqual(len(values), len(set(values)))
                if split == splits.TRAIN:
                    for (kind, what), stated in facts.items():
                        self.assertEqual(splits.split_of(kind, what, stated), splits.TRAIN)


class StoryTest(unittest.TestCase):

    def test_pronouns_are_those_of_the_people(self):
        rng = corpus.random_source(4, 'stories')
        for _ in range(COUNT):
            story = stories.story(rng, splits.TRAIN)
            kinds = {words.NAMES[name] for name in (story.hero, story.friend)}
            allowed = {word for kind in kinds for word in kind[1:]}
            used = set(re.findall(r'\b(she|he|her|him|his)\b', story.text.lower()))
            self.assertLessEqual(used, allowed, story.text)
            # The hero alone is spoken of before the friend comes in.
            alone = story.text.split(story.friend)[0].lower()
            self.assertLessEqual(set(re.findall(r'\b(she|he|her|him|his)\b', alone)),
                                 {*words.NAMES[story.hero][1:],
                                  *(words.NAMES[story.friend][1:] if 'gave' in alone else ())},
                                 story.text)
            self.assertEqual(set(re.findall(r'\b(girl|boy)\b', story.text)),
                             {words.NAMES[story.hero][0]})
            self.assertNotRegex(story.text, r'[{}]|\ba [aeiou]|  ')

    def test_templates_name_the_right_person(self):
        # Of the hero {he}, of the friend {fhe}: a template that has a name for the one before the
        # pronoun of the other would be unclear, so the words that tell are only these.
        fields = collections.Counter(
            field for part in stories.PARTS for template in part
            for field in re.findall(r'{(\w+)}', template))
        self.assertLessEqual(set(fields), {
            'noun', 'hero', 'friend', 'thing', 'color', 'away', 'weather', 'feeling', 'other',
            'he', 'him', 'his', 'He', 'His', 'fhe', 'fhim', 'fhis'})

    def test_splits(self):
        rng = corpus.random_source(5, 'stories')
        for split in (splits.TRAIN, splits.HELD_OUT):
            for _ in range(200):
                story = stories.story(rng, split)
                self.assertEqual(splits.split_of(*story.content), split)
                hero, _, thing, place = story.content[1:]
                self.assertEqual(splits.split_of('owner', thing, hero), splits.TRAIN)
                self.assertEqual(splits.split_of('place', thing, place), splits.TRAIN)


class CorpusTest(unittest.TestCase):

    def test_the_same_every_time(self):
        digest = hashlib.sha256()
        for pieces in corpus.documents(1, splits.TRAIN, 0, 300):
            digest.update(text_of(pieces).encode())
        self.assertEqual(digest.hexdigest()[:16], '4fdc083e538f3d13')
        other = [text_of(pieces) for pieces in corpus.documents(2, splits.TRAIN, 0, 300)]
        first = [text_of(pieces) for pieces in corpus.documents(1, splits.TRAIN, 0, 300)]
        self.assertNotEqual(first, other)

    def test_training_text_has_no_held_out_question(self):
        questions = {task.question for kind in tasks.MAKERS
                     for task in corpus.held_out_tasks(kind, 100)}
        told = {story.text for story in corpus.held_out_stories(100)}
        for pieces in corpus.documents(1, splits.TRAIN, 1, 5000):
            text = text_of(pieces)
            if text.startswith(corpus.START):
                question = text.split('\n')[1].removesuffix(corpus.END)
                self.assertNotIn(question, questions)
            else:
                self.assertNotIn(text.removesuffix(corpus.END_OF_TEXT), told)

    def test_rows(self):
        vocabulary = tokenizer.Tokenizer.load()
        rows = batches.part(1, splits.TRAIN, 0, rows=64)
        self.assertEqual(rows.shape, (64, shapes.CONTEXT))
        self.assertTrue((rows == batches.part(1, splits.TRAIN, 0, rows=64)).all())
        expected = iter(corpus.documents(1, splits.TRAIN, 0, 10000))
        for row in rows:
            learn = row >> batches.LEARN_SHIFT
            padding = int((learn == corpus.IGNORED).sum())
            self.assertTrue((learn[len(row) - padding:] == corpus.IGNORED).all())
            text = vocabulary.decode((row & batches.ID_MASK)[:len(row) - padding])
            while text:  # whole documents, in their order
                document = text_of(next(expected))
                self.assertTrue(text.startswith(document))
                text = text[len(document):]
        used = (rows >> batches.LEARN_SHIFT != corpus.IGNORED).mean()
        self.assertGreater(used, 0.8)

    def test_answers_are_learned_and_questions_a_little(self):
        vocabulary = tokenizer.Tokenizer.load()
        pieces = corpus.chat_pieces('What is 1 + 2?', 'Three.')
        row = numpy.array(batches.entries(vocabulary, pieces))
        learned = row[row >> batches.LEARN_SHIFT == corpus.LEARNED] & batches.ID_MASK
        self.assertEqual(vocabulary.decode(learned), f'Three.{corpus.END}')


class TokenizerTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.words = tokenizer.Tokenizer.load()

    def test_the_file_is_what_training_gives(self):
        self.assertEqual(tokenizer.train_on_corpus(), self.words.merges)

    def test_vocabulary(self):
        self.assertEqual(len(self.words), shapes.VOCABULARY)
        self.assertEqual(len(set(self.words.tokens)), shapes.VOCABULARY)
        self.assertEqual([token for token in self.words.tokens
                          if len(token) > 1 and re.search(r'\d', token)], [])

    def test_text_comes_back(self):
        for pieces in corpus.documents(9, splits.TRAIN, 0, 200):
            text = text_of(pieces)
            ids = self.words.encode(text)
            self.assertEqual(self.words.decode(ids), text)
        self.assertEqual(len(self.words.encode('2718')), 4)
        self.assertEqual(self.words.encode(corpus.START), [self.words.id(corpus.START)])


if __name__ == '__main__':
    unittest.main()
