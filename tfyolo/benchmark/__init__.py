"""How fast a run and its exports detect on this machine, in turns with other programs."""
