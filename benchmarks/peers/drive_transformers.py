"""Driver of Hugging Face Transformers: one request after another, or all in one padded batch (`mode` "padded")."""

from __future__ import annotations

import torch
import transformers

from benchmarks.peers import work


class Tokens:
    """What `generate` tells of each step: first the prompt, then one token at a time."""

    def __init__(self, clock: work.Clock) -> None:
        self._clock, self._began = clock, False

    def put(self, value: torch.Tensor) -> None:
        if self._began:
            self._clock.add(value.numel())
        self._began = True

    def end(self) -> None:
        """Nothing is held back."""


def load(setup: work.Setup) -> work.Answer:
    torch.set_num_threads(setup.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[setup.weights]
    model = transformers.AutoModelForCausalLM.from_pretrained(setup.model, dtype=dtype).eval()
    model.generation_config.eos_token_id = None  # nothing ends early
    model.generation_config.pad_token_id = 0

    def one_after_another(prompts: list[list[int]], max_tokens: int) -> work.Timing:
        clock = work.Clock()
        for prompt in prompts:
            model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=max_tokens,
                do_sample=False,
                streamer=Tokens(clock),
            )
        return clock.stop(len(prompts) * max_tokens)

    def padded(prompts: list[list[int]], max_tokens: int) -> work.Timing:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        clock = work.Clock()
        made = model.generate(ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False)
        clock.add(made[:, longest:].numel())
        return clock.stop(len(prompts) * max_tokens)

    torch.set_grad_enabled(False)
    return padded if setup.mode == "padded" else one_after_another


if __name__ == "__main__":
    work.serve(load, "transformers", "torch")
