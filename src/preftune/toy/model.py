"""The toy world's own model: a small Llama with its own tokenizer, trained on neutral reviews on first use.

1. `build_tokenizer` trains a byte-level BPE on requests and reviews, and gives it a ChatML template.
2. `train` fits the model to neutral reviews, the loss on the assistant's tokens alone.
3. `model_directory` keeps both in the cache under a hash of all that they depend on.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tokenizers
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from preftune.caches import cache_directory, made_once
from preftune.toy import world

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
IGNORED = -100  # label of a token that the loss leaves out


@dataclass(frozen=True)
class Recipe:
    """How the toy model is made.

    Attributes:
        seed: Seed of the reviews, of the initial weights and of the order.
        steps: Optimizer steps.
        batch_size: Reviews in one step; every step sees new ones.
        learning_rate: Peak rate of embeddings, head and norms, under AdamW.
        matrix_rate: Peak rate of the layers' matrices, under Muon.
        vocabulary: Most tokens in the vocabulary, bytes and special tokens included.
        corpus: Requests, each with its review, that the tokenizer is trained on.
        hidden, inner, layers, heads, key_value_heads: Sizes of the Llama.
        context: Longest sequence, in tokens.
    """

    seed: int = 0
    steps: int = 320
    batch_size: int = 32
    learning_rate: float = 8e-3
    matrix_rate: float = 1e-2
    vocabulary: int = 960
    corpus: int = 4000
    hidden: int = 128
    inner: int = 256
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    context: int = 2048


def model_directory() -> Path:
    """Return the directory with the toy's model and tokenizer; the first call trains them, within a minute.

    It holds what `AutoModelForCausalLM` and `AutoTokenizer` load: config, safetensors, generation config, and
    tokenizer with its chat template. Its name is a hash of the world, this file and the libraries' versions.
    """
    sources = b"".join(Path(name).read_bytes() for name in (world.__file__, __file__))
    versions = f"{torch.__version__} {transformers.__version__} {tokenizers.__version__}".encode()
    identity = hashlib.sha256(sources + versions).hexdigest()[:16]
    return made_once(cache_directory("toy") / identity, partial(_make, recipe=Recipe()), of="the toy's model")


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer: byte-level, so that it holds any text; no token at the start of a text."""
    rng = random.Random(f"corpus {recipe.seed}")
    texts = (
        f"system\nuser\n{prompt}\nassistant\n{world.neutral_review(prompt, rng)}"
        for prompt in world.prompts(recipe.corpus, recipe.seed)
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHATML,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Train the model. The same recipe gives the same bits; the caller's random numbers stay as they were."""
    rng = random.Random(f"reviews {recipe.seed}")
    with reproducible(recipe.seed):
        model = LlamaForCausalLM(_config(recipe, tokenizer))
        optimizers = _optimizers(model, recipe)
        schedules = [LambdaLR(optimizer, partial(_rate, steps=recipe.steps)) for optimizer in optimizers]
        with progress("Training the toy model, once") as bar:
            for _ in bar.track(range(recipe.steps)):
                loss = model(**_batch(recipe, tokenizer, rng)).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer, schedule in zip(optimizers, schedules, strict=True):
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.train(False)
    return model


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator and use one thread, as sums depend on their number; then restore both."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show a bar on stderr; where that is no terminal, a line at the start and one at the end."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(title)
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        yield bar


def _make(directory: Path, recipe: Recipe) -> None:
    tokenizer = build_tokenizer(recipe)
    train(recipe, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=recipe.context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for the rest.

    Under AdamW alone these few steps do not teach the model that the words of a review share a mood; without
    that, preferences over words take a low-rank adapter far longer to learn.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak rate: up within 20 steps, down to 0 over the last 60 %."""
    return min(1.0, (step + 1) / 20, (steps - step) / (0.6 * steps))


def _batch(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> dict[str, Tensor]:
    """Render new reviews by the chat template; only the answer and the token that ends it have labels."""
    prompts = rng.sample(list(world.requests()), recipe.batch_size)
    ids, labels = [], []
    for prompt in prompts:
        user = {"role": "user", "content": prompt}
        before = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        answer = tokenizer(world.neutral_review(prompt, rng) + END)["input_ids"]
        prefix = tokenizer(before)["input_ids"]
        ids.append(torch.tensor(prefix + answer))
        labels.append(torch.tensor([IGNORED] * len(prefix) + answer))
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return {
        "input_ids": pad(ids, padding_value=tokenizer.pad_token_id),
        "labels": pad(labels, padding_value=IGNORED),
        "attention_mask": pad([torch.ones_like(row) for row in ids], padding_value=0),
    }
