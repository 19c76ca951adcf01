"""Rules that rewrite questions of PHOENIX-2014T as forecasts, without video and without learning."""

import re

_UNITS = re.findall(
    r"\w+",
    "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
    "siebzehn achtzehn neunzehn",
)
_TENS = ["zwanzig", "dreißig", "vierzig"]
_ORDINALS = re.findall(
    r"\w+",
    "ersten zweiten dritten vierten fünften sechsten siebten achten neunten zehnten elften zwölften "
    "dreizehnten vierzehnten fünfzehnten sechzehnten siebzehnten achtzehnten neunzehnten zwanzigsten",
)
_WEEKDAYS = re.findall(r"\w+", "montag dienstag mittwoch donnerstag freitag samstag sonntag")
_MONTHS = re.findall(
    r"\w+", "januar februar märz april mai juni juli august september oktober november dezember"
)
_FORECAST = re.compile(r"wettervorhersage|wetterbericht")


def edit_german_question(question: str) -> str:
    """Rewrite a cleaned question of PHOENIX-2014T as a sentence of a forecast.

    Three rules: a question about the forecast of a day becomes the sentence that opens each forecast;
    numbers are spelt out; the evening is called night, as in the forecasts.
    """
    words = " ".join(re.sub(r"[?？.,!]", " ", question).split())
    return _opening(words) or _spell_numbers(words).replace("heute abend", "heute nacht")


def _opening(question: str) -> str | None:
    """Return the opening of a forecast, as far as it is asked for."""
    if not _FORECAST.search(question):
        return None
    weekday = next((word for word in _WEEKDAYS if word in question), None)
    month = next((word for word in _MONTHS if word in question), None)
    day = _day(question)
    if not weekday and "morgen" not in question:
        return None
    sentence = "und nun die wettervorhersage für morgen"
    if weekday:
        sentence += f" {weekday}"
    if month and day:
        sentence += f" den {day} {month}"
    return sentence


def _day(question: str) -> str | None:
    """Return the day of the month in a question as an ordinal."""
    ordinals = map(_ordinal, range(31, 0, -1))  # longer ordinals come before those that they contain
    found = next((word for word in ordinals if re.search(rf"\b{word}", question)), None)
    digits = re.search(r"\d+", question)
    if not found and digits and 1 <= int(digits[0]) <= 31:
        found = _ordinal(int(digits[0]))
    return found


def _spell_numbers(question: str) -> str:
    question = re.sub(r"(\d)[ -]*(?:°\s*c?|grad\b)", r"\1 grad ", question)
    question = re.sub(r"(?<!\d)-(\d)", r" minus \1", question)
    question = re.sub(r"\d+", lambda digits: f" {_cardinal(int(digits[0]))} ", question)
    return " ".join(question.split())


def _cardinal(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    if number >= 50:  # not a temperature
        return str(number)
    tens, units = divmod(number, 10)
    return (f"{_UNITS[units]}und" if units else "") + _TENS[tens - 2]


def _ordinal(number: int) -> str:
    return _ORDINALS[number - 1] if number <= 20 else f"{_cardinal(number)}sten"
