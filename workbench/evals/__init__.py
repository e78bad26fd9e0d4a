"""Evaluators: each yields (name, value) facts about a model; the engine decides when. One class per file."""
