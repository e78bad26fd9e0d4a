"""The head noun of a sentence about a thing: "A head of red lettuce." is about lettuce, "A lion's cub." about a cub.

The trap: one thing is called by many sentences ("An apple.", "Some red apples!"), and whoever splits by sentences tests
on things that were trained on. These rules need no model of language and hold for noun phrases as picture books write
them; where they take another word than a linguist would, two things share a group, and no thing is on both sides.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[a-z0-9]+")
PHRASE_ENDS = re.compile(r"[.!?;:()—–,“”\"]|\s-\s")
FRAME = re.compile(r"^(this|these|that|here|it|there)\s+(is|are|s)\s+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the some this these that another two three four my your his her its")
BREAKS = _words(
    "with in on at from for to by or that which who whose is are was has have when where after before under over into "
    "called about like as inside near used known without during made being means stands lets gets carries resembles "
    "covered dancing hatched holding making playing wearing worn"
)
"""words that end a noun phrase: what stands behind them says something of its head"""
MEASURES = _words(
    "bag bar bottle bowl box branch bunch can carton clove cluster cup ear glass group half handful head heap jar kind "
    "loaf lot mug pair part patch piece pile plate pod pot row set side slice stack stick type variety version view"
)
"""heads of "X of Y" that count or hold Y: the thing is Y"""
NO_PLURAL = _words("glass bus cactus dress compass octopus walrus lens iris asparagus hippopotamus christmas news")
IRREGULAR = {
    "mice": "mouse", "geese": "goose", "teeth": "tooth", "feet": "foot", "leaves": "leaf", "loaves": "loaf",
    "children": "child", "men": "man", "women": "woman", "people": "person", "wolves": "wolf", "knives": "knife",
    "dice": "die", "oxen": "ox", "fishes": "fish", "calves": "calf", "potatoes": "potato", "tomatoes": "tomato",
}  # fmt: skip


def head_noun(sentence: str) -> str:
    """Return the head noun in small letters and in the singular; "" where the sentence has no word.

    The head is the last word of the first noun phrase, before any preposition or comma; behind "a slice of", and other
    words that measure, the phrase goes on.
    """
    phrase = FRAME.sub("", PHRASE_ENDS.split(_plain(sentence), maxsplit=1)[0].strip())
    words = WORD.findall(phrase)
    while words and words[0] in ARTICLES:
        words = words[1:]
    head: list[str] = []
    for at, word in enumerate(words):
        if head and word == "of":
            if singular(head[-1]) in MEASURES and at + 1 < len(words):
                head = []
                continue
            break
        if head and word in BREAKS:
            break
        head += [word] if word not in ARTICLES else []
    return singular((head or words or WORD.findall(_plain(sentence)) or [""])[-1])


def _plain(sentence: str) -> str:
    """Write a sentence in small letters, without the marks of possession."""
    text = sentence.strip().lower().replace("’", "'").strip(" .!?\"“”'")
    return re.sub(r"'s?\b", "", text)


def singular(word: str) -> str:
    """Return the singular of a noun, by the rules of English spelling and a list of what they miss."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) < 4 or word in NO_PLURAL or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1]
