"""Measuring here: how fast a model embeds, and which settings make it fastest; charts of it."""
