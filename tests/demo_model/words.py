"""The words that stories and tasks are made of."""

# name: (noun, subject, object, possessive)
GIRL = ('girl', 'she', 'her', 'her')
BOY = ('boy', 'he', 'him', 'his')
NAMES = {
    'Mia': GIRL, 'Anna': GIRL, 'Lily': GIRL, 'Sara': GIRL, 'Emma': GIRL, 'Nora': GIRL,
    'Ruth': GIRL, 'Zoe': GIRL,
    'Tom': BOY, 'Ben': BOY, 'Max': BOY, 'Sam': BOY, 'Jack': BOY, 'Leo': BOY, 'Paul': BOY,
    'Finn': BOY,
}
COLORS = ['red', 'blue', 'green', 'yellow', 'white', 'black', 'brown', 'pink']
OBJECTS = ['ball', 'box', 'book', 'hat', 'kite', 'drum', 'boat', 'lamp', 'cup', 'key', 'doll',
           'bell', 'coat', 'flute', 'bag', 'shell']
# Each with "in the".
PLACES = ['kitchen', 'garden', 'park', 'school', 'forest', 'barn', 'cave', 'tower', 'shop',
          'tent', 'attic', 'cellar', 'yard', 'library', 'station', 'castle']
# One word for each letter that has one; sorting is by first letter.
ANIMALS = ['ant', 'bear', 'cat', 'dog', 'eel', 'fox', 'goat', 'hen', 'ibis', 'jay', 'koala',
           'lion', 'mouse', 'newt', 'owl', 'pig', 'rat', 'seal', 'tiger', 'viper', 'wolf', 'yak',
           'zebra']
WEATHER = ['sunny', 'rainy', 'windy', 'cold', 'warm', 'snowy']
FEELINGS = ['happy', 'proud', 'glad']

SMALL = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten',
         'eleven', 'twelve', 'thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen',
         'nineteen']
TENS = ['', '', 'twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety']


def number_words(number):
    """0 to 198 in words."""
    if number >= 100:
        rest = number - 100
        return 'one hundred' + (f' and {number_words(rest)}' if rest else '')
    if number < 20:
        return SMALL[number]
    return TENS[number // 10] + (f'-{SMALL[number % 10]}' if number % 10 else '')


def capitalized(text):
    return text[0].upper() + text[1:]
