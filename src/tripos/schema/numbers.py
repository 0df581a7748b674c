"""Numbers of a schema as the grammar compiler represents them: exactly, or moved inwards by a tiny amount.

The compiler reads numbers as doubles, its ranges as 64-bit integers with decimals behind, and counts multiples in 32
bits. A bound that it cannot represent is replaced by the next one inside, so no accepted value lies outside.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_CLOSED = {"minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
MAX_DECIMALS = 15  # of a bound; with three digits more the compiler would take its decimals for zero
MAX_CONST_DECIMALS = 22  # powers of ten up to here are doubles, and the digits of a constant are divided by one
MAX_DIVISOR_DECIMALS = 9  # of multipleOf: of 5e-10 it takes 3.0000000001 for a multiple
MAX_DIVISOR = (1 << 32) - 1  # in units of its last decimal
_EXACT = 1 << 53  # whole numbers up to here are doubles
_LARGEST = (1 << 63) - 1024  # the largest double that is a 64-bit integer
_MOST_OUTSIDE = 10**18  # from here on, what lies beyond has no end that is a 64-bit integer
_SURE_DIGITS = 15  # significant digits that every double keeps


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def exact(value: int | float | Decimal) -> Decimal:
    """The number as written: 0.1 is one tenth."""
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def is_retained(value: float) -> bool:
    """Whether the compiler writes a constant with the digits that it was given."""
    number = exact(value)
    _, digits, exponent = number.normalize().as_tuple()
    whole, places = int("".join(map(str, digits))), -int(exponent)
    if number == number.to_integral_value():
        if isinstance(value, int) and abs(value) < 1 << 63:
            return int(float(value)) == value
        return len(str(abs(int(number))).rstrip("0")) <= _SURE_DIGITS
    if places > MAX_CONST_DECIMALS or float(whole) / 10.0**places != abs(value):  # as the compiler reads it
        return False
    # exactly in the middle between two decimals the last digit would change
    return abs(Decimal(value) - number) * 2 != Decimal(1).scaleb(-places)


def inner_bound(name: str, value: float) -> Decimal | None:
    """The nearest bound inside that the compiler represents; None: there is none."""
    bound, is_low = exact(value), name in ("minimum", "exclusiveMinimum")
    is_wide = bound < 0 if is_low else bound > 0  # zero lies inside
    if not is_wide and abs(bound) >= _MOST_OUTSIDE:
        return None
    if abs(bound) > _LARGEST:
        return exact(_LARGEST if bound > 0 else -_LARGEST)
    rounding = ROUND_CEILING if is_low else ROUND_FLOOR
    if bound == bound.to_integral_value():
        return _inner_double(int(bound), is_low)
    num_whole = len(str(abs(int(bound)))) if abs(bound) >= 1 else 0
    if num_whole >= _SURE_DIGITS:
        return _inner_double(int(bound.to_integral_value(rounding)), is_low)
    _, digits, _ = bound.normalize().as_tuple()
    places = MAX_DECIMALS - num_whole
    if int("".join(map(str, digits))) <= _EXACT:  # a sixteenth digit may be one that a double has
        places += 1
    places = min(places, MAX_DECIMALS)
    return bound.quantize(Decimal(1).scaleb(-places), rounding) if -int(bound.as_tuple().exponent) > places else bound


def _inner_double(value: int, is_low: bool) -> Decimal:
    nearest = int(float(value))
    if nearest < value and is_low:
        nearest = int(math.nextafter(float(value), math.inf))
    elif nearest > value and not is_low:
        nearest = int(math.nextafter(float(value), -math.inf))
    return exact(nearest)


def is_countable(divisor: float) -> bool:
    """Whether the compiler can count multiples of a divisor: it multiplies it by ten until it is whole, in doubles."""
    if divisor > MAX_DIVISOR:
        return False
    value, num_decimals = float(divisor), 0
    while value != int(value):
        value, num_decimals = value * 10, num_decimals + 1
        if num_decimals > MAX_DIVISOR_DECIMALS:
            return False
    return value <= MAX_DIVISOR


def have_multiple(a: float, b: float) -> bool:
    """Whether the compiler can count the common multiples of two divisors: it multiplies them in 32 bits."""
    places = max(_num_decimals(a), _num_decimals(b))
    return int(exact(a).scaleb(places)) * int(exact(b).scaleb(places)) <= MAX_DIVISOR


def _num_decimals(value: float) -> int:
    return max(0, -int(exact(value).normalize().as_tuple().exponent))


def lowered(schema: dict[str, Any]) -> dict[str, Any]:
    """The bounds and the divisor of one schema, as the compiler keeps them. Raises ValueError: nothing lies between,
    or OverflowError: something does, but too close together."""
    bounds = {name: exact(schema[name]) for name in BOUNDS if name in schema}
    is_integer = schema.get("type") == "integer"
    if "multipleOf" in schema:
        divisor = Fraction(exact(schema["multipleOf"]))
        if is_integer:
            divisor = Fraction(divisor.numerator)
        found = {"multipleOf": _plain(_decimal(divisor))}
        if bounds and not is_integer:
            bounds = _between_multiples(bounds, divisor)
    else:
        found = {}
    was_possible = _is_possible(bounds)
    inner: dict[str, Decimal] = {}
    for name, bound in bounds.items():
        retained = inner_bound(name, _plain(bound))
        if retained is None:
            raise OverflowError
        closed = _CLOSED[name] if retained != bound else name  # a moved bound is itself allowed
        if closed in inner:
            retained = max(retained, inner[closed]) if closed == "minimum" else min(retained, inner[closed])
        inner[closed] = retained
    if not is_integer:
        inner = _without_open_ends(inner)
    if was_possible and not _is_possible(inner):
        raise OverflowError
    return found | {name: _plain(bound) for name, bound in inner.items()}


def as_written(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Bounds and divisors of which a number follows any, so that it may be written without zeros at its end.

    Where its range ends at 0.25 the compiler wants two decimals behind 0.2, and takes 0.2 alone where it ends at 0.2.
    Of 0.25 it takes multiples with two decimals or none, and 1.5 as a multiple of 0.5.
    """
    bounds = {name: schema[name] for name in BOUNDS if name in schema}
    divisors = coarser(schema["multipleOf"]) if "multipleOf" in schema else []
    ends = [bounds, *_shorter_ends(bounds)]
    return [{**end, "multipleOf": divisor} for end in ends for divisor in divisors] if divisors else ends


