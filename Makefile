.PHONY: check lint types imports test format figures batches speed folds seeds

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
	edgeseg evaluate $(NETWORK)-int8 $(HELD_BACK) --json > benchmarks/results/evaluate_int8.json
	python benchmarks/intensity_rule.py $(DATA)
	python benchmarks/robustness.py $(NETWORK)-fp16 $(DATA) --patients calibration/validation-patients.txt
	python benchmarks/examples.py
	python benchmarks/phantoms.py
	python benchmarks/alignment.py $(DATA)
	python benchmarks/footprint.py
	python benchmarks/throughput.py

# Archives of 100, 300 and 1,000 studies, and a hundred kills (an hour or two).
batches:
	python benchmarks/archive.py --series flair
	python benchmarks/interruptions_batch.py

# What docs/speed.md shows (an hour or two; while nothing else runs).
WHOLE_WAY = --end-to-end build/archive --format dicom-seg --format nifti --format report --rounds 5 --json
speed:
	rm -rf build/archive && python benchmarks/studies.py build/archive --studies 40
	edgeseg benchmark lgg-unet-efficientnet-lite0-int8 $(WHOLE_WAY) --chart docs/images/end_to_end.png > benchmarks/results/end_to_end_efficientnet-lite0.json
	edgeseg benchmark lgg-unet-resnet34-int8 $(WHOLE_WAY) > benchmarks/results/end_to_end_resnet34.json
	python benchmarks/cluster.py
	python benchmarks/archive.py --studies 10 40 400 --slices 15 --format dicom-seg nifti report --json benchmarks/results/archive_three_series.json
	python benchmarks/peers.py
	edgeseg benchmark --startup --json > benchmarks/results/startup.json

# The five folds, trained one after the other (hours; --resume goes on), and measured on patients that each has not seen.
RUNS = runs/folds
folds:
	edgeseg train benchmarks/five_folds.yaml --data $(DATA) -o $(RUNS) $(if $(wildcard $(RUNS)/fold-0/checkpoint.pt),--resume)
	python benchmarks/cross_validation.py $(RUNS) $(DATA)

# The published protocol with EfficientNet-lite0, three seeds; its configuration is the published one but for encoder and batch.
# Then ResNet34 from random weights, for longer.
seeds:
	mkdir -p build
	for seed in 1 2 3; do \
	  sed "s/seed: 1/seed: $$seed/" benchmarks/seed_protocol.yaml > build/seed-$$seed.yaml && \
	  edgeseg train build/seed-$$seed.yaml --data $(DATA) -o runs/seed-$$seed --compare published; \
	done
	edgeseg train benchmarks/seed_protocol_resnet34.yaml --data $(DATA) -o runs/seed-resnet34 --compare published
	python benchmarks/seed_protocol.py runs/seed-1 runs/seed-2 runs/seed-3 runs/seed-resnet34 --data $(DATA)
