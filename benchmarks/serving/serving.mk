# make bench-serve: the other servers' environment, made once, then ours and each of them in turn.

SERVING := .venv-serving

.PHONY: bench-serve

bench-serve: $(VENV)/installed $(SERVING)/made
	$(BIN)/python -m benchmarks.serve --environment $(SERVING) $(ARGS)

$(SERVING)/made: benchmarks/serving/requirements.txt
	rm -rf $(SERVING)
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/pip install --quiet --only-binary :all: -r $<
	@touch $@
