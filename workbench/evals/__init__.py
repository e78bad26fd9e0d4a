"""Evaluators: each yields (name, value) facts about a model; the engine decides when. One class per file.

The trap: a model of several modalities has many ways to ask, and each objective forms them in its own way (a fusion, a
product, a mean of cosines): `Objective.ask`. An evaluation that forms them otherwise measures what was never trained.
"""
