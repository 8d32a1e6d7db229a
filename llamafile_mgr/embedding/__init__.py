"""What an embedding call means: prompts, lengths, the cache, checks of engines, and the vector space."""
