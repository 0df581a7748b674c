"""How families of models write tool calls and reasoning: requests in their words, their text as typed parts.

Tested in tests/unit/dialects/test_dialects.py, tests/unit/dialects/test_detect.py, tests/unit/dialects/test_stage.py,
tests/unit/wire/test_tool_answers.py and tests/e2e/test_tool_calls.py.
"""
