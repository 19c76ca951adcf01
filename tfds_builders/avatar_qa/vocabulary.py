"""The signs of the demo and their meanings; nearly all are homographs.

A sign has a weather reading and a home reading; some have one for each tense or gender too.
"""

from typing import NamedTuple


class Time(NamedTuple):
    """A time in both tenses."""

    future: str
    past: str


class Place(NamedTuple):
    """A place of the weather, or a person at home."""

    weather: str
    woman: str
    man: str


class Thing(NamedTuple):
    """A kind of weather, or a thing at home."""

    weather: str
    home: str


class Verb(NamedTuple):
    """A verb of the weather or of a person, in both tenses."""

    weather: str
    weather_past: str
    home: str
    home_past: str


class Quality(NamedTuple):
    """A quality of the weather, or of a thing at home."""

    weather: str
    home: str


TIMES = {
    "MONDAY": Time("on monday", "on monday"),
    "TUESDAY": Time("on tuesday", "on tuesday"),
    "WEDNESDAY": Time("on wednesday", "on wednesday"),
    "THURSDAY": Time("on thursday", "on thursday"),
    "FRIDAY": Time("on friday", "on friday"),
    "SATURDAY": Time("on saturday", "on saturday"),
    "SUNDAY": Time("on sunday", "on sunday"),
    "DAY": Time("tomorrow", "yesterday"),
    "WEEK": Time("next week", "last week"),
    "MONTH": Time("next month", "last month"),
    "NEAR": Time("soon", "recently"),
}
PLACES = {
    "NORTH": Place("in the north", "mother", "father"),
    "SOUTH": Place("in the south", "sister", "brother"),
    "EAST": Place("in the east", "aunt", "uncle"),
    "WEST": Place("in the west", "grandmother", "grandfather"),
    "COAST": Place("at the coast", "queen", "king"),
    "MOUNTAIN": Place("in the mountains", "daughter", "son"),
    "VALLEY": Place("in the valley", "girl", "boy"),
    "CITY": Place("in the city", "niece", "nephew"),
}
THINGS = {
    "RAIN": Thing("rain", "tea"),
    "SNOW": Thing("snow", "flour"),
    "WIND": Thing("wind", "bread"),
    "SUN": Thing("sun", "oil"),
    "FOG": Thing("fog", "soup"),
    "STORM": Thing("storms", "fish"),
    "CLOUD": Thing("clouds", "pillows"),
    "ICE": Thing("ice", "glass"),
    "THUNDER": Thing("thunder", "music"),
    "FROST": Thing("frost", "salt"),
    "HAIL": Thing("hail", "beans"),
    "LIGHTNING": Thing("lightning", "candles"),
    "DRIZZLE": Thing("drizzle", "coffee"),
    "HEAT": Thing("heat", "wood"),
}
VERBS = {
    "COME": Verb("come", "came", "bring", "brought"),
    "STAY": Verb("stay", "stayed", "keep", "kept"),
    "BEGIN": Verb("begin", "began", "open", "opened"),
    "RETURN": Verb("return", "returned", "find", "found"),
    "END": Verb("end", "ended", "eat", "ate"),
    "GROW": Verb("grow", "grew", "cook", "cooked"),
    "SPREAD": Verb("spread", "spread", "buy", "bought"),
    "WEAKEN": Verb("weaken", "weakened", "sell", "sold"),
}
VAGUE = Verb("appear", "appeared", "get", "got")  # if no verb is signed, and in vague questions
QUALITIES = {
    "STRONG": Quality("strong", "much"),
    "LIGHT": Quality("light", "little"),
    "HEAVY": Quality("heavy", "fresh"),
    "COLD": Quality("cold", "old"),
    "WARM": Quality("warm", "new"),
    "LOCAL": Quality("local", "good"),
}
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {number.upper(): number for number in _NUMBERS.split()}

GLOSSES = (*TIMES, *PLACES, *NUMBERS, *THINGS, *QUALITIES, *VERBS)
