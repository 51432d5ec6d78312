# The two main commands are make demo and make test. Each installs missing packages first.
SHELL := /bin/bash
JOBS ?= $(shell nproc)

.PHONY: help demo build wheel deb test test-python bench bench-gguf bench-serving bench-python quality fuzz format lint clean

help:
	@echo 'make demo    build, generate images with the demo model, in process and through Triton: out/'
	@echo 'make build   build flux-triton, the Triton backend and, with nvcc, what computes on GPUs: build/'
	@echo 'make wheel   a wheel for any Python from 3.10 on: dist/'
	@echo 'make deb     Debian packages: dist/'
	@echo 'make test    style, build, unit and golden tests, sanitizers, clang-tidy, command line'
	@echo 'make test-python  the models in Python, alone and mixed with native ones (installs torch)'
	@echo 'make bench   compare with diffusers on this CPU (installs torch under build/)'
	@echo 'make bench-gguf  compare with stable-diffusion.cpp on GGUF files of full size (30 GB; builds it)'
	@echo 'make bench-serving  perf_analyzer against the server, and what the server adds to a step'
	@echo 'make bench-python  native models and those in Python in the same server (installs torch)'
	@echo 'make quality  what each dtype and number of steps costs in quality, with the demo model'
	@echo 'make fuzz    build the fuzz targets and run each for a minute (FUZZ_SECONDS=60)'
	@echo 'make format  format the C++ files'
	@echo 'make lint    style and clang-tidy only'
	@echo 'make clean   remove build directories'

demo: build
	@scripts/setup.sh serve
	@scripts/demo.sh build/cli/flux-triton

build:
	@scripts/setup.sh build
	@scripts/configure.sh default
	@cmake --build --preset default -j $(JOBS) --target product

wheel:
	@scripts/setup.sh build serve
	@scripts/make_wheel.sh

deb: build
	@cd build && cpack -B ../dist

test:
	@scripts/setup.sh build test
	@python3 scripts/run_tests.py --jobs $(JOBS)

test-python: build
	@scripts/setup.sh serve test
	@python3 scripts/test_python.py

bench: build
	@scripts/setup.sh bench
	@python3 bench/compare.py

bench-gguf: build
	@scripts/setup.sh bench
	@python3 bench/gguf.py

bench-serving: build
	@scripts/setup.sh serve bench
	@scripts/serving_venv.sh
	@.venv-serving/bin/python bench/serving.py

bench-python: build
	@scripts/setup.sh serve
	@scripts/serving_venv.sh
	@.venv-serving/bin/python bench/python_serving.py --python "$$(scripts/python_venv.sh)"

quality: build
	@scripts/setup.sh serve
	@scripts/serving_venv.sh
	@.venv-serving/bin/python bench/quality.py --output bench/results/quality.txt \
		--sheet docs/contact_sheet.png

fuzz:
	@scripts/setup.sh build test fuzz
	@python3 scripts/run_fuzz.py --jobs $(JOBS) --seconds $(or $(FUZZ_SECONDS),60)

format:
	@scripts/setup.sh build test
	@git ls-files -co --exclude-standard '*.cc' '*.h' '*.cu' | xargs clang-format-14 -i

lint:
	@scripts/setup.sh build test
	@python3 scripts/check_style.py
	@scripts/configure.sh default
	@python3 scripts/lint.py --build build --jobs $(JOBS)

clean:
	rm -rf build build-asan build-tsan build-fuzz build-wheel dist
