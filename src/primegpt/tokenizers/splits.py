"""How others' byte-level tokenizers split text before they merge: the published expressions, by the names GGUF has.

A split is a list of steps of Hugging Face's `tokenizers`, each of which cuts what the one before it left. The table's
expressions are those of the models' own tokenizer.json files, which llama.cpp knows by these names.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from primegpt.errors import quoted

Step = dict[str, Any]

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{ENDS}"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{ENDS}"
QWEN35 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|\p{{N}}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = _CASED % (f"{CONTRACTIONS}?", f"{CONTRACTIONS}?", "{1,3}")
TEKKEN = _CASED % ("", "", "")
DEEPSEEK_LETTERS = (  # escaped where an editor would make another letter of it
    r"\s?["
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ"
    "-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-"
    "ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
GEMMA = r"[^\n]+|[\n]+"
_CJK = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> Step:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def digits(*, one_by_one: bool) -> Step:
    return {"type": "Digits", "individual_digits": one_by_one}


PUNCTUATION: Step = {"type": "Punctuation", "behavior": "Contiguous"}
_DEEPSEEK = [
    split(r"[\r\n]"),
    split(DEEPSEEK_LETTERS),
    split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
    split(r"\s+$"),
    split(_CJK),
    digits(one_by_one=False),
]
_DEEPSEEK_CODER = [split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(_CJK), digits(one_by_one=True)]
# Splits, and the names under which a GGUF file (tokenizer.ggml.pre) keeps them.
_NAMES: list[tuple[list[Step], str]] = [
    ([split(GPT2)], "gpt-2 phi-2 mpt olmo jais roberta-bpe exaone4 trillion"),
    ([split(LLAMA3)], "llama3 llama-v3 llama-bpe falcon3 pixtral lfm2 dbrx smaug-bpe glm4 chatglm-bpe"),
    ([split(QWEN2)], "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan"),
    ([split(QWEN35)], "qwen35"),
    ([split(O200K)], "gpt-4o llama4"),
    ([split(TEKKEN)], "tekken"),
    ([digits(one_by_one=True), split(GPT2)], "smollm starcoder refact command-r codeshell exaone minerva-7b"),
    ([PUNCTUATION, split(GPT2), split("[0-9][0-9][0-9]")], "falcon"),
    (_DEEPSEEK, "deepseek-llm"),
    (_DEEPSEEK_CODER, "deepseek-coder"),
    ([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(_DEEPSEEK3)], "deepseek-v3"),
]
BY_NAME = {name: steps for steps, names in _NAMES for name in names.split()}
# Those that take a whole piece of the vocabulary without merging.
IGNORE_MERGES = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2", "glm4", "tekken"})

KNOWN = frozenset(
    step["pattern"]["Regex"] for steps in BY_NAME.values() for step in steps if step["type"] == "Split"
) | {CL100K, GEMMA}


# ---- expressions of whoever wrote the file

MAX_PATTERN = 20_000  # characters
SECONDS = 10.0
_LOOP_OF_GROUP = re.compile(r"\)[*+]|\)\{\d*,\}")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]", re.DOTALL)
# What is run over each step in a process of its own, which can be stopped.
_TRIAL = """
import json, sys
from tokenizers import Tokenizer
document, texts = json.load(sys.stdin)
tokenizer = Tokenizer.from_str(json.dumps(document))
for text in texts:
    tokenizer.encode(text)
"""


def refuse_slow_patterns(document: Mapping[str, Any], patterns: Sequence[str]) -> None:
    """Raise ValueError for an expression that could take minutes over a page.

    One that is published is known. Of any other, none may repeat a group without end, the root of exponential
    backtracking; and all of them together are tried on runs of what they look for, in a process that is stopped if
    that takes long.
    """
    unknown = [pattern for pattern in patterns if pattern not in KNOWN]
    for pattern in unknown:
        bare = _CLASS.sub("x", _ESCAPED.sub("x", pattern))
        if len(pattern) > MAX_PATTERN or _LOOP_OF_GROUP.search(bare):
            raise ValueError(f"its expression {quoted(pattern)} repeats a group, which may take for ever")
    if not unknown:
        return
    import json

    trial = {**document, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}
    given = json.dumps([trial, list(_trying(unknown))])
    command = [sys.executable, "-I", "-c", _TRIAL]  # -I: no module of the current folder, whoever filled it
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS, text=True, encoding="utf-8")
    except subprocess.TimeoutExpired:
        raise ValueError(f"its expression {quoted(unknown[0])} takes more than {SECONDS:.0f} s over a page") from None
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        raise ValueError(f"its expression {quoted(unknown[0])} cannot be used: {last[:200]}")


def _trying(patterns: Sequence[str]) -> Iterator[str]:
    """Runs of what the expressions may look for, short enough for what is quadratic."""
    letters = dict.fromkeys("aZé語0 \n\t.-'_\u0301" + "".join(c for pattern in patterns for c in pattern[:500]))
    for letter in list(letters)[:200]:
        yield letter * 3000
    yield "The quick brown fox's 12,345 words -- and   more.\r\n\r\n" * 60
    yield "".join(letters) * 20
