"""From what was asked for to plans for this machine: the wanted models, their files, what tuning measured."""
