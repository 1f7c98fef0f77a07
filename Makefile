# Needs Python >= 3.11, make and git; the rest goes to .venv.
#
#   make PYTHON=python3.12 setup      another Python than the first on the PATH
#   make demo PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"      torch without CUDA
#   make results DATA=CamVid ESPNET=espnet_p2q8_camvid.safetensors      the pages of measurements, printed anew
#   make bench DATA=CamVid CITYSCAPES=Cityscapes CITYSCAPES_ESPNET=espnet_p2q8_cityscapes.safetensors      with both's

PYTHON ?= python3
PIP_EXTRA ?=
DATA ?=
ESPNET ?=
CITYSCAPES ?=
CITYSCAPES_ESPNET ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOO_OLD := rectiseg needs Python 3.11 or newer, and $(PYTHON) is older or missing: name another, as in "make PYTHON=python3.12 setup".
NO_DATA := make results measures on CamVid, beside ESPNet: name both, as in "make results DATA=CamVid ESPNET=espnet_p2q8_camvid.safetensors".

# Other libraries' models, pictures and measures, which only tests look at. Without their dependencies: torchvision's
# and timm's would bring a second torch.
ORACLES := timm torchvision segmentation-models-pytorch scikit-image torchmetrics lightning-utilities cityscapesScripts

# Table 2's GRN goes on learning from this one, of four epochs after an earlier front.
FIRST_GRN := b345b88:src/rectiseg/weights/camvid_lite.safetensors

REUSED_MEMORY := glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184

.PHONY: setup check test soak demo bench docs results

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo '$(TOO_OLD)' >&2; exit 1; }
	@echo "Installing into $(VENV): this takes minutes where torch has to be downloaded."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]' -c constraints.txt $(PIP_EXTRA)
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps $(ORACLES) -c constraints.txt $(PIP_EXTRA)
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps pydensecrf2 -c constraints.txt $(PIP_EXTRA) \
		|| echo "pydensecrf2 needs a C++ compiler, and its build failed: the test that compares our CRF with it is skipped."
	@$(BIN)/python -m rectiseg.ops
	@touch $@

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m soak -rP

demo: setup
	$(BIN)/rectiseg predict examples/street.jpg -o demo --panel --overlay
	@echo "Open demo/street_panel.png: the picture, the parser's labels and the rectified labels."

bench: setup
	@echo "# Benchmarks"; echo; echo "Printed by \`make bench\`."; echo
	@GLIBC_TUNABLES=$(REUSED_MEMORY) $(BIN)/python benchmarks/propagate.py
	@$(BIN)/python benchmarks/propagate.py
	@GLIBC_TUNABLES=$(REUSED_MEMORY) $(BIN)/python benchmarks/propagate.py --num-classes 150 --height 512 --width 512
	@$(BIN)/python benchmarks/propagate_gpu.py
	@$(BIN)/python benchmarks/refiners.py
	@$(BIN)/python benchmarks/contested.py $(if $(DATA),--camvid '$(DATA)') \
		$(if $(CITYSCAPES),--cityscapes '$(CITYSCAPES)' --espnet '$(CITYSCAPES_ESPNET)')
	@$(BIN)/python benchmarks/crf.py
	@$(BIN)/python benchmarks/modes.py
	@$(BIN)/python benchmarks/scaling.py
	@$(BIN)/python benchmarks/large_image.py

docs: setup
	$(BIN)/mkdocs build --strict
	@echo "Open site/index.html."

# Not $(MAKE) in its last line: `make -n results` would run that, and empty the page.
results: setup
	@test -n '$(DATA)' -a -n '$(ESPNET)' || { echo '$(NO_DATA)' >&2; exit 1; }
	$(BIN)/python benchmarks/model_card.py --data '$(DATA)' --espnet '$(ESPNET)' -o docs
	mkdir -p runs
	git show $(FIRST_GRN) > runs/first.safetensors
	$(BIN)/rectiseg table2 camvid_lite --data '$(DATA)' --seeds 0 1 2 --grn-seeds 0 1 --grn-weights runs/first.safetensors \
		--measured benchmarks/table2/camvid_lite --no-train > runs/table2.md
	mv runs/table2.md docs/table2.md
	$(BIN)/python docs/commands.py > docs/commands.md
	make -s bench > docs/benchmarks.md
