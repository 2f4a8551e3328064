"""Words that a paraphrase keeps and a near-miss changes: numbers, units, dates, negations, opposites.

English only. A text in another language has none of these words; its own ones are unknown, and must agree
exactly (see `guards`). Every word has one role at most; what it means beside others is read in `guards`.
"""

from __future__ import annotations

from collections.abc import Iterable


def _list(text: str) -> list[str]:
    return text.split()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ONES = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen"
)
_TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = _list(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
    " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
)

CARDINALS = {word: n for n, word in enumerate(_ONES)} | {word: 20 + 10 * n for n, word in enumerate(_TENS)}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
ORDINALS = {word: n for n, word in enumerate(_ORDINALS)} | {
    f"{word[:-1]}ieth": 20 + 10 * n for n, word in enumerate(_TENS)
}
AMOUNTS = {
    "half": "1/2", "halves": "1/2", "quarter": "1/4", "quarters": "1/4", "thirds": "1/3", "once": "1x",
    "twice": "2x", "double": "2x", "thrice": "3x", "triple": "3x", "dozen": "12", "both": "2", "single": "1",
    "last": "last", "final": "last", "k": "k",
}  # fmt: skip
"""Numbers that are no row of digits."""

_UNITS = """
percent: percentage % pct
dollar: dollars usd $ bucks
euro: euros eur €
sterling: gbp £ quid
yen: jpy ¥
rupee: rupees inr ₹
yuan: cny rmb
franc: francs chf
peso: pesos
cent: cents
pound: pounds lb lbs
ounce: ounces oz
gram: grams gramme grammes
kilogram: kilograms kilo kilos kg kgs
milligram: milligrams mg
microgram: micrograms mcg µg
ton: tons tonne tonnes
stone: stones
metre: meter meters metres
kilometre: kilometer kilometers kilometres km kms
centimetre: centimeter centimeters centimetres cm
millimetre: millimeter millimeters millimetres mm
mile: miles mi
inch: inches
foot: feet ft
yard: yards yd
acre: acres
hectare: hectares
litre: liter liters litres
millilitre: milliliter milliliters millilitres ml
gallon: gallons gal
pint: pints
quart: quarts
cup: cups
tablespoon: tablespoons tbsp
teaspoon: teaspoons tsp
celsius: centigrade °c
fahrenheit: °f
kelvin: kelvins
degree: degrees °
second: seconds secs
millisecond: milliseconds ms
minute: minutes mins
hour: hours hr hrs hourly
day: days daily
week: weeks weekly
month: months monthly
year: years yr yrs yearly annual annually
decade: decades
century: centuries
fortnight: fortnights
hertz: hz
kilohertz: khz
megahertz: mhz
gigahertz: ghz
volt: volts
watt: watts
kilowatt: kilowatts kw
megawatt: megawatts mw
ampere: amperes amp amps
ohm: ohms Ω
joule: joules
calorie: calories kcal
newton: newtons
pascal: pascals
byte: bytes
bit: bits
kilobyte: kilobytes kb
megabyte: megabytes mb
gigabyte: gigabytes gb
terabyte: terabytes tb
mph:
kph: kmh km/h
pixel: pixels px
page: pages
word: words
sentence: sentences
paragraph: paragraphs
line: lines
character: characters chars
bullet: bullets
"""
_AFTER_NUMBERS = """
metre: m
gram: g
second: s sec
litre: l
celsius: c
fahrenheit: f
hour: h
minute: min
day: d
kelvin: k
inch: in "
volt: v
watt: w
million: mn
billion: bn b
am: a.m.
pm: p.m.
x:
"""
_DATES = """
january: jan
february: feb
march:
april: apr
may:
june: jun
july: jul
august: aug
september: sept sep
october: oct
november: nov
december:
monday: mondays mon
tuesday: tuesdays tue tues
wednesday: wednesdays wed
thursday: thursdays thu thurs
friday: fridays fri
saturday: saturdays sat
sunday: sundays sun
today: todays
tomorrow: tomorrows
yesterday: yesterdays
tonight:
weekend: weekends
weekday: weekdays
morning: mornings
afternoon: afternoons
evening: evenings
night: nights overnight
noon: midday
midnight:
am: a.m.
pm: p.m.
spring: springtime
summer: summers summertime
autumn:
winter: winters wintertime
christmas: xmas
easter:
halloween:
thanksgiving:
ramadan:
ago:
bc: bce
ad:
"""
_QUESTIONS = """
who: whom whose who's
when:
where:
why:
how:
"""
_TASKS = """
summary: summarize summarise summarizing summarising tldr tl;dr shorten condense
translate: translation translating
classify: categorize categorise
correct: proofread spellcheck
rewrite: rephrase reword paraphrase
extract:
outline:
poem: haiku limerick sonnet poetry
story:
essay:
email: e-mail
letter:
joke: jokes
song: lyrics
tweet:
slogan: tagline
recipe: recipes
code: program script
function:
regex:
query:
"""
_OPPOSITES = """
before prior until earlier / after following since later afterwards
increase increases increased increasing raise raises raised rise rises rising grow grows grew \
growing gain gains up upward more higher / decrease decreases decreased decreasing lower lowers \
lowered lowering reduce reduces reduced reducing fall falls fell falling drop drops shrink shrinks \
decline loss lose loses down downward less fewer
most highest largest biggest greatest longest tallest maximum maximal max maximise maximize fastest \
heaviest hottest oldest richest latest newest farthest furthest upper strongest deepest / least \
lowest smallest tiniest shortest minimum minimal min minimise minimize slowest lightest coldest \
youngest poorest earliest nearest closest weakest shallowest
best better good / worst worse bad
buy buys buying bought purchase purchased / sell sells selling sold
send sends sending sent / receive receives receiving received
import imports importing imported / export exports exporting exported
open opens opening opened / close closes closing closed shut
start starts starting started begin begins beginning began launch / stop stops stopping stopped end \
ends ending ended finish finishes finished quit
add adds adding added insert inserts attach / remove removes removing removed delete deletes \
deleting deleted erase erasing subtract detach
enable enables enabling enabled activate activates activating activated / disable disables disabling \
disabled deactivate deactivates deactivating deactivated
allow allows allowed allowing permit permits permitted / forbid forbids forbidden prohibit \
prohibited deny denies denied block blocks blocked ban banned prevent prevents
accept accepts accepted accepting approve approved / reject rejects rejected rejecting decline \
declined refuse refuses refused
install installs installed installing / uninstall uninstalls uninstalled uninstalling
subscribe subscribing subscribed / unsubscribe unsubscribing unsubscribed
lock locks locked locking / unlock unlocks unlocked unlocking
mute muted muting / unmute unmuted unmuting
follow follows / unfollow
connect connects connected connecting / disconnect disconnects disconnected disconnecting
encrypt encrypts encrypted encrypting encryption encode encoding / decrypt decrypts decrypted \
decrypting decryption decode decoding
compress compressed compressing zip zipping / decompress decompressed decompressing unzip unzipping
push pushes pushed pushing / pull pulls pulled pulling
upload uploads uploaded uploading / download downloads downloaded downloading
upgrade upgrades upgraded upgrading / downgrade downgrades downgraded downgrading
lend lends lending lent / borrow borrows borrowing borrowed
deposit deposits depositing deposited / withdraw withdraws withdrawing withdrawn withdrew withdrawal
credit / debit
income revenue / expense expenses
profit profits / losses
arrive arrives arrived arrival arriving arrivals / depart departs departed departure departing leave \
leaves left departures
enter enters entered entering entrance enlist / exit exits exited exiting
inside indoor indoors inner internal interior / outside outdoor outdoors outer external exterior
above over top / below under beneath underneath bottom
ascending ascend / descending descend
front forward forwards / back backward backwards rear
north northern / south southern
east eastern / west western
hot hotter warm warmer heat heating heats / cold colder cool cooler cooling cools
wet / dry
fast faster quick quicker quickly / slow slower slowly
big bigger large larger / small smaller little tiny
long longer tall taller / short shorter
old older / young younger new newer
heavy heavier / light lighter
rich richer / poor poorer
early / late
easy easier easiest simple / hard harder hardest difficult
cheap cheaper cheapest inexpensive affordable / expensive pricier priciest costly costliest
safe safer safely / dangerous unsafe risky
healthy healthier / unhealthy
legal legally lawful / illegal illegally unlawful
true / false
pass passes passed passing / fail fails failed failing failure
win wins won winning winner / lost loser
love loves like likes / hate hates dislike dislikes
positive / negative
advantage advantages pros benefit benefits / disadvantage disadvantages cons drawback drawbacks \
downside downsides
cause causes / effect effects consequence consequences
question questions / answer answers
male man men boy boys he him his himself husband father son brother / female woman women girl girls \
she her hers herself wife mother daughter sister
parent parents / child children
teacher teachers / student students
employer employers / employee employees
landlord landlords / tenant tenants
doctor doctors / patient patients
public / private
single unmarried / married
odd / even
input inputs / output outputs
client clients / server servers
read reads reading / write writes writing
horizontal horizontally / vertical vertically
row rows / column columns
plural / singular
synonym synonyms / antonym antonyms
formal formally / informal informally casual
with / without
supply / demand
minor / major
solid / liquid
sunrise / sunset
birth born / death died die dies
full / empty
include includes including / exclude excludes excluding except
same / different
always / never
raw uncooked / cooked
domestic / international
temporary temporarily / permanent permanently
date / time
"""
AXES = 112
"""Room for pairs of opposites."""
NEGATIONS = {
    "not": "not", "cannot": "not", "cant": "not", "dont": "not", "doesnt": "not", "isnt": "not",
    "wont": "not", "didnt": "not", "couldnt": "not", "shouldnt": "not", "arent": "not", "wasnt": "not",
    "unable": "not", "no": "no", "none": "no", "nobody": "no", "nothing": "no", "nowhere": "no",
    "never": "never", "neither": "nor", "nor": "nor", "without": "without", "unless": "unless",
    "except": "except", "excluding": "except", "instead": "instead", "avoid": "not", "avoiding": "not",
    "lack": "without", "lacking": "without", "nt": "not", "hardly": "not", "non": "not", "free": "free",
}  # fmt: skip
"""A word ending in n't is a "not"; one that `Embedding` knows as the negative of another ("unhappy") too."""
NEXT_TO = _words("next last previous this coming past every each current early late mid first second third")
"""Before a time they are a part of it: "next week"."""
TIMES = _words("day week month year quarter weekend night morning evening afternoon century decade")
ASKED_TIMES = TIMES | {"time", "date", "season"}
"""Behind "what" or "which" they ask when."""
AUXILIARIES = _words(
    "is are was were do does did can could should would will may might must has have had am shall"
)
WAYS = _words("to into from than minus versus vs")
"""What stands behind them is where a thing goes or comes from: "json to xml"."""
FUNCTION_WORDS = _words(
    """
    a an the and or but if then than so as of at by for from in into on onto to with about against
    between through during above below off over under again further is are was were be been being am
    do does did doing have has had having can could should would will shall may might must i me my
    mine myself we us our ours you your yours he him his she her hers it its they them their theirs
    this that these those there here what which who whom whose when where why how please kindly tell
    give show explain help need want like know let say hi hello hey thanks thank just really also too
    very some any all each every s t re ve ll d m get got exactly actually quick question curious
    wonder wondering advance thing more im ive one way ways
    """
)


