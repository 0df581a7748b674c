"""Trains the demo assistant on generated conversations and writes it in the Hugging Face Llama layout.

The loss is the mean over the answers' tokens plus a small share of the mean over all others, which helps the
attention heads to form early. Two layers' attention starts as a mechanism for copying and stays so; the other
matrices are trained with Muon, the rest with AdamW.

    python -m training.train --work FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from training.generate import NEW_BOTH, TRAINING, Conversation, conversations
from training.tokenizer import BOS, END, MAX_LENGTH, PAD, encode_conversation, save_tokenizer, train_tokenizer

Example = tuple[list[int], list[tuple[int, int]]]  # token ids, (start, end) of each answer

IGNORED = -100
EMBEDDING_STD = 0.2
OTHER_SHARE = 0.3  # share of the tokens outside the answers that the loss looks at (the scores are costly)
PART_SIZE = 3000  # conversations
ANSWERABLE_SHARE = 0.92  # of the questions; far more than in the evaluation, or strange phrases are refused too readily
NUM_EASY_PARTS, EASY_LENGTH = 2, 112  # training starts with so many parts of short conversations
REPETITION_SHARE = 0.05  # of exercises in copying, in the parts after those


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of the model, in the words of config.json."""

    vocab_size: int
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    head_dim: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 100000.0
    max_position_embeddings: int = MAX_LENGTH


