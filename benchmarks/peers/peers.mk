# make bench-peers: the peers' environments, each made once, then ours and each peer in turn.
# A peer that cannot be installed leaves its reason in `failed`, and the table shows it.

PEERS := .venv-peers
PEER_ENVIRONMENTS := transformers llama openvino onnx convert vllm
PEER_TIMEOUT ?= 1800

.PHONY: bench-peers bench-encoders clean-peers

bench-peers: $(VENV)/installed $(PEER_ENVIRONMENTS:%=$(PEERS)/%/tried)
	$(BIN)/python -m benchmarks.peers.run $(ARGS)

bench-encoders: $(VENV)/installed $(VENV)/dev $(PEERS)/encoders/tried
	$(BIN)/python -m benchmarks.encoder $(ARGS)

# A failed installation is tried again when its requirements change, or after `make clean-peers`.
# torchvision, torchaudio and torchcodec come along with some peers and refuse to load beside a CPU build of torch.
# gcc 12 drops the stores of a tile configuration before _tile_loadconfig (findings/gcc-drops-tile-configuration.sh), and
# llama.cpp crashes where the processor has AMX: it is compiled without the elimination of dead stores.
$(PEERS)/%/tried: benchmarks/peers/requirements/%.txt
	@mkdir -p $(PEERS)
	rm -rf $(PEERS)/$*
	$(PYTHON) -m venv $(PEERS)/$*
	@echo 'installing the peer environment $*; its log is $(PEERS)/$*/log'
	@timeout $(PEER_TIMEOUT) env CMAKE_ARGS='-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF' CXXFLAGS='-fno-tree-dse -fno-dse' \
	  $(PEERS)/$*/bin/pip install --progress-bar off -r $< >$(PEERS)/$*/log 2>&1 \
	  && { $(PEERS)/$*/bin/pip uninstall --yes torchvision torchaudio torchcodec >>$(PEERS)/$*/log 2>&1; true; } \
	  || { grep -v '^WARNING' $(PEERS)/$*/log | tail -n 1 | cut -c 1-200 >$(PEERS)/$*/failed; \
	       echo 'peer environment $* failed:'; cat $(PEERS)/$*/failed; }
	@touch $@

clean-peers:
	rm -rf $(PEERS)
