"""Trained models for people who do not have the workbench: written for a client, and verified in that client."""
