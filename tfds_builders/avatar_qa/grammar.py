"""Sentences of the demo about weather or home, signed alike.

`RAIN` is "rain" in the weather and "tea" at home; `NORTH` is "in the north", "mother" or "father"; `COME`
is "will come", "came", "will bring" or "brought". The question implies which one (topic, tense, gender)
and leaves its answer open, so neither question nor video alone determines the target.
"""

import functools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from tfds_builders.avatar import Signer, distinct_signs
from tfds_builders.avatar_qa.vocabulary import (
    GLOSSES,
    NUMBERS,
    PLACES,
    QUALITIES,
    THINGS,
    TIMES,
    VAGUE,
    VERBS,
)

OPENINGS = (
    "please tell me",
    "do you know",
    "my friend asks",
    "i am curious",
    "hello",
    "excuse me",
    "can you say",
    "",
    "",
)
CLOSINGS = ("thank you", "i missed the news", "we talk about it", "it is important", "", "")

DRAWS = 20_000  # every word of every reading occurs dozens of times

LEXICON = distinct_signs(GLOSSES)
SIGNERS = tuple(f"signer{i}" for i in range(1, 9))
SIGNS_PER_CLIP = (4, 6)

FRAMES_PER_SIGN = 7.0
FRAME_LIMITS = (24, 60)
ISOLATED_FRAMES, ISOLATED_SHOWN = 14, slice(3, 10)  # only the sign itself is kept


_TABLES = (TIMES, PLACES, NUMBERS, THINGS, QUALITIES, VERBS)  # in the order of the signs

_Reading = tuple[bool, bool, bool]  # home, past, at home a man


@dataclass(frozen=True)
class Sentence:
    """A scene as it is signed, asked about and spoken."""

    glosses: tuple[str, ...]
    question: str
    target: str


@dataclass(frozen=True)
class Row:
    """A clip: its sentence and how it is rendered."""

    id: str
    sentence: Sentence
    signer: str
    num_frames: int  # of the stored clip
    seed: int

    @property
    def isolated(self) -> bool:
        """Return whether the clip is one sign, cut out of `ISOLATED_FRAMES` frames."""
        return len(self.sentence.glosses) == 1


def draw_sentence(rng: random.Random) -> Sentence:
    """Draw a sentence of `SIGNS_PER_CLIP` signs."""
    while True:
        sentence = _Scene(rng).sentence()
        if SIGNS_PER_CLIP[0] <= len(sentence.glosses) <= SIGNS_PER_CLIP[1]:
            return sentence


def deciding_words(question: str) -> set[str]:
    """Return the words that a question needs to decide a reading.

    A reading is weather or home, past or future, and at home woman or man. Without one of these words, the
    same signs have several targets. Where two words say the same (`will` and `tomorrow`), neither of them
    decides.
    """
    words, readings = question.split(), _readings_of_words()

    def left(without: str) -> set[_Reading]:
        return set.intersection(*(readings[word] for word in words if word != without))

    return {word for word in words if len(left(word)) > 1}


@functools.cache
def _readings_of_words() -> dict[str, set[_Reading]]:
    """Return the readings in which each word occurs, from many draws."""
    rng, found = random.Random(0), defaultdict[str, set[_Reading]](set)
    for _ in range(DRAWS):
        scene = _Scene(rng)
        for word in scene.sentence().question.split():
            found[word].add((scene.home, scene.past, scene.home and scene.male))
    return found


def readings(glosses: Sequence[str]) -> set[str]:
    """Return every target that signs may have, whatever is asked."""
    scene, found = _Scene(random.Random(0)), set()
    signs = [next((gloss for gloss in glosses if gloss in table), "") for table in _TABLES]
    scene.time, scene.place, scene.number, scene.thing, scene.quality, scene.verb = signs
    for scene.home, scene.past, scene.male in product((False, True), repeat=3):
        found.add(scene.sentence().target)
    return found


def rows(num_clips: dict[str, int], seed: int = 0) -> dict[str, list[Row]]:
    """Return the rows of each split, the same for the same arguments.

    No pair of question and target occurs twice, not even in two splits. The split `isolated`
    shows each gloss about equally often, with an empty question and the gloss in lower case as the target.
    """
    rng = random.Random(seed)
    seen: set[tuple[str, str]] = set()
    result = {}
    for split, count in num_clips.items():
        isolated = split == "isolated"
        sentences = _isolated_sentences(count) if isolated else _fresh_sentences(count, seen, rng)
        result[split] = [_row(f"{split}-{i:04d}", sentence, rng) for i, sentence in enumerate(sentences)]
    return result


def _fresh_sentences(count: int, seen: set[tuple[str, str]], rng: random.Random) -> Iterator[Sentence]:
    while count:
        sentence = draw_sentence(rng)
        pair = (sentence.question, sentence.target)
        if pair not in seen:
            seen.add(pair)
            count -= 1
            yield sentence


