"""What tests share: models made on the spot, and the program run as its users run it."""
