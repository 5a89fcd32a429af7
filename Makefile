.PHONY: check lint types imports test format figures

check: lint types imports test

format:
	ruff format .
	ruff check --fix .

lint:
	ruff format --check .
	ruff check .

types:
	mypy

imports:
	lint-imports

test:
	pytest

# What docs/figures.md shows. DATA is the LGG set's folder; run it while nothing else runs.
NETWORK = lgg-unet-efficientnet-lite0
HELD_BACK = --data $(DATA) --patients calibration/validation-patients.txt
figures:
	edgeseg build-engine engines/$(NETWORK)/weights.safetensors --fp32 -o build/fp32 $(HELD_BACK) --json > benchmarks/results/parity_fp32.json
	edgeseg parity $(NETWORK)-fp16 $(HELD_BACK) --json > benchmarks/results/parity_fp16.json
	edgeseg evaluate $(NETWORK)-fp16 $(HELD_BACK) --json > benchmarks/results/evaluate.json
	python benchmarks/intensity_rule.py $(DATA)
	python benchmarks/robustness.py $(NETWORK)-fp16 $(DATA) --patients calibration/validation-patients.txt
	python benchmarks/examples.py
	python benchmarks/footprint.py