def coarser(divisor: float) -> list[int | float]:
    """The divisor, and those of its multiples that have fewer decimals."""
    whole, places = Fraction(exact(divisor)), _num_decimals(divisor)
    steps = [Fraction(1, 10**k) for k in range(places - 1, 0, -1)]
    found = [_plain(_decimal(each)) for each in (whole, *(_common_multiple(whole, step) for step in steps))]
    return [each for each in dict.fromkeys(found) if is_countable(each)]


def _common_multiple(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)


def _shorter_ends(bounds: dict[str, Any]) -> list[dict[str, Any]]:
    """Bounds of parts of what lies between `bounds`: of those that end at the first decimals of an end."""
    found: list[dict[str, Any]] = []
    for names, closed, sign in ((BOUNDS[2:], "maximum", 1), (BOUNDS[:2], "minimum", -1)):
        for end in (exact(bounds[name]) for name in names if name in bounds):
            for places in range(1, _num_decimals(_plain(end)) if end * sign > 0 else 0):
                shorter = {name: bound for name, bound in bounds.items() if name not in names}
                shorter[closed] = _plain(end.quantize(Decimal(1).scaleb(-places), ROUND_DOWN))
                if shorter not in found and _is_possible({name: exact(bound) for name, bound in shorter.items()}):
                    found.append(shorter)
    return found


def _between_multiples(bounds: dict[str, Decimal], divisor: Fraction) -> dict[str, Decimal]:
    """Bounds one step outside of the first and last multiple: what lies between is no multiple, and every multiple
    that is inside can be written with the decimals of the divisor."""
    low, high = _edges(bounds)
    found = {}
    first = last = None
    if low is not None:
        edge, is_open = low
        first = math.floor(Fraction(edge) / divisor) + 1 if is_open else math.ceil(Fraction(edge) / divisor)
        found["exclusiveMinimum"] = _decimal((first - 1) * divisor)
    if high is not None:
        edge, is_open = high
        last = math.ceil(Fraction(edge) / divisor) - 1 if is_open else math.floor(Fraction(edge) / divisor)
        found["exclusiveMaximum"] = _decimal((last + 1) * divisor)
    if first is not None and last is not None and first > last:
        raise ValueError(f"no multiple of {_plain(_decimal(divisor))} lies between its bounds")
    return found


def _edges(bounds: dict[str, Decimal]) -> tuple[tuple[Decimal, bool] | None, tuple[Decimal, bool] | None]:
    """The narrowest bound on each side, and whether it is outside itself."""
    lows = [(bounds[name], name == "exclusiveMinimum") for name in ("minimum", "exclusiveMinimum") if name in bounds]
    highs = [(bounds[name], name == "exclusiveMaximum") for name in ("maximum", "exclusiveMaximum") if name in bounds]
    return max(lows, default=None), min(highs, key=lambda high: (high[0], not high[1]), default=None)


def _is_possible(bounds: dict[str, Decimal]) -> bool:
    low, high = _edges(bounds)
    if low is None or high is None:
        return True
    return low[0] < high[0] or (low[0] == high[0] and not low[1] and not high[1])


def _without_open_ends(bounds: dict[str, Decimal]) -> dict[str, Decimal]:
    """Close open ends at whole numbers: the compiler would accept the number itself, written without a fraction."""
    found = dict(bounds)
    for name, closed, sign in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        bound = bounds.get(name)
        if bound is not None and bound * sign >= 0 and bound == bound.to_integral_value():
            del found[name]
            num_whole = len(str(abs(int(bound)))) if bound else 0
            step = Decimal(1).scaleb(-(_SURE_DIGITS - num_whole)) if num_whole < _SURE_DIGITS else Decimal(1)
            moved = inner_bound(closed, _plain(bound + sign * step))
            assert moved is not None
            found[closed] = moved if closed not in found else (max if sign > 0 else min)(found[closed], moved)
    return found


def _decimal(value: Fraction) -> Decimal:
    """Of a fraction whose denominator divides a power of ten."""
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    return Decimal(int(value * 10**places)).scaleb(-places)


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)
