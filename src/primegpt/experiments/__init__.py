"""Controlled experiments: arms that differ in one thing, what they are measured on, and what came out, drawn."""
