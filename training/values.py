"""Made-up values (names, prices, dates, codes, ...), each of which belongs to training or to the held-out set.

A value's side follows from a hash of its text, so the two sets are disjoint however many values are drawn.
Most words are pseudo-words: a model that sees them must learn to copy, not to remember.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

Maker = Callable[[random.Random], str]

HELD_OUT_SHARE = 4  # one value in four is held out


def _words(text: str) -> list[str]:
    return text.split()


_ONSETS = _words("b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl pr st tr th sh")
_VOWELS = _words("a e i o u ai ea io ou")
_CODAS = ["", "", "", "n", "r", "l", "s", "x", "k", "m", "rt", "nd", "lt"]

_WORDS = _words("""
    Aurora Summit Harbor Meadow Falcon River Cedar Comet Breeze Garnet Willow Ember Nova Orbit Pebble Quartz
    Raven Saffron Terra Umber Velvet Winter Zephyr Atlas Beacon Canyon Delta Echo Forest Glacier Horizon Island
    Jasper Lunar Maple Nimbus Ocean Pioneer Ridge Sierra Tundra Vista Walnut Amber Birch Coral Drift Fern
    Granite Hazel Indigo Juniper Lotus Mango Nectar Opal Pearl Rustic Sage Thistle Urban Violet Wave Alpine
    Basil Clover Dune
""")
_NOUNS = _words("""
    lamp kettle chair desk bag backpack jacket phone laptop tablet camera speaker headset keyboard mouse monitor
    printer router bottle mug toaster blender vacuum heater fan clock watch bike helmet tent stove sofa table
    shelf mattress pillow blanket towel knife pan pot grill drill saw hammer ladder pump charger cable battery
    drone scooter robot tracker sensor lock light mirror basket boots shoes shirt sweater scarf gloves
""")
_ADJECTIVES = _words("desk travel garden kitchen office mini folding wireless electric smart winter summer kids sports")
_FIRST = _words("""
    Anna Ben Clara David Elena Felix Grace Hugo Ines Jonas Karla Liam Maria Noah Olga Paul Rosa Samuel Tina
    Victor Wendy Yusuf Zoe Amir Bianca Carlos Daria Emil Fatima George Hana Ivan Julia Kenji Laura Marco Nina
    Omar Petra Quinn Ravi Sofia Tom Ursula Vera Walter Xenia Yara Adam Beth Chen Dora Eric Frida Gavin Helen
    Isaac Jane Kurt Lena Mila
""")
_LAST = _words("""
    Adler Baker Costa Diaz Evans Fischer Garcia Hansen Ito Jensen Keller Lopez Meyer Novak Olsen Patel Quist
    Rossi Silva Tanaka Ulrich Vogel Weber Xu Young Zimmer Brown Clark Dubois Engel Ferrari Green Huber Ivanov
    Jones Kim Larsen Moreau Nguyen Ortiz Park Reyes Smith Taylor Usman Varga Walker Yilmaz Berg Cohen Duarte
    Eriksen Frost Gruber Horvath
""")
_PLACES = _words("""
    Lisbon Paris Berlin London Madrid Rome Vienna Prague Warsaw Dublin Oslo Helsinki Athens Porto Milan Munich
    Hamburg Zurich Geneva Brussels Antwerp Lyon Seville Valencia Naples Turin Krakow Budapest Boston Chicago
    Denver Seattle Austin Dallas Toronto Montreal Sydney Tokyo Osaka Seoul Delhi Cairo Lagos Lima Bogota Leeds
    Bristol Cardiff Ghent Portugal Spain France Germany Italy Austria Poland Norway Sweden Denmark Finland
    Greece Ireland Japan Canada Brazil Mexico Chile Kenya India Vietnam Thailand Turkey Hungary Slovenia Croatia
    Estonia Latvia Iceland Belgium Switzerland
""")
_COLORS = _words("red blue green black white yellow orange purple brown gray pink silver gold beige navy turquoise")
_SHADES = ["", "", "dark ", "light ", "bright ", "pale ", "warm "]
_MATERIALS = _words("""
    steel wood glass plastic leather cotton wool bamboo aluminum oak pine copper brass stone clay paper cork
    silk linen rubber titanium ceramic granite velvet nylon
""")
_MAKES = ["", "", "recycled ", "solid ", "stainless ", "soft ", "brushed ", "natural ", "pure "]
_TRAITS = _words("""
    pattern finish voltage power speed shape grade level brand style edition texture rating class range
    frequency format flavor scent series motor lens filter label type mode fabric version origin label rank
