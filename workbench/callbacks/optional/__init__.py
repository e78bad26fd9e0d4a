"""Callbacks that a recipe may name: `callbacks: [wandb]`. One class per file, like every component."""
