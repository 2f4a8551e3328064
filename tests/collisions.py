"""Questions that sound alike: paraphrases with one answer, and near-misses with another.

A template is a question in several wordings with slots; the values of the slots make the answer, the wording
does not. Two texts of one template with equal values are a paraphrase; with one value changed they are a
near-miss of that slot's kind. "unguarded" are changes that no guard knows of, such as cancel and pause.

The templates are split: guards and thresholds are developed on `DEVELOPMENT`, and tried on `TEST` only. The
generator is seeded; sentences and templates are the project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random

KINDS = ("numbers", "negation", "names", "units", "dates", "code", "unguarded")
_OPENINGS = (
    "",
    "",
    "",
    "",
    "",
    "Please tell me: ",
    "Hi, ",
    "Hello! ",
    "Hey there, ",
    "Quick question: ",
    "So, ",
    "One more thing: ",
)
_CLOSINGS = (
    "",
    "",
    "",
    "",
    "",
    " Thanks!",
    " Please.",
    " Thank you.",
    " Thanks in advance!",
    " Just curious.",
)

Value = tuple[str, ...]
"""Spellings of one value: "3", "three"."""


@dataclass(frozen=True)
class Slot:
    """What may stand in a gap: one value of several."""

    kind: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Template:
    """A question with gaps, in several wordings."""

    topic: str
    wordings: tuple[str, ...]
    slots: dict[str, Slot]

    @cached_property
    def answers(self) -> list[tuple[int, ...]]:
        """Every combination of values."""
        return list(product(*(range(len(slot.values)) for slot in self.slots.values())))


@dataclass(frozen=True)
class Asked:
    """One text, and what decides its answer."""

    text: str
    answer: tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pair:
    """Two texts; `kind` is "paraphrase" or what was changed."""

    one: Asked
    other: Asked
    kind: str


def ask(template: Template, values: tuple[int, ...], rng: Random, wording: int | None = None) -> Asked:
    """The question with these values, in this wording or any."""
    form = template.wordings[wording] if wording is not None else rng.choice(template.wordings)
    filled = {
        name: rng.choice(slot.values[value])
        for (name, slot), value in zip(template.slots.items(), values, strict=True)
    }
    text = form.format(**filled)
    opening = rng.choice(_OPENINGS)
    if opening[-2:] in (": ", ", ") and text[1:2] != text[1:2].upper():
        text = text[0].lower() + text[1:]
    text = opening + text
    return Asked(_casually(text, rng) + rng.choice(_CLOSINGS), (template.topic, values))


def _casually(text: str, rng: Random) -> str:
    """Now and then without the mark at its end."""
    return text.rstrip("?.") if rng.random() < 0.25 else text


def pairs(templates: Sequence[Template], n: int, seed: int) -> list[Pair]:
    """n pairs, half of them paraphrases in two wordings; in a near-miss one value is another."""
    rng = Random(seed)
    made = [_paraphrase(rng.choice(templates), rng) for _ in range(n // 2)]
    for place in range(n - len(made)):
        kind = KINDS[place % len(KINDS)]
        made.append(_near_miss([one for one in templates if _has(one, kind)], kind, rng))
    return made


def _has(template: Template, kind: str) -> bool:
    return any(slot.kind == kind for slot in template.slots.values())


def _paraphrase(template: Template, rng: Random) -> Pair:
    values = rng.choice(template.answers)
    one, other = rng.sample(range(len(template.wordings)), 2)
    return Pair(ask(template, values, rng, one), ask(template, values, rng, other), "paraphrase")


def _near_miss(templates: Sequence[Template], kind: str, rng: Random) -> Pair:
    template = rng.choice(templates)
    values = rng.choice(template.answers)
    place = rng.choice([at for at, slot in enumerate(template.slots.values()) if slot.kind == kind])
    slot = list(template.slots.values())[place]
    others = [value for value in range(len(slot.values)) if value != values[place]]
    changed = (*values[:place], rng.choice(others), *values[place + 1 :])
    wording = rng.randrange(len(template.wordings))
    other = wording if rng.random() < 0.5 else None
    return Pair(ask(template, values, rng, wording), ask(template, changed, rng, other), kind)


def _slot(kind: str, *values: str) -> Slot:
    return Slot(kind, tuple(tuple(value.split("|")) for value in values))


def _template(topic: str, *wordings: str, **slots: Slot) -> Template:
    return Template(topic, wordings, slots)


DEVELOPMENT = (
    _template(
        "subscription",
        "How do I {verb} my {what} subscription?",
        "What is the way to {verb} my subscription to {what}?",
        "I want to {verb} my {what} subscription, how does that work?",
        "Can you explain how to {verb} a {what} subscription?",
        "Steps to {verb} my {what} subscription",
        verb=_slot("unguarded", "cancel", "pause", "renew", "share"),
        what=_slot("names", "Netflix", "Spotify", "Dropbox", "Adobe", "Audible"),
    ),
    _template(
        "dough",
        "How long should {kind} dough rise at {n} degrees {unit}?",
        "What is the rising time of {kind} dough at {n} degrees {unit}?",
        "For how long does {kind} dough have to rise when it is {n} degrees {unit}?",
        "How long do I let {kind} dough rise at {n} degrees {unit}?",
        kind=_slot("unguarded", "pizza", "brioche", "rye"),
        n=_slot("numbers", "20|twenty", "25|twenty-five", "30|thirty"),
        unit=_slot("units", "Celsius", "Fahrenheit"),
    ),
    _template(
        "parking",
        "{can} I park downtown on {day} after {n} {half}?",
        "Tell me, {can} I park downtown after {n} {half} on {day}?",
        "On {day}, {can} I park downtown after {n} {half}?",
        can=_slot("negation", "can", "can't|cannot"),
        day=_slot("dates", "Monday", "Saturday|Sat", "Sunday"),
        n=_slot("numbers", "5|five", "6|six", "8|eight"),
        half=_slot("dates", "pm", "am"),
    ),
    _template(
        "list method",
        "What does {code} do in {language}?",
        "Explain {code} in {language}.",
        "In {language}, what is {code} for?",
        "What is the purpose of {code} in {language}?",
        code=_slot("code", "list.append()", "list.extend()", "list.pop()", "dict.get()", "x += 1", "x -= 1"),
        language=_slot("names", "Python", "Ruby", "Kotlin"),
    ),
    _template(
        "plants",
        "How often should I water {plant} in {season}?",
        "In {season}, how often do I have to water {plant}?",
        "How often does one water {plant} during {season}?",
        "How often do {plant} need water in {season}?",
        plant=_slot("unguarded", "cacti", "orchids", "ferns", "tomatoes"),
        season=_slot("dates", "summer", "winter", "spring"),
    ),
    _template(
        "distance",
        "How far is it from {a} to {b} in {unit}?",
        "What is the distance from {a} to {b} in {unit}?",
        "How many {unit} is it from {a} to {b}?",
        "Tell me the distance in {unit} from {a} to {b}.",
        a=_slot("names", "Berlin", "Madrid", "Vienna"),
        b=_slot("names", "Rome", "Lisbon", "Prague"),
        unit=_slot("units", "km|kilometers", "miles", "feet"),
    ),
    _template(
        "warranty",
        "Does the warranty cover damage that was {cause} by {agent}?",
        "Is damage {cause} by {agent} covered by the warranty?",
        "Will the warranty pay for damage {cause} by {agent}?",
        cause=_slot("negation", "caused", "not caused"),
        agent=_slot("unguarded", "water", "fire", "lightning", "pets"),
    ),
    _template(
        "visa",
        "Do citizens of {a} need a visa to stay in {b} for {n} days?",
        "Is a visa needed by citizens of {a} for {n} days in {b}?",
        "I am a citizen of {a}, do I need a visa for {n} days in {b}?",
        a=_slot("names", "Brazil", "Canada", "Japan"),
        b=_slot("names", "Turkey", "Vietnam", "Kenya"),
        n=_slot("numbers", "30|thirty", "60|sixty", "90|ninety"),
    ),
    _template(
        "git",
        "What does {code} do?",
        "Can you explain {code}?",
        "What happens when I run {code}?",
        "What is {code} good for?",
        code=_slot(
            "code",
            "git reset --hard",
            "git reset --soft",
            "git push --force",
            "git rebase -i",
            "git stash pop",
            "git log -p",
        ),
    ),
    _template(
        "medicine",
        "Is it safe to take {n} mg of {drug} {how} food?",
        "Can I safely take {n} mg of {drug} {how} food?",
        "Is taking {n} mg of {drug} {how} food safe?",
        n=_slot("numbers", "200", "400", "800"),
        drug=_slot("unguarded", "ibuprofen", "aspirin", "paracetamol"),
        how=_slot("negation", "with", "without"),
    ),
    _template(
        "meeting",
        "Draft a note that moves the {team} meeting to {day} at {n}.",
        "Write a note moving the {team} meeting to {day} at {n}.",
        "I need a note which says that the {team} meeting moves to {day} at {n}.",
        team=_slot("unguarded", "budget", "design", "safety"),
        day=_slot("dates", "Tuesday", "Thursday", "Friday"),
        n=_slot("numbers", "9:30", "10:30", "14:00"),
    ),
    _template(
        "planets",
        "How many moons does {planet} have?",
        "What is the number of moons of {planet}?",
        "How many moons orbit {planet}?",
        "Tell me how many moons {planet} has.",
        planet=_slot("names", "Mars", "Jupiter", "Saturn", "Neptune", "Uranus"),
    ),
    _template(
        "loan",
        "What is the monthly payment on a {amount} loan at {rate} over {n} years?",
        "How much is the monthly payment for a {amount} loan at {rate} over {n} years?",
        "Compute the monthly payment of a {amount} loan at {rate} over {n} years.",
        amount=_slot("units", "$10,000", "€10,000", "£10,000"),
        rate=_slot("numbers", "5%|5 percent", "6%|6 percent", "7%|7 percent"),
        n=_slot("numbers", "10|ten", "20|twenty"),
    ),
    _template(
        "phone",
        "How do I {verb} my phone {tail}?",
        "What is the best way to {verb} my phone {tail}?",
        "How can I {verb} my phone {tail}?",
        verb=_slot("unguarded", "clean", "charge", "track", "reset"),
        tail=_slot("negation", "with a cable", "without a cable"),
    ),
    _template(
        "history",
        "When did {what} happen in {where}?",
        "In which year did {what} happen in {where}?",
        "When was it that {what} happened in {where}?",
        what=_slot("unguarded", "the revolution", "the famine", "the earthquake", "the election"),
        where=_slot("names", "Mexico", "Ireland", "Chile", "Haiti"),
    ),
    _template(
        "sleep",
        "Why do I {neg} sleep well {when}?",
        "What is the reason that I {neg} sleep well {when}?",
        "{when}, why do I {neg} sleep well?",
        neg=_slot("negation", "", "not", "never"),
        when=_slot("dates", "in winter", "in July", "on weekdays", "on Sundays"),
    ),
    _template(
        "files",
        "How do I {verb} a {n} {unit} file?",
        "What is the way to {verb} a file of {n} {unit}?",
        "I have a {n} {unit} file, how do I {verb} it?",
        verb=_slot("unguarded", "split", "email", "encrypt", "copy"),
        n=_slot("numbers", "2|two", "5|five", "40|forty"),
        unit=_slot("units", "GB|gigabytes", "MB|megabytes"),
    ),
    _template(
        "insurance",
        "Are {who} insured against {what} in {where}?",
        "In {where}, are {who} insured against {what}?",
        "Does insurance in {where} protect {who} against {what}?",
        who=_slot("unguarded", "cyclists", "hikers", "skiers"),
        what=_slot("unguarded", "theft", "injury", "floods"),
        where=_slot("names", "Austria", "Norway", "Spain"),
    ),
)

TEST = (
    _template(
        "order",
        "How do I {verb} an order that I placed {when}?",
        "What is the way to {verb} an order I placed {when}?",
        "I placed an order {when}, how can I {verb} it?",
        "Please explain how to {verb} an order placed {when}.",
        verb=_slot("unguarded", "cancel", "change", "return", "track"),
        when=_slot("dates", "yesterday", "today", "last week", "in March"),
    ),
    _template(
        "exchange",
        "How much is {n} {a} in {b}?",
        "Convert {n} {a} to {b}.",
        "What are {n} {a} worth in {b}?",
        "Please convert {n} {a} into {b}.",
        n=_slot("numbers", "50|fifty", "70|seventy", "90|ninety"),
        a=_slot("units", "euros", "dollars", "pounds"),
        b=_slot("units", "yen", "rupees", "francs"),
    ),
    _template(
        "roast",
        "How many minutes per {unit} do I roast {meat} at {n} degrees?",
        "At {n} degrees, how many minutes per {unit} should {meat} roast?",
        "How many minutes per {unit} does {meat} need to roast at {n} degrees?",
        unit=_slot("units", "pound", "kilogram|kg"),
        meat=_slot("unguarded", "lamb", "turkey", "pork", "beef"),
        n=_slot("numbers", "160", "180", "200"),
    ),
    _template(
        "password",
        "What should I do if I {neg} remember my {site} password?",
        "If I {neg} remember the password for {site}, what should I do?",
        "I {neg} remember my {site} password, what now?",
        neg=_slot("negation", "do", "do not|don't"),
        site=_slot("names", "Gmail", "Facebook", "Amazon", "LinkedIn"),
    ),
    _template(
        "shell",
        "What does the command {code} do?",
        "Explain the command {code}.",
        "What is the command {code} for?",
        "Can you tell me what the command {code} does?",
        code=_slot(
            "code",
            "ls -la",
            "ls -lh",
            "rm -r",
            "rm -f",
            "chmod 644",
            "chmod 755",
            "grep -v",
            "grep -i",
            "df -h",
        ),
    ),
    _template(
        "capital",
        "What is the capital of {country}?",
        "Which city is the capital of {country}?",
        "Name the capital city of {country}.",
        "Tell me the capital of {country}.",
        "What's {country}'s capital?",
        country=_slot("names", "Peru", "Ghana", "Nepal", "Finland", "Morocco", "Jordan", "Laos"),
    ),
    _template(
        "tax",
        "Is income from {source} taxable in {year}?",
        "In {year}, is income from {source} taxable?",
        "Do I have to pay tax on income from {source} in {year}?",
        "Must I pay tax on {source} income in {year}?",
        source=_slot("unguarded", "royalties", "rent", "gambling", "dividends"),
        year=_slot("numbers", "2021", "2022", "2023"),
    ),
    _template(
        "running",
        "Should I {verb} {when} running {n} {unit}?",
        "Is it good to {verb} {when} running {n} {unit}?",
        "Is it a good idea to {verb} {when} I run {n} {unit}?",
        verb=_slot("unguarded", "stretch", "eat", "drink coffee"),
        when=_slot("dates", "before", "after"),
        n=_slot("numbers", "5|five", "10|ten"),
        unit=_slot("units", "km|kilometres", "miles"),
    ),
    _template(
        "train",
        "When does the {which} train from {a} to {b} leave?",
        "At what time does the {which} train leave {a} for {b}?",
        "What is the departure time of the {which} train from {a} to {b}?",
        which=_slot("numbers", "first|1st", "second|2nd", "last"),
        a=_slot("names", "Zurich", "Munich", "Milan"),
        b=_slot("names", "Paris", "Geneva", "Lyon"),
    ),
    _template(
        "loop",
        "Why does {code} raise an error in {language}?",
        "What is the reason {code} raises an error in {language}?",
        "In {language}, why do I get an error from {code}?",
        code=_slot("code", "x == None", "x != None", "a[0]", "a[1]", "f(x, y)", "f(y, x)", "i++", "i--"),
        language=_slot("names", "Rust", "Go", "Swift"),
    ),
    _template(
        "diet",
        "Which {dish} recipes are {neg} suitable for {who}?",
        "What {dish} recipes are {neg} suitable for {who}?",
        "Show me {dish} recipes that are {neg} suitable for {who}.",
        dish=_slot("unguarded", "soup", "pasta", "cake", "curry"),
        neg=_slot("negation", "", "not"),
        who=_slot("unguarded", "vegans", "toddlers", "diabetics"),
    ),
    _template(
        "library",
        "Is the library in {town} open on {day}?",
        "On {day}, is the library in {town} open?",
        "Can I visit the library in {town} on {day}?",
        town=_slot("names", "Oxford", "Leeds", "Bristol"),
        day=_slot("dates", "Monday", "Wednesday", "Friday", "Sunday", "Christmas"),
    ),
    _template(
        "rent",
        "May my landlord {verb} the rent by {n} {when}?",
        "Is my landlord allowed to {verb} the rent by {n} {when}?",
        "Can the landlord {verb} my rent by {n} {when}?",
        verb=_slot("unguarded", "raise", "index", "halve"),
        n=_slot("numbers", "5%|five percent", "10%|ten percent", "15%|15 percent"),
        when=_slot("dates", "this year", "next year", "in May"),
    ),
    _template(
        "novel",
        "Who wrote {title}?",
        "Who is the author of {title}?",
        "Tell me who wrote {title}.",
        "{title} was written by whom?",
        title=_slot(
            "names", '"The Trial"', '"The Castle"', '"The Plague"', '"The Stranger"', '"Emma"', '"Persuasion"'
        ),
    ),
    _template(
        "battery",
        "How do I {verb} the battery of my {what}?",
        "What is the way to {verb} the battery of my {what}?",
        "How can I {verb} my {what}'s battery?",
        "I would like to {verb} the battery in my {what}, how is it done?",
        verb=_slot("unguarded", "replace", "test", "recycle", "cool"),
        what=_slot("unguarded", "laptop", "car", "scooter", "watch"),
    ),
    _template(
        "vaccine",
        "Do children who are {neg} allergic to {what} need {n} doses of the vaccine?",
        "Does a child {neg} allergic to {what} need {n} doses of the vaccine?",
        "Are {n} doses of the vaccine needed by children {neg} allergic to {what}?",
        neg=_slot("negation", "", "not"),
        what=_slot("unguarded", "eggs", "nuts", "latex"),
        n=_slot("numbers", "2|two", "3|three", "4|four"),
    ),
    _template(
        "tank",
        "How heavy is a tank with {n} {unit} of {what}?",
        "What does a tank with {n} {unit} of {what} weigh?",
        "What is the weight of a tank holding {n} {unit} of {what}?",
        n=_slot("numbers", "100|one hundred", "200|two hundred", "300"),
        unit=_slot("units", "litres|liters", "gallons"),
        what=_slot("unguarded", "water", "milk", "diesel", "honey"),
    ),
    _template(
        "ticket",
        "Can I {verb} my {what} ticket to {city} for free?",
        "Is it free to {verb} a {what} ticket to {city}?",
        "May I {verb} my {what} ticket to {city} at no cost?",
        verb=_slot("unguarded", "transfer", "refund", "upgrade", "rebook"),
        what=_slot("unguarded", "bus", "plane", "concert"),
        city=_slot("names", "Dublin", "Oslo", "Athens"),
    ),
)
"""No guard, weight or threshold was chosen by what these say."""
