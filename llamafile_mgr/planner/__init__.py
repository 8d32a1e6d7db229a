"""Model x file x machine -> plan: engine, sizes, GPUs and memory, with reasons; recommendations, scores."""
