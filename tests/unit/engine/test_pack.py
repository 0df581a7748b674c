"""A schedule as arrays, by hand."""

from __future__ import annotations

import itertools

import numpy as np

from tripos.engine.pack import Packer
from tripos.engine.sequence import Sequence
from tripos.runtime.executor import StepInput
from tripos.types import Sampling


def running(prompt: list[int], batch_idx: int, blocks: list[int], computed: int = 0, **fields: object) -> Sequence:
    one = Sequence(np.array(prompt, np.int32), 8, **fields)  # type: ignore[arg-type]
    one.batch_idx, one.block_table, one.num_computed_tokens = batch_idx, blocks, computed
    return one


def test_a_chunk_and_a_decoding_sequence_in_one_ragged_batch() -> None:
    packer = Packer(max_num_seqs=4, max_blocks=8, block_size=4)
    chunk = running([10, 11, 12, 13, 14, 15, 16], batch_idx=2, blocks=[7, 3], computed=2)
    decoding = running([20, 21, 22, 23, 24, 25, 26, 27, 28], batch_idx=0, blocks=[1, 5, 4], computed=8)
    packed = packer.pack([(chunk, 3), (decoding, 1)])
    step = packed.step
    assert step.token_ids.tolist() == [12, 13, 14, 28]
    assert step.positions.tolist() == [2, 3, 4, 8]
    assert step.query_start.tolist() == [0, 3, 4]
    assert step.seq_lens.tolist() == [5, 9]
    assert step.block_tables.tolist() == [[7, 3, 0], [1, 5, 4]]
    assert step.slots.tolist() == [30, 31, 12, 16]
    assert step.last_rows.tolist() == [3], "the chunk does not catch up, so nothing is drawn for it"
    assert [(owner.sequence, owner.position, owner.is_forced) for owner in packed.owners] == [(decoding, 9, False)]
    for array in (step.token_ids, step.positions, step.query_start, step.seq_lens, step.block_tables, step.slots):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous


def test_prompt_logprobs_force_each_next_prompt_token() -> None:
    packer = Packer(4, 8, 4)
    one = running([10, 11, 12], 0, [0], prompt_logprobs=2, sampling=Sampling(logprobs=5))
    step = packer.pack([(one, 3)]).step
    assert step.last_rows.tolist() == [0, 1, 2]
    assert step.sampling.forced_token.tolist() == [11, 12, -1]
    assert step.sampling.num_logprobs.tolist() == [2, 2, 5]
    assert step.sampling.counter.tolist() == [1, 2, 3]


def test_a_slot_forgets_its_last_tenant() -> None:
    packer = Packer(1, 8, 4)
    packer.pack([(running([1, 2, 3, 4, 5], 0, [6, 7], sampling=Sampling(temperature=0.5, logit_bias={3: 1.0})), 5)])
    step = packer.pack([(running([1], 0, [2], seed=9, sampling=Sampling(temperature=0.0)), 1)]).step
    assert step.block_tables.tolist() == [[2]]
    assert step.sampling.temperature.tolist() == [0.0]
    assert step.sampling.seed.tolist() == [9]
    assert step.sampling.bias_start.tolist() == [0, 0]


def test_a_preempted_sequence_moves_in_again_with_new_blocks() -> None:
    packer = Packer(1, 8, 4)
    one = running([1, 2, 3, 4, 5], 0, [6, 7])
    packer.pack([(one, 5)])
    one.num_stays, one.block_table = 1, [3, 2]
    assert packer.pack([(one, 5)]).step.block_tables.tolist() == [[3, 2]]


def test_only_rows_that_ask_have_history_and_bias() -> None:
    packer = Packer(3, 8, 4)
    plain = running([1, 2], 0, [0])
    both = running(
        [5, 5, 6], 1, [1],
        sampling=Sampling(repetition_penalty=1.1, min_tokens=2, stop_token_ids=(9,), logit_bias={4: -2.0}),
    )  # fmt: skip
    output = running([7, 8], 2, [2], sampling=Sampling(presence_penalty=1.0))
    for each in (both, output):
        each.append(8)
    sampling = packer.pack([(plain, 2), (both, 4), (output, 3)]).step.sampling
    assert sampling.history_start.tolist() == [0, 0, 3, 4]
    assert sampling.history_ids.tolist() == [5, 6, 8, 8]
    assert sampling.history_counts.tolist() == [0, 0, 1, 1]
    assert sampling.bias_start.tolist() == [0, 0, 2, 2]
    assert sampling.bias_ids.tolist() == [4, 9]
    assert sampling.bias_values.tolist() == [-2.0, -np.inf]