def _isolated_sentences(count: int) -> Iterator[Sentence]:
    for i in range(count):
        gloss = GLOSSES[i % len(GLOSSES)]
        yield Sentence(glosses=(gloss,), question="", target=gloss.lower())


def _row(name: str, sentence: Sentence, rng: random.Random) -> Row:
    signer = rng.choice(SIGNERS)
    if len(sentence.glosses) == 1:
        num_frames = len(range(ISOLATED_FRAMES)[ISOLATED_SHOWN])
    else:
        pace = FRAMES_PER_SIGN * Signer.of(signer).tempo * rng.uniform(0.9, 1.1)
        shortest, longest = FRAME_LIMITS
        num_frames = min(max(round((len(sentence.glosses) + 0.6) * pace), shortest), longest)
    return Row(name, sentence, signer, num_frames, seed=rng.randrange(1 << 30))


class _Scene:
    """The random choices behind a sentence, put into signs and words."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.home, self.past, self.male = (rng.random() < 0.5 for _ in range(3))
        self.time = self._maybe(0.8, TIMES)
        self.place = self._maybe(1.0, PLACES)
        self.number = self._maybe(0.5, NUMBERS)
        self.thing = self._maybe(1.0, THINGS)
        self.quality = self._maybe(0.6, QUALITIES)
        self.verb = self._maybe(0.8, VERBS)

    def sentence(self) -> Sentence:
        """Return the sentence."""
        signs = (self.time, self.place, self.number, self.thing, self.quality, self.verb)
        target, question = self._home() if self.home else self._weather()
        return Sentence(
            glosses=tuple(gloss for gloss in signs if gloss),
            question=_phrase(self.rng.choice(OPENINGS), question, self.rng.choice(CLOSINGS), "?"),
            target=target,
        )

    def _weather(self) -> tuple[str, str]:
        """Return target and question of the weather reading."""
        time, place = self._time(), PLACES[self.place].weather
        thing, verb = THINGS[self.thing].weather, VERBS.get(self.verb, VAGUE)
        subject = _phrase(QUALITIES[self.quality].weather if self.quality else "", thing)
        predicate = verb.weather_past if self.past else f"will {verb.weather}"
        degrees = f"with {NUMBERS[self.number]} degrees" if self.number else ""
        target = _phrase(time, subject, predicate, place, degrees)

        did, do = self._did(), self.rng.choice((verb, VAGUE)).weather
        named = self._named
        questions = {
            "kind": lambda: ("what weather", did, do, named(place), named(time)),
            "place": lambda: ("where", did, named(thing) or "the weather", do, named(time)),
            "time": lambda: ("when", did, named(thing) or "the weather", do, named(place)),
            "number": lambda: ("how many degrees", did, "the weather have", named(place), named(time)),
        }
        return target, _phrase(*questions[self._asked()]())

    def _home(self) -> tuple[str, str]:
        """Return target and question of the home reading."""
        time, place = self._time(), PLACES[self.place]
        person = f"the {place.man if self.male else place.woman}"
        thing, verb = THINGS[self.thing].home, VERBS.get(self.verb, VAGUE)
        quality = QUALITIES[self.quality].home if self.quality else ""
        predicate = verb.home_past if self.past else f"will {verb.home}"
        hour = f"at {NUMBERS[self.number]} o'clock" if self.number else ""
        target = _phrase(time, person, predicate, quality, thing, hour)

        did, do = self._did(), self.rng.choice((verb, VAGUE)).home
        pronoun, which = ("he", "which man") if self.male else ("she", "which woman")
        named = self._named
        questions = {
            "kind": lambda: ("what", did, named(person) or pronoun, do, named(time)),
            "place": lambda: (which, did, do, named(thing), named(time)),
            "time": lambda: ("when", did, pronoun, do, named(thing)),
            "number": lambda: ("at what time", did, pronoun, do, named(thing)),
        }
        return target, _phrase(*questions[self._asked()]())

    def _asked(self) -> str:
        """Draw what the question leaves open, from what the sentence says."""
        open_slots = ["kind", "place"] + ["time"] * bool(self.time) + ["number"] * bool(self.number)
        return self.rng.choice(open_slots)

    def _time(self) -> str:
        if not self.time:
            return ""
        return TIMES[self.time].past if self.past else TIMES[self.time].future

    def _did(self) -> str:
        return "did" if self.past else "will"

    def _named(self, words: str) -> str:
        """Draw whether the question names what it does not ask for."""
        return words if self.rng.random() < 0.4 else ""

    def _maybe(self, probability: float, table: dict) -> str:
        return self.rng.choice(list(table)) if self.rng.random() < probability else ""


def _phrase(*words: str) -> str:
    return " ".join(word for word in words if word)
