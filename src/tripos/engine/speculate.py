"""Speculative decoding without a second model: draft the next tokens from the sequence's own text, when that pays.

A step computes the drafts together with the pending token and draws at each place with that place's own counter, so a
draft is accepted only when it equals the token drawn: output depends neither on the drafts nor on the clock.
Owns the drafts, how often they were accepted, and what steps cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Listed

from tripos.engine.sequence import Sequence
from tripos.engine.sequence_blocks import SequenceBlocks

MAX_COMPARED = 16  # tokens of a match
MAX_PLACES = 6  # compared per draft
STRONG_MATCH = 4  # tokens; shorter ones are weak
FIRST_RATES = (0.3, 0.7)  # of weak and strong matches, before anything is known
MEMORY = 1 / 12  # weight of the newest draft token
FORGET_AFTER = 256  # steps: then a cost is estimated again, and so measured again
FEW = 8  # sequences: up to so many always look for drafts, which costs microseconds
MAX_PAUSE = 31  # steps between searches, where many sequences find no draft that pays
BLIND_SHARE = 0.5  # of the cost per token: assumed for tokens added to a step where nothing is measured


class NgramProposer:
    """The latest places of each pair of tokens in one sequence: O(1) per token, a chain of places per pair."""

    def __init__(self, rates: Listed[float]) -> None:
        self.rates = list(rates)  # how often the first draft token after a weak and a strong match was accepted
        self.draft: list[int] = []  # of the coming step
        self.match = 0  # tokens in common where the draft was taken
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}  # pair → where the token after it stands
        self._earlier: list[int] = []  # that place → the place before it for the same pair, -1: none

    def propose(self, sequence: Sequence, max_tokens: int) -> None:
        """Draft what follows the known tokens: what followed the longest of the latest equal endings."""
        self._catch_up(sequence)
        tokens = self._tokens
        self.draft, self.match = [], 0
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
            self.draft = self._continuation(best, max_tokens)

    def settle(self, drawn: Listed[int]) -> None:
        """Learn from the tokens drawn where drafts stood; also from drafts that no step computed."""
        for i, (drafted, token) in enumerate(zip(self.draft, drawn, strict=False)):
            which = self.match + i >= STRONG_MATCH
            self.rates[which] += MEMORY * ((drafted == token) - self.rates[which])
        self.draft = []

    def gains(self) -> list[float]:
        """The chance that the first, the first two, ... draft tokens are accepted."""
        gains, chance = [], 1.0
        for i in range(len(self.draft)):
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
        draft = tokens[place : place + count]
        period = len(tokens) - place
        while len(draft) < count:
            draft.append(draft[len(draft) - period])
        return draft


class StepCosts:
    """Seconds of steps by how many sequences decode and how many draft tokens they carry, as measured lately."""

    def __init__(self) -> None:
        self._known: dict[int, dict[int, tuple[float, float, int]]] = {}  # (drafts, seconds, when) by bucket
        self._num_steps = 0

    def observe(self, num_sequences: int, num_drafts: int, seconds: float) -> None:
        self._num_steps += 1
        known = self._known.setdefault(_bucket(num_sequences), {})
        bucket = _bucket(num_drafts)
        count, mean, _ = known.get(bucket, (float(num_drafts), seconds, 0))
        seconds = max(min(seconds, 2.0 * mean), 1e-9)  # one interruption says little
        known[bucket] = (count + (num_drafts - count) / 8, mean + (seconds - mean) / 8, self._num_steps)

    def best(self, num_sequences: int, gains: Listed[float]) -> int:
        """How many draft tokens, likeliest first, give the most tokens per second."""
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
    """Decides which sequences draft how many tokens in the next step."""

    def __init__(self, max_draft_tokens: int) -> None:
        self.max_draft_tokens = max_draft_tokens
        self.costs = StepCosts()
        self.num_drafted = 0  # tokens
        self.num_accepted = 0
        self._pause = self._num_pausing = 0  # steps of many sequences in which none looks for drafts
        self._proposers: dict[Sequence, NgramProposer] = {}
        self._rates = list(FIRST_RATES)  # that newcomers begin with

    def draft(
        self, sequences: Listed[Sequence], max_tokens: int, blocks: SequenceBlocks, num_running: int
    ) -> list[Sequence]:
        """Let some of `sequences` draft, at most `max_tokens` in all, in blocks that nobody else needs; returns those
        that were asked. Each has one pending token and no draft yet."""
        drafting = []
        for sequence, draft in self.propose(sequences, max_tokens):
            num_allowed = blocks.num_spare_tokens(sequence, num_running)
            if sequence.matcher is not None:
                num_allowed = min(num_allowed, sequence.matcher.num_allowed(draft))
            sequence.draft(draft[:num_allowed])
            if (missing := blocks.num_missing(sequence)) > 0:
                blocks.extend(sequence, missing)
            drafting.append(sequence)
        return drafting

    def propose(self, sequences: Listed[Sequence], max_tokens: int) -> list[tuple[Sequence, list[int]]]:
        """The drafts worth computing beside the pending tokens of `sequences`, at most `max_tokens` in all."""
        if self._num_pausing > 0 and len(sequences) > FEW:
            self._num_pausing -= 1
            return []
        candidates: list[tuple[float, Sequence]] = []
        for sequence in sequences:
            num_allowed = min(self.max_draft_tokens, sequence.max_num_tokens - sequence.num_tokens - 1)
            if num_allowed > 0 and sequence.history is None:
                proposer = self._proposers.get(sequence)
                if proposer is None:
                    proposer = self._proposers[sequence] = NgramProposer(self._rates)
                proposer.propose(sequence, num_allowed)
                if proposer.draft:
                    candidates += ((gain, sequence) for gain in proposer.gains())
        candidates.sort(key=lambda candidate: -candidate[0])
        count = min(self.costs.best(len(sequences), [gain for gain, _ in candidates]), max_tokens)
        self._pause = 0 if count else min(2 * self._pause + 1, MAX_PAUSE)
        self._num_pausing = self._pause
        lengths: dict[Sequence, int] = {}
        for _, sequence in candidates[:count]:
            lengths[sequence] = lengths.get(sequence, 0) + 1
        return [(sequence, self._proposers[sequence].draft[:length]) for sequence, length in lengths.items()]

    def settle(self, sequence: Sequence, drawn: Listed[int], num_drafts: int) -> None:
        """Learn what a step drew after `num_drafts` draft tokens: one token per accepted one, and one more."""
        self.num_drafted += num_drafts
        self.num_accepted += max(0, len(drawn) - 1)
        proposer = self._proposers.get(sequence)
        if proposer is None or not proposer.draft:
            return
        was = list(proposer.rates)
        proposer.settle(drawn)
        for i, (now, before) in enumerate(zip(proposer.rates, was, strict=True)):
            if now != before:
                self._rates[i] += (now - self._rates[i]) / 64

    def forget(self, sequence: Sequence) -> None:
        self._proposers.pop(sequence, None)