class Attention(nn.Module):
    """Grouped-query causal attention with rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """hidden: (batch, length, hidden_size); cos, sin: (length, head_dim)."""
        batch, length, _ = hidden.shape
        split = (batch, length, -1, self.config.head_dim)
        q, k, v = (proj(hidden).view(split).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    """The gated feed-forward part of a layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """SwiGLU."""
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Layer(nn.Module):
    """Attention and feed-forward, each on the normed residual stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """hidden: (batch, length, hidden_size)."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Llama(nn.Module):
    """A Llama with tied embeddings; parameter names are those of the Hugging Face layout, less `model.`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=EMBEDDING_STD if "embed" in name else scale)
        start_copying(self)

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids: (batch, length), padded on the right. Returns (batch, length, hidden_size), normed."""
        config = self.config
        steps = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.arange(token_ids.shape[1])[:, None] * config.rope_theta**-steps
        angles = torch.cat((angles, angles), dim=-1)
        hidden = self.embed_tokens(token_ids)
        cos, sin = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin)
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary for the given positions."""
        return functional.linear(hidden, self.embed_tokens.weight)


@torch.no_grad()
def start_copying(model: Llama) -> None:
    """Start with copying in place, which is slow to learn: layer 0 attends to the token before, layer 1 to what
    followed the present token earlier (an induction head, Olsson et al., 2022). Training goes on from there.

    Embeddings share a constant in entry 0, so that a query can be the same at every position. Rotary pairs turn
    fast at the front of a head and slowly at its back: positions are matched with the front, tokens with the back.
    """
    config = model.config
    size, half, num_groups = config.head_dim, config.head_dim // 2, config.num_key_value_heads
    per_group = config.num_attention_heads // num_groups
    model.embed_tokens.weight[:, 0] = EMBEDDING_STD * 8  # about half of the norm of an embedding
    directions = torch.linalg.qr(torch.randn(config.hidden_size, 2 * num_groups * size))[0]
    directions[0] = 0
    front, back = torch.arange(6), torch.cat((torch.arange(6, half), torch.arange(6, half) + half))
    previous, induction = model.layers[0].self_attn, model.layers[1].self_attn
    angles = config.rope_theta ** (-front * 2 / size)
    for group in range(num_groups):
        keys = slice(group * size, (group + 1) * size)
        where = directions[:, keys]  # where layer 0 writes the token before
        what = directions[:, num_groups * size :][:, keys]  # the part of an embedding that both read
        previous.k_proj.weight[keys] = 0
        previous.k_proj.weight[group * size + front, 0] = angles.cos()
        previous.k_proj.weight[group * size + half + front, 0] = angles.sin()
        previous.v_proj.weight[keys] = what.T
        induction.k_proj.weight[keys] = 0
        induction.k_proj.weight[group * size + back] = 2 * where.T[back]
        induction.v_proj.weight[keys] = what.T
        for head in range(group * per_group, (group + 1) * per_group):
            queries = slice(head * size, (head + 1) * size)
            previous.q_proj.weight[queries] = 0
            previous.q_proj.weight[head * size + front, 0] = 1.0
            previous.o_proj.weight[:, queries] = where * (3 * EMBEDDING_STD / per_group)
            induction.q_proj.weight[queries] = 0
            induction.q_proj.weight[head * size + back] = 3 * what.T[back]
            induction.o_proj.weight[:, queries] = what * (8 * EMBEDDING_STD / per_group)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the half-split form."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made nearly orthogonal (Jordan, 2024, "Muon"), for matrices only."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update; matrices of one shape go through Newton-Schulz together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                updates = orthogonalize(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-scale)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        buffer = state.setdefault("momentum", torch.zeros_like(parameter))
        assert parameter.grad is not None
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz steps with Jordan's quintic coefficients; matrices: (count, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


@dataclass(frozen=True)
class Batch:
    """Padded ids, and the targets split into those inside and those outside the answers."""

    token_ids: Tensor
    answers: Tensor
    others: Tensor


def make_batch(examples: list[Example], pad_id: int) -> Batch:
    """Pad the examples on the right; targets are the next tokens."""
    length = max(len(ids) for ids, _ in examples)
    token_ids = torch.full((len(examples), length), pad_id)
    answers = torch.full((len(examples), length - 1), IGNORED)
    others = torch.full((len(examples), length - 1), IGNORED)
    for row, (ids, spans) in enumerate(examples):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        others[row, : len(ids) - 1] = token_ids[row, 1 : len(ids)]
        others[row, torch.rand(length - 1) > OTHER_SHARE] = IGNORED
        for start, end in spans:
            answers[row, start - 1 : end - 1] = token_ids[row, start:end]
            others[row, start - 1 : end - 1] = IGNORED
    return Batch(token_ids, answers, others)


def encoded(tokenizer: Tokenizer, source: Iterator[Conversation], count: int, max_length: int) -> list[Example]:
    """`count` conversations as token ids and answer spans, the too long ones left out."""
    drawn = (encode_conversation(tokenizer, conversation.messages) for conversation in source)
    return list(islice((example for example in drawn if len(example[0]) <= max_length), count))


def training_part(tokenizer: Tokenizer, seed: int, part: int, max_length: int, is_easy: bool) -> list[Example]:
    """The examples of one part: short conversations if easy, else all lengths with exercises in copying."""
    limit = EASY_LENGTH if is_easy else max_length
    repetition_share = 0.0 if is_easy else REPETITION_SHARE
    source = conversations(f"{seed}/{part}", TRAINING, 6, ANSWERABLE_SHARE, repetition_share)
    return encoded(tokenizer, source, PART_SIZE, limit)


def batches(
    tokenizer: Tokenizer, seed: int, num_tokens: int, first: int, max_length: int, num_easy_parts: int
) -> Iterator[Batch]:
    """Endless batches of about `num_tokens`, each of similar lengths; `first` skips to that batch."""
    pad_id = tokenizer.token_to_id(PAD)
    done = 0
    for part in range(1_000_000):
        rng = random.Random(f"{seed}/{part}")
        drawn = training_part(tokenizer, seed, part, max_length, is_easy=part < num_easy_parts)
        examples = sorted(drawn, key=lambda example: len(example[0]))
        groups: list[list[Example]] = [[]]
        for example in examples:
            if (len(groups[-1]) + 1) * len(example[0]) > num_tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            done += 1
            if done > first:
                yield make_batch(group, pad_id)


def target_loss(model: Llama, hidden: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over the targets that are not ignored."""
    is_target = targets != IGNORED
    return functional.cross_entropy(model.logits(hidden[is_target]).float(), targets[is_target])


@torch.no_grad()
def exact_match(model: Llama, examples: list[Example], pad_id: int) -> float:
    """Share of answers that greedy decoding gives exactly (each token is the argmax given the true ones before it)."""
    num_right = num_answers = 0
    examples = sorted(examples, key=lambda e: len(e[0]))
    for start in range(0, len(examples), 32):
        group = examples[start : start + 32]
        predicted = model.logits(model(make_batch(group, pad_id).token_ids)).argmax(-1)
        for row, (ids, spans) in enumerate(group):
            num_answers += len(spans)
            num_right += sum(predicted[row, a - 1 : b - 1].tolist() == ids[a:b] for a, b in spans)
    return num_right / num_answers