""")
_METHODS = [
    "credit card",
    "PayPal",
    "bank transfer",
    "invoice",
    "debit card",
    "cash",
    "gift card",
    "Apple Pay",
    "Google Pay",
    "direct debit",
    "check",
    "Visa",
    "Mastercard",
]
_LANGUAGES = _words("""
    English German French Spanish Italian Portuguese Dutch Polish Czech Greek Turkish Arabic Hindi Japanese
    Korean Chinese Swedish Danish Finnish Hungarian
""")
_DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTHS = _words("""
    January February March April May June July August September October November December
""")
_HOLIDAYS = ["public holidays", "Christmas Day", "New Year's Day", "Easter Monday", "holidays"]
_ROLES = [
    "founder",
    "CEO",
    "head of support",
    "sales manager",
    "head of sales",
    "office manager",
    "technician",
    "accountant",
    "chief engineer",
    "designer",
    "head of marketing",
    "warehouse manager",
    "press officer",
    "data protection officer",
    "receptionist",
    "trainer",
    "head of finance",
    "product manager",
    "driver",
]
_EVENTS = [
    "workshop",
    "meeting",
    "course",
    "seminar",
    "concert",
    "training",
    "webinar",
    "party",
    "fair",
    "tour",
]
_STATUSES = [
    "is on its way",
    "has shipped",
    "has been shipped",
    "was delivered",
    "has been delivered",
    "is delayed",
    "is being packed",
    "is at customs",
    "is waiting for payment",
    "was canceled",
    "was returned",
    "is ready",
    "is lost",
    "is in the warehouse",
    "has left the warehouse",
    "is out for delivery",
    "is being prepared",
    "has arrived",
    "is on hold",
    "is being checked",
]
_SMALL = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"]


def _pseudo(rng: random.Random, syllables: int | None = None) -> str:
    count = syllables or rng.choice((1, 2, 2, 2, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)
    return word.capitalize()


def _word(rng: random.Random) -> str:
    return rng.choice(_WORDS) if rng.random() < 0.3 else _pseudo(rng)


def _digits(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def _letters(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(low, high)))


def _count(rng: random.Random, high: int) -> str:
    return rng.choice(_SMALL) if rng.random() < 0.15 else str(rng.randint(2, high))


def _price(rng: random.Random) -> str:
    whole = rng.choice((rng.randint(1, 30), rng.randint(1, 99), rng.randint(100, 900)))
    amount = f"{whole}.{rng.choice(('00', '50', '90', '95', '99'))}" if rng.random() < 0.4 else str(whole)
    unit = rng.choice(("euros", "dollars", "EUR", "USD", "pounds", "francs"))
    return rng.choice((f"{amount} {unit}", f"{amount} {unit}", f"${amount}", f"€{amount}", f"£{amount}"))


def _time(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice(("00", "15", "30", "45", f"{rng.randint(0, 59):02}"))
    late = rng.randint(0, 23)
    half = rng.choice(("am", "pm"))
    forms = (f"{hour} {half}", f"{hour}:{minute} {half}", f"{late}:{minute}", f"{late:02}:{minute}", f"{hour}{half}")
    return rng.choice((*forms, f"{hour} {half}", f"{late}"))


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 31), rng.choice(_MONTHS), rng.randint(2020, 2031)
    return rng.choice(
        (
            f"{month} {day}",
            f"{day} {month}",
            f"{month} {day}, {year}",
            f"{day} {month} {year}",
            f"{rng.choice(_DAYS)}",
            f"{rng.choice(_DAYS)}, {month} {day}",
            f"{year}-{rng.randint(1, 12):02}-{day:02}",
        )
    )


def _days(rng: random.Random) -> str:
    first, second, third = rng.sample(_DAYS, 3)
    return rng.choice(
        (
            f"{first} to {second}",
            f"from {first} to {second}",
            f"on {first} and {second}",
            f"on {first}, {second} and {third}",
            f"{first} through {second}",
            f"from {first} until {second}",
            f"every {first}",
        )
    )


def _day_range(rng: random.Random) -> str:
    low = rng.randint(1, 20)
    high, unit = (
        low + rng.randint(1, 10),
        rng.choice(("days", "business days", "working days", "days", "weeks", "hours")),
    )
    return rng.choice((f"{low} to {high} {unit}", f"{low}-{high} {unit}", f"{_count(rng, 40)} {unit}"))


def _list(pool: list[str], low: int, high: int) -> Maker:
    def make(rng: random.Random) -> str:
        *most, last = rng.sample(pool, rng.randint(low, high))
        return f"{', '.join(most)} {rng.choice(('and', 'and', 'or'))} {last}" if most else last

    return make


def _email(rng: random.Random) -> str:
    local = rng.choice(("help", "support", "info", "hello", "service", "contact", "team", _pseudo(rng).lower()))
    return f"{local}@{_domain(rng)}"


def _domain(rng: random.Random) -> str:
    suffix = rng.choice(("com", "org", "net", "shop", "io", "eu", "example", "de"))
    return f"{_word(rng).lower()}{rng.choice(('', '', '-' + rng.choice(_NOUNS), rng.choice(_NOUNS)))}.{suffix}"


def _phone(rng: random.Random) -> str:
    d = _digits
    return rng.choice(
        (
            f"{d(rng, 3, 3)}-{d(rng, 4, 4)}",
            f"555-{d(rng, 4, 4)}",
            f"0{d(rng, 2, 2)} {d(rng, 4, 4)}",
            f"({d(rng, 3, 3)}) {d(rng, 4, 4)}",
        )
    )


def _code(rng: random.Random) -> str:
    return rng.choice(
        (
            f"{_letters(rng, 1, 3)}-{_digits(rng, 2, 5)}",
            f"{_letters(rng, 1, 3)}{_digits(rng, 2, 6)}",
            _digits(rng, 4, 9),
            f"{_letters(rng, 2, 2)}-{_digits(rng, 3, 4)}-{_letters(rng, 1, 2)}",
        )
    )


def _order(rng: random.Random) -> str:
    return rng.choice(
        (
            _digits(rng, 3, 5),
            "#" + _digits(rng, 3, 5),
            f"{_letters(rng, 1, 2)}-{_digits(rng, 3, 4)}",
            f"{_letters(rng, 1, 2)}{_digits(rng, 3, 4)}",
        )
    )


def _product(rng: random.Random) -> str:
    noun, word = rng.choice(_NOUNS), _word(rng)
    return rng.choice(
        (
            f"{word} {noun}",
            f"{word} {noun}",
            f"{word} {rng.choice(_ADJECTIVES)} {noun}",
            f"{rng.choice(_ADJECTIVES)} {noun}",
            f"{word} {_digits(rng, 1, 3)}",
            f"{word} {noun} {_digits(rng, 1, 3)}",
            f"{word} {_word(rng)}",
            f"{noun} {word}",
            f"{word} {_letters(rng, 1, 1)}{_digits(rng, 1, 3)}",
        )
    )


def _mark(rng: random.Random) -> str:
    return rng.choice(
        (
            _pseudo(rng),
            _pseudo(rng).lower(),
            _code(rng),
            _digits(rng, 2, 4),
            f"{_word(rng)} {_digits(rng, 1, 2)}",
            f"{rng.choice(_SHADES)}{rng.choice(_COLORS)}",
            f"{_pseudo(rng).lower()} {_pseudo(rng).lower()}",
        )
    )


def _address(rng: random.Random) -> str:
    number, word = rng.randint(1, 250), _word(rng)
    return rng.choice(
        (
            f"{number} {word} {rng.choice(('Street', 'Road', 'Avenue', 'Lane'))}",
            f"{word} Street {number}",
            f"{word} Square {number}",
            f"{number} {rng.choice(_LAST)} {rng.choice(('Street', 'Road'))}",
        )
    )


def _place(rng: random.Random) -> str:
    return rng.choice(_PLACES) if rng.random() < 0.5 else _pseudo(rng)


def _amount(*units: str, high: int = 100, decimal: float = 0.3) -> Maker:
    def make(rng: random.Random) -> str:
        number = f"{rng.randint(0, high)}.{rng.randint(1, 9)}" if rng.random() < decimal else str(rng.randint(1, high))
        return f"{number} {rng.choice(units)}"

    return make


def _size(rng: random.Random) -> str:
    unit = rng.choice(("cm", "mm", "inches", "m"))
    sides = [str(rng.randint(2, 99)) for _ in range(rng.choice((1, 2, 2)))]
    return f"{rng.choice((' x ', ' by ')).join(sides)} {unit}"


MAKERS: dict[str, Maker] = {
    "time": _time,
    "days": _days,
    "holiday": lambda r: r.choice(_HOLIDAYS) if r.random() < 0.2 else r.choice(_DAYS) + r.choice(["", "s"]),
    "address": _address,
    "person": lambda r: f"{r.choice(_FIRST)} {r.choice(_LAST) if r.random() < 0.6 else _pseudo(r)}",
    "price": _price,
    "weight": _amount("kg", "g", "pounds", "grams", "kilograms"),
    "color": lambda r: (
        r.choice(_SHADES) + r.choice(_COLORS) + (f" and {r.choice(_COLORS)}" if r.random() < 0.3 else "")
    ),
    "material": lambda r: (
        r.choice(_MAKES) + r.choice(_MATERIALS) + (f" and {r.choice(_MATERIALS)}" if r.random() < 0.3 else "")
    ),
    "term": lambda r: f"{_count(r, 60)} {r.choice(('years', 'months', 'years', 'weeks'))}",
    "hours": lambda r: f"{_count(r, 99)} {r.choice(('hours', 'hours', 'days', 'minutes', 'business days'))}",
    "place": _place,
    "volume": _amount("liters", "ml", "l", "cups", "gallons"),
    "size": _size,
    "code": _code,
    "percent": lambda r: f"{r.randint(1, 99)}{r.choice(('%', '%', ' percent'))}",
    "date": _date,
    "number": lambda r: str(r.choice((r.randint(2, 30), r.randint(2, 999), r.randint(100, 9999)))),
    "trait": lambda r: r.choice(_TRAITS) if r.random() < 0.6 else _pseudo(r).lower(),
    "mark": _mark,
    "status": lambda r: r.choice(_STATUSES),
    "company": lambda r: _word(r) + r.choice(("", " Express", " Post", " Logistics", " Parcel", " Cargo")),
    "daycount": lambda r: f"{_count(r, 120)} {r.choice(('days', 'days', 'days', 'weeks', 'months', 'working days'))}",
    "dayrange": _day_range,
    "email": _email,
    "phone": _phone,
    "methods": _list(_METHODS, 1, 4),
    "places": _list(_PLACES, 1, 4),
    "year": lambda r: str(r.randint(1850, 2025)),
    "url": lambda r: r.choice(("", "www.", "https://")) + _domain(r),
    "languages": _list(_LANGUAGES, 1, 4),
    "coupon": lambda r: r.choice(
        (_pseudo(r).upper() + _digits(r, 1, 2), _code(r), r.choice(_WORDS).upper() + _digits(r, 2, 2))
    ),
    "allowed": lambda r: r.choice(("allowed", "not allowed")),
    "storage": _amount("GB", "TB", "MB", "gigabytes", high=900, decimal=0.1),
    "room": lambda r: r.choice(
        (
            f"room {_letters(r, 0, 1)}{_digits(r, 1, 3)}",
            f"the {_word(r)} room",
            f"hall {_digits(r, 1, 2)}",
            f"{_word(r)} Hall",
            f"the {_word(r)} hall",
        )
    ),
    "product": _product,
    "item": lambda r: _pseudo(r, 2) if r.random() < 0.7 else _word(r),
    "order": _order,
    "plan": lambda r: (
        _word(r)
        if r.random() < 0.6
        else r.choice(
            (
                "Basic",
                "Pro",
                "Team",
                "Family",
                "Starter",
                "Gold",
                "Plus",
                "Business",
                "Silver",
                "Free",
                "Student",
                "Premium",
                "Solo",
            )
        )
    ),
    "event": lambda r: f"{r.choice((_word(r), r.choice(_NOUNS), r.choice(_COLORS)))} {r.choice(_EVENTS)}",
    "role": lambda r: r.choice(_ROLES),
}

# Closed sets of ordinary words: the held-out side could hardly have other ones, so they are on both sides.
SHARED = frozenset({"allowed", "role", "status", "holiday"})


def is_held_out(kind: str, value: str) -> bool:
    """Whether this value may appear in the held-out set only (False for the shared kinds)."""
    return kind not in SHARED and zlib.crc32(f"{kind}:{value.lower()}".encode()) % HELD_OUT_SHARE == 0


def make_value(rng: random.Random, kind: str, held_out: bool) -> str:
    """Draw a value of this kind from the training set or from the held-out set."""
    while True:
        value = MAKERS[kind](rng)
        if kind in SHARED or is_held_out(kind, value) == held_out:
            return value
