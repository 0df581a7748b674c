"""Fields by the names that other servers have for them: what to use here instead, and which of their values do nothing.

A name from here that would change the answer is refused with ours; no other name is guessed at.
"""

from __future__ import annotations

from typing import Any

from tripos.wire.fields import Field

_TEMPLATE = "templates come with the model"
_ADAPTER = "name the adapter as the model"
_SAMPLERS = "use temperature, top_k, top_p and min_p"
_DRY = "Of DRY, which there is not."


def _refused(doc: str, **names: tuple[Any, ...]) -> tuple[Field, ...]:
    """`names`: each with the values that do nothing, beside the empty ones."""
    return tuple(
        Field(name, "any", doc, use="refused", nothing=nothing, is_foreign=True) for name, nothing in names.items()
    )


def _ignored(doc: str, **names: tuple[Any, ...]) -> tuple[Field, ...]:
    return tuple(
        Field(name, "any", doc, use="ignored", nothing=nothing, is_foreign=True) for name, nothing in names.items()
    )


# Of vLLM, SGLang, llama.cpp, TGI and transformers; for chat, legacy completions and responses.
SAMPLING = (
    *_refused("use structured_outputs or response_format", guided_json=(), guided_regex=(), guided_choice=(),
              guided_grammar=(), json_schema=(), regex=(), ebnf=(), grammar=()),
    *_ignored("One library enforces them all.", guided_decoding_backend=(), guided_whitespace_pattern=()),
    *_refused("use repetition_penalty", repeat_penalty=(1,)),
    *_ignored("Penalties reach over the whole text.", repeat_last_n=(-1, 64), penalty_last_n=(-1, 64)),
    *_refused(_SAMPLERS, mirostat=(0,), typical_p=(0, 1), tfs_z=(0, 1), top_a=(0,), top_n_sigma=(-1, 0),
              dynatemp_range=(0,), xtc_probability=(0,), dry_multiplier=(0,), samplers=(), eta_cutoff=(0,),
              epsilon_cutoff=(0,)),
    *_ignored("Of samplers that there are not.", mirostat_tau=(5,), mirostat_eta=(0.1,), dynatemp_exponent=(1,),
              xtc_threshold=(0.1,), min_keep=(0,)),
    *_ignored(_DRY, dry_base=(1.75,), dry_allowed_length=(2,), dry_penalty_last_n=(-1, 0),
              dry_sequence_breakers=(["\n", ":", '"', "*"],)),
    *_refused("answers are drawn, not searched for: use n", use_beam_search=(), num_beams=(1,)),
    *_ignored("Of beam search, which there is not.", length_penalty=(1,), early_stopping=()),
    *_refused("use temperature 0", do_sample=(True,)),
    *_refused("use logit_bias", allowed_token_ids=(), bad_words=(), bad_words_ids=()),
    *_refused("it takes no code", logits_processors=(), custom_logit_processor=()),
    *_refused("use include_stop_str_in_output", no_stop_trim=()),
    *_refused("use stop", stop_sequences=(), stop_strings=()),
    *_refused("use n", num_return_sequences=(1,)),
    *_refused("special tokens are no part of a text", skip_special_tokens=(True,), detokenize=(True,)),
    *_ignored("Special tokens are no part of a text.", spaces_between_special_tokens=(True,)),
    *_refused("send a prompt that fits", truncate_prompt_tokens=(-1,)),
    *_refused("use echo and logprobs of /v1/completions", prompt_logprobs=()),
    *_refused(_ADAPTER, lora=(), lora_path=(), adapter_id=()),
    *_refused("this server reads text only", image_data=()),
    *_refused("tokens have their text", return_tokens_as_token_ids=()),
    *_refused("hidden states are not sent", return_hidden_states=()),
    *_refused("put its fields at the top", parameters=(), sampling_params=()),
    *_ignored("Prefixes are always reused.", cache_prompt=(True,), n_cache_reuse=(0,)),
    *_ignored("The server decides.", id_slot=(-1,), n_keep=(0, -1), n_discard=(0,), kv_transfer_params=(),
              session_params=(), vllm_xargs=(), custom_params=()),
    *_ignored("See the metrics of the answer.", timings_per_token=(), return_progress=(), details=(),
              return_cached_tokens_details=(), decoder_input_details=()),
    *_ignored("The answer has no such field.", return_token_ids=(), return_tokens=(), response_fields=(),
              post_sampling_probs=()),
    *_ignored("Send the header x-request-id.", request_id=(), rid=()),
    *_ignored("Use timeout.", t_max_predict_ms=(0, -1)),
)  # fmt: skip
_CHATTING = (
    *_refused(_TEMPLATE, chat_template=()),
    *_refused("put them into a message", documents=()),
    *_refused("use chat_template_kwargs or reasoning_effort", enable_thinking=()),
    *_refused("use thinking_token_budget", thinking_budget=()),
    *_refused("use include_reasoning", separate_reasoning=(True,)),
    *_refused("reasoning has a field of its own", reasoning_format=("auto", "deepseek", "deepseek-legacy")),
    *_refused("tool calls have a field of their own", parse_tool_calls=(True,)),
    *_ignored("Reasoning is streamed as it comes.", stream_reasoning=(True,)),
    *_ignored("The template decides.", thinking_forced_open=()),
    *_ignored("This server reads text only.", mm_processor_kwargs=(), media_io_kwargs=()),
)
_LENGTH: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (), "n_predict": (-1,), "max_length": (), "max_tokens_to_sample": ()
}  # fmt: skip
CHAT = (
    *SAMPLING,
    *_CHATTING,
    *_refused("use max_tokens", **_LENGTH, max_output_tokens=()),
    *_refused("use messages", prompt=(), input=(), inputs=(), system=(), instructions=()),
    *_refused("use logprobs and top_logprobs", n_probs=(0,)),
    *_refused("the template adds them", add_special_tokens=()),
    *_refused("use echo of /v1/completions", echo=()),
)
COMPLETIONS = (
    *SAMPLING,
    *_refused("use max_tokens", **_LENGTH, max_output_tokens=(), max_completion_tokens=()),
    *_refused("use prompt", input=(), inputs=(), input_ids=()),
    *_refused("use /v1/chat/completions", messages=()),
    *_refused("use logprobs", n_probs=(0,), top_logprobs=(0,)),
    *_refused("send token ids as the prompt", add_special_tokens=(True,)),
    *_refused("use echo", return_full_text=()),
)
RESPONSES = (
    *SAMPLING,
    *_CHATTING,
    *_refused("use max_output_tokens", **_LENGTH, max_tokens=(), max_completion_tokens=()),
    *_refused("use input", messages=(), inputs=()),
    *_refused("use instructions", system=()),
    *_refused("use text.format", response_format=({"type": "text"},), structured_outputs=()),
    *_refused("use reasoning.effort", reasoning_effort=()),
    *_refused("use include and top_logprobs", n_probs=(0,), logprobs=()),
    *_refused("one response has one answer", n=(1,)),
    *_refused("answers are not begun for the model", continue_final_message=()),
)
MESSAGES = (
    *_refused("use max_tokens", **_LENGTH, max_completion_tokens=(), max_output_tokens=()),
    *_refused("use stop_sequences", stop=()),
    *_refused("use output_config.format", response_format=({"type": "text"},), structured_outputs=()),
    *_refused("use thinking", reasoning_effort=()),
    *_refused("one message has one answer", n=(1,)),
    *_refused("use /v1/chat/completions", logprobs=(), top_logprobs=(0,), logit_bias=(), min_p=(0,),
              frequency_penalty=(0,), presence_penalty=(0,), repetition_penalty=(1,)),
)  # fmt: skip
EMBEDDINGS = (
    *_refused("use input", texts=(), inputs=(), prompt=(), messages=()),
    *_refused("use dimensions", output_dimension=()),
    *_refused("use encoding_format", embedding_types=(["float"],), embedding_type=("float",), output_dtype=("float",)),
    *_refused("vectors are as the model makes them", normalize=(True,), normalized=(True,), late_chunking=()),
)
RERANK = (
    *_refused("use documents", texts=(), passages=()),
    *_refused("use top_n", top_k=()),
    *_refused("use return_documents", return_text=()),
    *_refused("scores are as the model makes them", raw_scores=(), use_activation=(True,), activation=(True,)),
)
TOKENIZE = (
    *_refused("use prompt", content=(), text=(), inputs=()),
    *_refused("use add_special_tokens", add_special=(True,)),
    *_refused("use return_token_strs", with_pieces=()),
    *_refused(_TEMPLATE, chat_template=()),
    *_refused("ask /v1/responses/input_tokens, which counts them", tools=()),
)
