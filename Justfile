# What people do here. `just` lists it.

default:
    @just --list

# everything CI runs, in the current environment
check: lint test

lint:
    ruff check .
    ruff format --check .
    pyright
    lint-imports

# the whole default suite
test *ARGS:
    pytest {{ARGS}}

# under a minute
test-quick:
    pytest -m "not slow"

# contrastive losses against the dense one, time and memory as ratios of one run
bench-kernels *ARGS:
    python -m kernels.bench {{ARGS}}

fmt:
    ruff check --fix .
    ruff format .

# TensorBoard on the runs
board DIR="runs":
    wb board {{DIR}}
