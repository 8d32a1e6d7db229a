"""Processes stay alive: engines and remotes of each model, the queue of its calls, and what is sent again."""