class Allowing:
    """A matcher, as far as pack looks at it."""

    num_words = 2


def test_a_constrained_batch_that_stays_keeps_its_arrays_and_its_place_for_masks() -> None:
    packer = Packer(2, 8, 4)
    one = running([1, 2, 3], 0, [6, 7], computed=2, matcher=Allowing())
    other = running([4, 5], 1, [3], computed=1)
    first = packer.pack([(one, 1), (other, 1)])
    for each in (one, other):
        each.append(9)
        each.num_computed_tokens += 1
    second = packer.pack([(one, 1), (other, 1)])
    assert second.masks is first.masks
    assert second.step.sampling.mask is first.step.sampling.mask
    assert second.step.sampling.mask_row.tolist() == [0, -1]
    assert second.step.sampling.counter.tolist() == [4, 3]
    [(sequence, rows)] = second.masks
    assert sequence is one
    assert rows.shape == (1, 2)
    assert np.shares_memory(rows, second.step.sampling.mask)
    one.draft([8])
    third = packer.pack([(one, 2), (other, 1)])
    assert third.step.sampling.mask_row.tolist() == [0, 1, -1]
    assert [len(rows) for _, rows in third.masks] == [2]


def test_what_changes_from_step_to_step_is_packed_anew() -> None:
    packer = Packer(1, 8, 4)
    one = running([1], 0, [0], sampling=Sampling(presence_penalty=1.0, min_tokens=1), matcher=Allowing())
    first = packer.pack([(one, 1)]).step.sampling
    one.append(5)
    one.num_computed_tokens = 1
    second = packer.pack([(one, 1)]).step.sampling
    assert first.history_ids.tolist() == []
    assert second.history_ids.tolist() == [5]


def as_lists(step: StepInput) -> dict[str, object]:
    fields = {**vars(step), **vars(step.sampling)}
    return {name: value.tolist() for name, value in fields.items() if isinstance(value, np.ndarray)}


def test_a_batch_that_goes_on_decoding_is_packed_as_if_anew() -> None:
    packer = Packer(3, 8, 4)
    batch = [
        running([1, 2, 3], 2, [5], computed=2, sampling=Sampling(temperature=0.5), seed=7),
        running([4, 5, 6, 7, 8, 9], 0, [3, 1], computed=5),
    ]
    given = []
    for _ in range(5):  # over the end of a block of each
        for each in batch:
            while len(each.block_table) * 4 < each.num_tokens:
                each.block_table.append(6 + len(each.block_table) + each.batch_idx)
        packed = packer.pack([(each, 1) for each in batch])
        anew = Packer(3, 8, 4).pack([(each, 1) for each in batch])
        assert as_lists(packed.step) == as_lists(anew.step)
        assert packed.owners == anew.owners
        given.append(packed.step)
        for each in batch:
            each.append(10 + each.num_tokens)
            each.num_computed_tokens += 1
    is_same = [one is other for one, other in itertools.pairwise(given)]
    assert is_same == [True, True, False, True], "the same arrays while the widest block table stays"


def test_a_batch_that_changes_is_packed_anew() -> None:
    packer = Packer(3, 8, 4)
    one, two = running([1, 2], 0, [5], computed=1), running([3, 4], 1, [6], computed=1)
    first = packer.pack([(one, 1), (two, 1)]).step
    assert packer.pack([(one, 1), (two, 1)]).step is not first, "the step failed and runs again"
    one.append(9)
    one.num_computed_tokens = 2
    assert packer.pack([(one, 1)]).step.token_ids.tolist() == [9]
    one.draft([8])
    one.num_computed_tokens, one.num_tokens = 2, 3
    assert packer.pack([(one, 2)]).step.token_ids.tolist() == [9, 8]
    one.num_stays, one.num_drafts, one.block_table = 1, 0, [7]
    assert packer.pack([(one, 3 - 2)]).step.block_tables.tolist() == [[7]]
