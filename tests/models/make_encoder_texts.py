"""What make_encoder_golden.py gave to the original implementations, and the tests give to ours."""

from __future__ import annotations

TEXTS = (
    "where is my card", "how do i get a new pin", "card", "the money was not sent to my bank account",
    "Where is MY lost card of the bank where i get money to a new account is it not", "zebra quux card",
)  # fmt: skip
PAIRS = (("where is my card", "card lost"), ("pin", "how do i get a new pin"), ("card", "zebra"), (TEXTS[4], TEXTS[3]))
