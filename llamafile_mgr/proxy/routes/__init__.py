"""What the routes of several dialects share, once a dialect has read its body."""
