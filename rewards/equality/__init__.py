"""Whether two mathematical answers are equal: `compare.py` is what is called; it compares what `reading.py` makes of text."""
