"""What an output must match: schemas, patterns and grammars, compiled to token masks in a killable process."""