def _groups(text: str) -> dict[str, str]:
    """Each word of a line to the line's first one."""
    found: dict[str, str] = {}
    for line in text.strip().splitlines():
        head, _, others = line.partition(":")
        found |= dict.fromkeys((head, *others.split()), head)
    return found


CASED = {
    "mW": "milliwatt", "mw": "mw", "mHz": "millihertz", "Mb": "megabit", "Gb": "gigabit", "Kb": "kilobit",
    "Tb": "terabit", "Ms": "megasecond", "Mm": "megametre", "Mg": "megagram", "ML": "megalitre",
}  # fmt: skip
"""Units whose capitals say which: "mW" is no "MW", and nobody knows which of them is "mw"."""
CASED_AFTER_NUMBERS = {"M": "mega", "G": "giga"}
UNITS, AFTER_NUMBERS, DATES = _groups(_UNITS), _groups(_AFTER_NUMBERS), _groups(_DATES)
QUESTIONS, TASKS = _groups(_QUESTIONS), _groups(_TASKS)


def unit(word: str) -> str:
    """The unit that a word is, as it is written; "" if it is none."""
    return CASED.get(word) or UNITS.get(word.lower()) or UNITS.get(word, "")


def unit_after(word: str) -> str:
    """The unit that one or two letters behind a number are; "" if they are none."""
    return CASED_AFTER_NUMBERS.get(word) or AFTER_NUMBERS.get(word.lower(), "")


def _poles(lines: Iterable[str]) -> dict[str, int]:
    """Each word to its bits: two for each pair of opposites, the same ones for all words of a side."""
    bits: dict[str, int] = {}
    for axis, line in enumerate(dict.fromkeys(lines)):
        for side, words in enumerate(line.split(" / ")):
            for word in words.split():
                bits[word] = bits.get(word, 0) | 1 << (2 * axis + side)
    return bits


OPPOSITES = _poles(_OPPOSITES.strip().splitlines())
"""A word may stand in several pairs: "lost" is no gain and no win."""