def learning_rate(step: int, num_steps: int, num_warmup: int, decay_share: float = 0.5) -> float:
    """Share of the top rate: linear up, level, then a cosine down over the last steps."""
    num_decay = int(num_steps * decay_share)
    left = min(1.0, (num_steps - step) / max(1, num_decay))
    return min(1.0, (step + 1) / num_warmup) * 0.5 * (1 - math.cos(math.pi * left))


def save_model(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (float16), configurations and tokenizer."""
    save_tokenizer(tokenizer, folder)
    weights = {f"model.{name}": value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    bos_id, end_id, pad_id = (tokenizer.token_to_id(token) for token in (BOS, END, PAD))
    ids = {"bos_token_id": bos_id, "eos_token_id": end_id, "pad_token_id": pad_id}
    config = (
        asdict(model.config)
        | ids
        | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
        }
    )
    generation = ids | {"do_sample": False, "max_new_tokens": 64}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def train(options: argparse.Namespace) -> None:
    """Train to the end, starting from the last checkpoint in the work folder if there is one."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer_path, checkpoint_path = options.work / "tokenizer.json", options.work / "checkpoint.pt"
    if options.start:
        shutil.copy(options.start / "tokenizer.json", tokenizer_path)
    elif not tokenizer_path.exists():
        train_tokenizer().save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    pad_id = tokenizer.token_to_id(PAD)
    model = Llama(LlamaConfig(vocab_size=tokenizer.get_vocab_size()))
    for layer in model.layers[:2]:
        layer.self_attn.requires_grad_(False)  # where copying was put in place: the first updates would undo it
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and p.requires_grad and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name]
    optimizers = [
        Muon(matrices, options.matrix_lr),
        torch.optim.AdamW(rest, options.lr, (0.9, 0.98), weight_decay=0.0),
    ]
    top_rates = [options.matrix_lr, options.lr]
    first = 0
    if options.start:
        weights = load_file(str(options.start / "model.safetensors"))
        model.load_state_dict({name.removeprefix("model."): value.float() for name, value in weights.items()})
    if checkpoint_path.exists():
        state = torch.load(checkpoint_path, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    held_out = encoded(tokenizer, conversations("held-out", NEW_BOTH, 3), 200, options.max_length)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, from step {first} to {options.steps}",
        flush=True,
    )

    started, num_seen, running = time.monotonic(), 0, 0.0
    num_easy_parts = 0 if options.start else NUM_EASY_PARTS
    source = batches(tokenizer, options.seed, options.batch_tokens, first, options.max_length, num_easy_parts)
    for step, batch in zip(range(first, options.steps), source, strict=False):
        share = learning_rate(step, options.steps, options.warmup)
        for optimizer, top in zip(optimizers, top_rates, strict=True):
            optimizer.param_groups[0]["lr"] = top * share
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(batch.token_ids)[:, :-1]
            losses = [target_loss(model, hidden, targets) for targets in (batch.answers, batch.others)]
        loss, other_loss = losses
        (loss + options.other_share * other_loss).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        num_seen += batch.token_ids.numel()
        running = loss.item() if step == first else 0.95 * running + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            speed = num_seen / (time.monotonic() - started)
            print(
                f"step {step + 1} loss {running:.4f} other {other_loss.item():.3f} {speed:.0f} tokens/s",
                flush=True,
            )
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            score = exact_match(model, held_out, pad_id)
            print(
                f"step {step + 1} held-out exact match {score:.1%} {time.monotonic() - started:.0f} s",
                flush=True,
            )
            state = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
            }
            torch.save(state, checkpoint_path)
            save_model(model, tokenizer, options.out)


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints; outside the repository")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--start", type=Path, help="a folder that this wrote: its tokenizer and weights are where to start"
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH)
    parser.add_argument("--matrix-lr", type=float, default=0.01)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--other-share", type=float, default=0.2, help="weight of the loss outside the answers")
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
