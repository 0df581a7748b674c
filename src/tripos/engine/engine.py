"""The engine: schedule → run → update, one step at a time.

Owns the executor, the scheduler and the sequences between `add` and their last Output. Knows token ids only;
readers of the Outputs make text of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tripos.engine.block_pool import BlockPool
from tripos.engine.pack import Packer
from tripos.engine.packed_step import PackedStep, RowOwner
from tripos.engine.reasoning import ReasoningMatcher
from tripos.engine.scheduler import Schedule, Scheduler, SchedulerOptions
from tripos.engine.sequence import Sequence
from tripos.errors import DeadlineExceeded, EngineFailed, RequestFailed, TriposError
from tripos.grammar.matcher import Matcher
from tripos.runtime.executor import Executor, SamplingInput, StepOutput
from tripos.types import EngineStats, FinishReason

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """Sizes and costs that build chooses for one model."""

    num_blocks: int
    block_size: int = 32
    max_model_len: int = 2048  # tokens, prompt and output together
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    # Work of attention to one cached token relative to computing one token; a step's seconds are attributed by it.
    kv_cost: float = 1 / 4096
    jump_ahead: bool = True  # append tokens that a grammar forces without a step for each; False: for comparison

    @property
    def max_num_tokens(self) -> int:
        """The longest sequence that the model's context length and the cache allow."""
        return min(self.max_model_len, self.num_blocks * self.block_size)


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One token with the logprobs that were asked for; `top` is likeliest first."""

    token_id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    requested: tuple[float, ...] = ()  # of Sampling.logprob_token_ids


@dataclass(slots=True)
class Output:
    """What a step did for one sequence. `finish_reason` or `error` is set on its last one."""

    sequence: Sequence
    tokens: list[TokenOutput]
    prompt_logprobs: list[TokenOutput]
    finish_reason: FinishReason | None = None
    stop_token: int | None = None  # the last of `tokens`, when it ended the sequence
    error: TriposError | None = None

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Engine:
    """Synchronous core. `step` may be called by one thread at a time."""

    def __init__(
        self,
        executor: Executor,
        options: EngineOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        pool: BlockPool | None = None,
    ) -> None:
        self.executor = executor
        self.options = options
        self.clock = clock
        self.pool = pool or BlockPool(options.num_blocks, options.block_size)
        self.scheduler = Scheduler(self.pool, options.scheduler)
        self._packer = Packer(options.scheduler.max_num_seqs, options.num_blocks, options.block_size)
        self.failure: EngineFailed | None = None
        self.num_steps = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def stats(self) -> EngineStats:
        scheduler, pool = self.scheduler, self.pool
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=scheduler.num_waiting,
            kv_usage=pool.num_held / pool.num_blocks,
            prefix_queries=scheduler.blocks.num_prefix_queries,
            prefix_hits=scheduler.blocks.num_prefix_hits,
            num_preemptions=scheduler.num_preemptions,
            drafted_tokens=scheduler.speculator.num_drafted,
            accepted_tokens=scheduler.speculator.num_accepted,
        )

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence (with its siblings). Raises ContextLengthExceeded, EngineFailed."""
        if self.failure is not None:
            raise self.failure
        self.scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence and free its blocks; no further Output comes. Idempotent."""
        self.scheduler.finish(sequence)

    def hold(self, sequence: Sequence) -> None:
        """Compute no more of a running sequence until `resume`; its place and its blocks are free for others."""
        self.scheduler.hold(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Go on with a sequence that is held."""
        self.scheduler.resume(sequence)

    def step(self) -> list[Output]:
        """Advance every scheduled sequence; returns what happened, at most one Output per sequence."""
        now_s = self.clock()
        outputs = [self._expire(sequence) for sequence in self.scheduler.expired(now_s)]
        schedule = self.scheduler.schedule()
        if not schedule.entries:
            return outputs
        for sequence, _ in schedule.entries:
            if sequence.first_scheduled_s is None:
                sequence.first_scheduled_s = now_s
        failed: list[tuple[Sequence, Exception]] = []
        done = self._run(schedule.entries, failed)
        end_s = self.clock()
        self._attribute(schedule.entries, end_s - now_s)
        self._observe(schedule, end_s - now_s)
        for packed, result in done:
            outputs += self._update(packed, result, end_s)
        if failed:
            outputs += self._fail(failed, len(schedule.entries))
        self.num_steps += 1
        return outputs

    def fail(self, error: EngineFailed) -> list[Output]:
        """Stop for good: every unfinished sequence ends with `error`, and `add` raises it."""
        self.failure = error
        self.pool.clear_cache()
        return self.end_all(error)

    def end_all(self, error: TriposError) -> list[Output]:
        """End every unfinished sequence with `error`."""
        return [self._end(sequence, error=error) for sequence in self.scheduler.unfinished()]

    def _run(
        self, entries: list[tuple[Sequence, int]], failed: list[tuple[Sequence, Exception]]
    ) -> list[tuple[PackedStep, StepOutput]]:
        """Run a step; when it raises, run its halves, so that only the sequences that cause the failure fail.

        Running tokens again is safe: they write the same values to the same slots, and draw the same tokens.
        """
        packed = self._packer.pack(entries)
        try:
            self._write_masks(packed)
            return [(packed, self.executor.run(packed.step))]
        except EngineFailed as error:
            failed += [(sequence, error) for sequence, _ in entries]
            return []
        except Exception as error:
            if any(sequence.num_drafts for sequence, _ in entries):  # no draft may make a request fail
                log.warning("a step with draft tokens failed and runs again without them: %s", type(error).__name__)
                return self._run([_without_drafts(sequence, n) for sequence, n in entries], failed)
            if len(entries) == 1:
                log.warning("a sequence made its step fail: %s", type(error).__name__)
                failed.append((entries[0][0], error))
                return []
            half = len(entries) // 2
            return self._run(entries[:half], failed) + self._run(entries[half:], failed)

    def _write_masks(self, packed: PackedStep) -> None:
        for sequence, rows in packed.masks:
            if sequence.matcher is not None:
                at = sequence.num_tokens
                drafts = sequence.tokens[at : at + len(rows) - 1].tolist() if len(rows) > 1 else ()
                sequence.matcher.fill(rows, drafts)

    def _update(self, packed: PackedStep, result: StepOutput, now_s: float) -> list[Output]:
        outputs: dict[Sequence, Output] = {}
        rejected: set[Sequence] = set()  # whose next draft token was not drawn: later rows mean nothing
        token_ids = result.token_ids.tolist()
        oks = result.ok.tolist()
        for row, owner in enumerate(packed.owners):
            sequence = owner.sequence
            output = outputs.get(sequence)
            if output is None:
                output = outputs[sequence] = Output(sequence, [], [])
            elif output.is_last or sequence in rejected:
                continue
            if sequence.matcher is not None and sequence.matcher.problem is not None:
                output.error = sequence.matcher.problem
                continue
            if not oks[row]:
                output.error = RequestFailed("the model gave non-finite numbers for this request")
                continue
            if sequence.num_drafts and sequence.tokens[owner.position] != token_ids[row]:
                rejected.add(sequence)
            self._take_row(output, owner, _token_output(owner, row, packed.step.sampling, result), now_s)
        self._advance(packed.entries, outputs)
        for sequence, output in outputs.items():
            if sequence.matcher is not None and output.tokens and not output.is_last:
                self._append_forced(sequence, sequence.matcher, output)
        for sequence, _ in packed.entries:
            if sequence.num_computed_tokens >= sequence.max_num_tokens:  # max_tokens = 0: only a prompt
                output = outputs.setdefault(sequence, Output(sequence, [], []))
                if not output.is_last:
                    output.finish_reason = "length"
        for sequence, output in outputs.items():
            if output.is_last:
                self.scheduler.finish(sequence)
        return list(outputs.values())

    def _advance(self, entries: list[tuple[Sequence, int]], outputs: dict[Sequence, Output]) -> None:
        scheduler = self.scheduler
        for sequence, num_tokens in entries:
            num_drafts = sequence.num_drafts
            if num_drafts:  # the token drawn last is the only known one that is not computed
                num_tokens = sequence.num_tokens - 1 - sequence.num_computed_tokens
            scheduler.advance(sequence, num_tokens)
            if sequence in outputs:
                scheduler.speculator.settle(sequence, [each.token_id for each in outputs[sequence].tokens], num_drafts)

    def _take_row(self, output: Output, owner: RowOwner, token: TokenOutput, now_s: float) -> None:
        sequence = owner.sequence
        if owner.is_forced:
            output.prompt_logprobs.append(token)
            sequence.num_reported_prompt = owner.position + 1
            return
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s
        sequence.append(token.token_id)
        output.tokens.append(token)
        matcher = sequence.matcher
        is_end = token.token_id in sequence.stop_ids
        may_stop = is_end and (matcher is None or token.token_id in sequence.eos_ids or matcher.is_accepting)
        if matcher is not None and not matcher.accept(token.token_id):
            output.error = matcher.problem or RequestFailed("a token was drawn that the grammar does not allow")
            return
        self._check_end(sequence, output, may_stop)

    def _check_end(self, sequence: Sequence, output: Output, may_stop: bool) -> None:
        """End the sequence if the token appended last ends it. With a constraint, a stop token of the request ends only
        a complete answer (`may_stop`)."""
        token_id = int(sequence.tokens[sequence.num_tokens - 1])
        if may_stop and token_id in sequence.stop_ids and sequence.num_output_tokens > sequence.sampling.min_tokens:
            output.finish_reason = "stop"
            output.stop_token = token_id
        elif sequence.matcher is not None and sequence.matcher.is_complete:
            output.finish_reason = "stop"
        elif sequence.num_tokens >= min(sequence.max_num_tokens, self.options.max_num_tokens):
            output.finish_reason = "length"

    def _append_forced(self, sequence: Sequence, matcher: Matcher | ReasoningMatcher, output: Output) -> None:
        """Append the tokens that a grammar or the end of reasoning forces; the next step computes them together."""
        if sequence.sampling.logprobs is not None or not self.options.jump_ahead:  # each gets its own row
            return
        for token_id in matcher.forced():
            sequence.append(token_id)
            output.tokens.append(TokenOutput(token_id))
            self._check_end(sequence, output, token_id in sequence.eos_ids)
            if output.is_last:
                return
        output.error = matcher.problem

    def _attribute(self, entries: list[tuple[Sequence, int]], seconds: float) -> None:
        """Attribute a step's seconds to its sequences by their work: tokens, each with the cached tokens it reads."""
        kv_cost = self.options.kv_cost
        work = [n * (1.0 + kv_cost * (sequence.num_computed_tokens + n)) for sequence, n in entries]
        per_unit = seconds / sum(work)
        for (sequence, _), units in zip(entries, work, strict=True):
            if sequence.first_token_s is None:
                sequence.prefill_s += units * per_unit
            else:
                sequence.decode_s += units * per_unit

    def _observe(self, schedule: Schedule, seconds: float) -> None:
        """Record what steps cost, and how fast prompts are computed while others wait."""
        if schedule.is_decoding:
            costs = self.scheduler.speculator.costs
            costs.observe(len(schedule.entries), schedule.num_drafts, seconds)
        if self.scheduler.num_waiting:
            num_prompt = sum(n for sequence, n in schedule.entries if sequence.first_token_s is None)
            self.scheduler.admission.observe(num_prompt, seconds)
        else:
            self.scheduler.admission.relax()

    def _expire(self, sequence: Sequence) -> Output:
        where = "waiting" if sequence.num_computed_tokens == 0 else f"after {sequence.num_output_tokens} tokens"
        error = DeadlineExceeded(f"the deadline passed {where}: allow more time, lower max_tokens or retry later")
        return self._end(sequence, error=error)

    def _fail(self, failed: list[tuple[Sequence, Exception]], num_scheduled: int) -> list[Output]:
        """End the sequences that failed. When all of a step failed, test whether the executor still works."""
        lost = next((error for _, error in failed if isinstance(error, EngineFailed)), None)
        for sequence, _ in failed:
            self.scheduler.finish(sequence)
        if lost is None and len(failed) == num_scheduled and not self._can_run():
            lost = EngineFailed("no step can run any more: the model is restarting", retry_after_s=5.0)
        message = "this request failed inside the engine; other requests were not affected"
        outputs = [Output(s, [], [], error=lost or RequestFailed(message)) for s, _ in failed]
        return outputs + (self.fail(lost) if lost is not None else [])

    def _can_run(self) -> bool:
        """Whether the executor runs a step of one token that belongs to no request."""
        if self.pool.num_available == 0:
            return True  # no block is free for the test: the sequences that hold them ran before
        canary = Sequence(np.zeros(1, np.int32), 1)
        canary.block_table = self.pool.allocate(1)
        canary.batch_idx = 0
        try:
            self.executor.run(Packer(1, 1, self.options.block_size).pack([(canary, 1)]).step)
        except Exception:
            log.exception("the executor fails on any step")
            return False
        finally:
            self.pool.release(canary.block_table)
        return True

    def _end(self, sequence: Sequence, error: TriposError) -> Output:
        self.scheduler.finish(sequence)
        return Output(sequence, [], [], error=error)


def _without_drafts(sequence: Sequence, num_tokens: int) -> tuple[Sequence, int]:
    num_drafts, sequence.num_drafts = sequence.num_drafts, 0
    return sequence, num_tokens - num_drafts


def _token_output(owner: RowOwner, row: int, sampling: SamplingInput, result: StepOutput) -> TokenOutput:
    sequence, token_id = owner.sequence, int(result.token_ids[row])
    count = sequence.prompt_logprobs if owner.is_forced else sequence.sampling.logprobs
    if count is None:
        return TokenOutput(token_id)
    top = zip(result.top_ids[row, :count].tolist(), result.top_logprobs[row, :count].tolist(), strict=True)
    requested = result.requested_logprobs[sampling.requested_start[row] : sampling.requested_start[row + 1]]
    return TokenOutput(token_id, float(result.logprobs[row]), tuple(top), tuple(requested.tolist()))
