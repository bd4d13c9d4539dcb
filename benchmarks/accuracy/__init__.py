"""How exact the numbers are, against what is known to be true."""
