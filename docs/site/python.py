"""Names what the page of the Python interface has; mkdocstrings reads docstrings and signatures from the source."""

from __future__ import annotations

OFFERED = {
    "Runs": ("workbench", ["load", "train", "sweep"]),
    "What these return": (
        "workbench",
        ["runs.inference.LoadedModel", "studies.calls.Training", "studies.sweep_results.Swept"],
    ),
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
"""{heading: (package, what is documented of it)}"""


def write_python() -> str:
    """Write a directive of mkdocstrings for everything that is offered."""
    text = [
        "# Python\n\nWhat may be imported, and stays. Shapes are types: `Float[Tensor, 'b d']` has b rows of width d.\n"
    ]
    for heading, (package, offered) in OFFERED.items():
        text += [f"## {heading}\n\nof `{package}`\n", *(f"::: {package}.{name}\n" for name in offered)]
    return "\n".join(text)
