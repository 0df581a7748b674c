"""Tool calls and reasoning in models' own words: read out of text, and written into grammars. Pure translation."""
