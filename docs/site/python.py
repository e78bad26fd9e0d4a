"""Names what the page of the Python interface has; mkdocstrings reads docstrings and signatures from the source."""

from __future__ import annotations

OFFERED = {
    "Runs": ("workbench", ["load", "train", "sweep"]),
    "What these return": ("", ["LoadedModel", "Training", "Swept"]),
    "Objectives as sums of terms": ("workbench.terms", ["Term", "Terms", "Scale"]),
    "Contracts of components": ("workbench.types", ["Objective", "Encoder", "Fusion", "Data", "Evaluator", "Context"]),
    "Values that components exchange": (
        "workbench.values",
        ["Side", "View", "Features", "Pool", "Batch", "Loss", "Modality", "Split", "Items"],
    ),
    "Losses in linear memory": (
        "kernels",
        ["multi_positive_infonce", "multi_positive_sigmoid", "contrast_lse", "khatri_rao_lse", "set_scratch_limit"],
    ),
}
"""{heading: (where it is imported from, what is documented of it)}"""
RETURNED = {
    "LoadedModel": "workbench.runs.inference",
    "Training": "workbench.studies.calls",
    "Swept": "workbench.studies.sweep_results",
}
"""{class that nobody imports: its module}"""


def write_python() -> str:
    """Write a directive of mkdocstrings for everything that is offered."""
    text = [
        "# Python\n\nWhat may be imported, and stays. Shapes are types: `Float[Tensor, 'b d']` has b rows of width d.\n"
    ]
    for heading, (package, offered) in OFFERED.items():
        intro = f"`from {package} import {', '.join(offered)}`\n" if package else ""
        text += [f"## {heading}\n", intro, *(f"::: {package or RETURNED[name]}.{name}\n" for name in offered)]
    return "\n".join(text)
