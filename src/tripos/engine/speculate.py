"""Speculation without a second model: guess the next tokens from the sequence's own text, when that pays.

A step computes the guesses together with the pending token and draws at each place with that place's own counter, so
a guess counts only when it equals the token drawn: output does not depend on what is guessed here, nor on the clock.
Owns the guesses, how often they held, and what steps cost. Knows nothing of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Listed

from tripos.engine.sequence import Sequence

MAX_COMPARED = 16  # tokens of a match
MAX_PLACES = 6  # looked at per guess
STRONG_MATCH = 4  # tokens; shorter ones are weak
FIRST_RATES = (0.3, 0.7)  # of weak and strong matches, before anything is known
MEMORY = 1 / 12  # weight of the newest guess
FORGET_AFTER = 256  # steps: then a cost is guessed again, and so measured again
FEW = 8  # sequences: so few always look for guesses, which costs microseconds
MAX_PAUSE = 31  # steps between looks, where many sequences find nothing that pays
BLIND_SHARE = 0.5  # of the cost per token: assumed for tokens added to a step where nothing is measured


class Guesser:
    """The latest places of each pair of tokens in one sequence: O(1) per token, a chain of places per pair."""

    def __init__(self, rates: Listed[float]) -> None:
        self.rates = list(rates)  # how often the first guess after a weak and a strong match held
        self.guess: list[int] = []  # of the coming step
        self.match = 0  # tokens in common where the guess was taken
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}  # pair → where the token after it stands
        self._earlier: list[int] = []  # that place → the place before it for the same pair, -1: none

    def look(self, sequence: Sequence, max_tokens: int) -> None:
        """Guess what follows the known tokens: what followed the longest of the latest equal endings."""
        self._catch_up(sequence)
        tokens = self._tokens
        self.guess, self.match = [], 0
        place = self._latest.get((tokens[-2], tokens[-1]), -1) if len(tokens) > 1 else -1
        best = -1
        for _ in range(MAX_PLACES):
            if place < 0:
                break
            length = self._num_equal(place)
            if length > self.match:
                self.match, best = length, place
            place = self._earlier[place]
        if best >= 0:
            self.guess = self._continuation(best, max_tokens)

    def settle(self, drawn: Listed[int]) -> None:
        """Learn from the tokens drawn where guesses stood; also guesses that no step computed are judged so."""
        for i, (guess, token) in enumerate(zip(self.guess, drawn, strict=False)):
            which = self.match + i >= STRONG_MATCH
            self.rates[which] += MEMORY * ((guess == token) - self.rates[which])
        self.guess = []

    def gains(self) -> list[float]:
        """The chance that the first, the first two, ... guesses hold."""
        gains, chance = [], 1.0
        for i in range(len(self.guess)):
            chance *= self.rates[self.match + i >= STRONG_MATCH]
            gains.append(chance)
        return gains

    def _catch_up(self, sequence: Sequence) -> None:
        """Index the tokens that came since. The last pair is left out: nothing follows it yet."""
        tokens, latest, earlier = self._tokens, self._latest, self._earlier
        begin = len(tokens)
        tokens += sequence.tokens[begin : sequence.num_tokens].tolist()
        for place in range(begin, len(tokens)):
            if place < 2:
                earlier.append(-1)
                continue
            pair = (tokens[place - 2], tokens[place - 1])
            earlier.append(latest.get(pair, -1))
            latest[pair] = place

    def _num_equal(self, place: int) -> int:
        """Tokens before `place` that equal the end of the sequence."""
        tokens = self._tokens
        end = len(tokens)
        most = min(place, MAX_COMPARED)
        length = 2
        while length < most and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length

    def _continuation(self, place: int, count: int) -> list[int]:
        """`count` tokens from `place` on; a match that overlaps the end repeats itself."""
        tokens = self._tokens
        guess = tokens[place : place + count]
        period = len(tokens) - place
        while len(guess) < count:
            guess.append(guess[len(guess) - period])
        return guess


class StepCosts:
    """Seconds of steps by how many sequences decode and how many guesses they carry, as measured lately."""

    def __init__(self) -> None:
        self._known: dict[int, dict[int, tuple[float, float, int]]] = {}  # (guesses, seconds, when) by bucket
        self._num_steps = 0

    def observe(self, num_sequences: int, num_guesses: int, seconds: float) -> None:
        self._num_steps += 1
        known = self._known.setdefault(_bucket(num_sequences), {})
        bucket = _bucket(num_guesses)
        count, mean, _ = known.get(bucket, (float(num_guesses), seconds, 0))
        seconds = max(min(seconds, 2.0 * mean), 1e-9)  # one interruption says little
        known[bucket] = (count + (num_guesses - count) / 8, mean + (seconds - mean) / 8, self._num_steps)

    def best(self, num_sequences: int, gains: Listed[float]) -> int:
        """How many guesses, likeliest first, give the most tokens per second."""
        known = self._known.get(_bucket(num_sequences))
        if known is None or 0 not in known:
            return 0  # measure first what steps cost without
        oldest = self._num_steps - FORGET_AFTER
        points = sorted((count, mean) for bucket, (count, mean, when) in known.items() if when >= oldest or bucket == 0)
        best, best_rate, tokens = 0, num_sequences / points[0][1], float(num_sequences)
        for count, gain in enumerate(gains, 1):
            tokens += gain
            is_edge = count == len(gains) or _bucket(count) != _bucket(count + 1)
            if is_edge and (rate := tokens / _seconds(points, num_sequences, count)) > best_rate:
                best, best_rate = count, rate
        return best


def _bucket(count: int) -> int:
    """Counts that cost about the same: exact to 8, then four per doubling."""
    return count if count <= 8 else 8 + math.ceil(4 * math.log2(count / 8))


def _seconds(points: list[tuple[float, float]], num_sequences: int, count: int) -> float:
    """Between what was measured in proportion; beyond it, at a part of the cost per token so that it gets tried."""
    low = points[0]
    for point in points:
        if point[0] >= count:
            return low[1] + (point[1] - low[1]) * (count - low[0]) / (point[0] - low[0])
        low = point
    per_token = BLIND_SHARE * low[1] / (num_sequences + low[0] + 8)
    return low[1] + per_token * (count - low[0])


class Speculator:
    """Decides which sequences guess how many tokens in the next step."""

    def __init__(self, max_draft_tokens: int) -> None:
        self.max_draft_tokens = max_draft_tokens
        self.costs = StepCosts()
        self.num_drafted = 0  # tokens
        self.num_accepted = 0
        self._pause = self._num_pausing = 0  # steps of many sequences in which nobody looks for guesses
        self._guessers: dict[Sequence, Guesser] = {}
        self._rates = list(FIRST_RATES)  # that newcomers begin with

    def propose(self, sequences: Listed[Sequence], max_tokens: int) -> list[tuple[Sequence, list[int]]]:
        """The guesses worth computing beside the pending tokens of `sequences`, at most `max_tokens` in all."""
        if self._num_pausing > 0 and len(sequences) > FEW:
            self._num_pausing -= 1
            return []
        offers: list[tuple[float, Sequence]] = []
        for sequence in sequences:
            room = min(self.max_draft_tokens, sequence.max_num_tokens - sequence.num_tokens - 1)
            if room > 0 and sequence.history is None:
                guesser = self._guessers.get(sequence)
                if guesser is None:
                    guesser = self._guessers[sequence] = Guesser(self._rates)
                guesser.look(sequence, room)
                if guesser.guess:
                    offers += ((gain, sequence) for gain in guesser.gains())
        offers.sort(key=lambda offer: -offer[0])
        count = min(self.costs.best(len(sequences), [gain for gain, _ in offers]), max_tokens)
        self._pause = 0 if count else min(2 * self._pause + 1, MAX_PAUSE)
        self._num_pausing = self._pause
        lengths: dict[Sequence, int] = {}
        for _, sequence in offers[:count]:
            lengths[sequence] = lengths.get(sequence, 0) + 1
        return [(sequence, self._guessers[sequence].guess[:length]) for sequence, length in lengths.items()]

    def settle(self, sequence: Sequence, drawn: Listed[int], num_drafts: int) -> None:
        """Learn what a step drew after `num_drafts` guesses: one token per guess that held, and one more."""
        self.num_drafted += num_drafts
        self.num_accepted += max(0, len(drawn) - 1)
        guesser = self._guessers.get(sequence)
        if guesser is None or not guesser.guess:
            return
        was = list(guesser.rates)
        guesser.settle(drawn)
        for i, (now, before) in enumerate(zip(guesser.rates, was, strict=True)):
            if now != before:
                self._rates[i] += (now - self._rates[i]) / 64

    def forget(self, sequence: Sequence) -> None:
        self._guessers.pop(sequence, None)
