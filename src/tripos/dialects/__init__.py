"""How families of models write tool calls and reasoning: requests into their words, their text into typed parts."""
