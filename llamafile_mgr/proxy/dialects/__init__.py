"""Client APIs: each file is one dialect or what several share, and `dialect_table` lists them."""
