"""Engine families: what each kind of engine program is told, how it is asked, and the connections to it."""
