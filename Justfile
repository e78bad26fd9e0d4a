# What people do here. `just` lists it.

default:
    @just --list

# everything CI runs, in the current environment
check: lint docs test

# kill -9 thirty times at random moments, and every other fault of docs/reliability.md: three minutes
test-faults KILLS="30":
    WB_FAULTS={{KILLS}} pytest tests/faults

# wrong recipes and odd folders for SECONDS in all, as `wb check` and `wb data inspect` see them: never a traceback or a hang
fuzz SECONDS="600":
    WB_FUZZ={{SECONDS}} pytest -s tests/recipe/test_fuzz.py tests/cli/test_inspect_fuzz.py

lint:
    ruff check .
    ruff format --check .
    pyright
    lint-imports
    python .ci/count_any.py

# the whole default suite
test *ARGS:
    pytest -n 3 {{ARGS}}

# without the slow tests: within a minute on two cores
test-quick:
    pytest -n 2 -m "not slow"

# the quick and the distributed tests with the oldest versions that pyproject.toml allows, in .venv-oldest: ten minutes, 7 GB
test-oldest *ARGS:
    .ci/oldest {{ARGS}}

# break the code on purpose, a named defect at a time: which ones no test notices; 23 minutes of a core for 479
mutate *ARGS:
    python tests/mutation/mutate.py {{ARGS}}

# write the golden curves anew; the commit says why
golden:
    WB_GOLDEN=renew pytest tests/golden/test_curves.py

# ViT-L/14 takes real steps, ViT-B/16 resumes, on the CPU: 8 GB of memory, 6 of disk, five minutes or more
test-large:
    pytest -s -m large

# contrastive losses against dense torch and their peers: a table, kernels/bench/results.csv and a plot
bench-kernels *ARGS:
    python -m kernels.bench {{ARGS}}

# time, memory and accuracy against the number of modalities: a CSV, a plot, a table; ten minutes of a core a seed
bench-modalities *ARGS:
    python -m workbench.bench.modalities {{ARGS}}

# the court on trial: 200 simulated claims with known truth; a table and docs/measured/claims.csv; seconds
bench-claims *ARGS:
    python -m workbench.bench.claims {{ARGS}}

# images a second of the loader beside open_clip's, on the same tars in turns: a table; ten minutes
bench-loader *ARGS:
    python -m workbench.bench.loader {{ARGS}}

# how often the intervals of wb synergy hold the exact value, on all 17 tasks: a CSV, a table; goes on where it was stopped
bench-synergy *ARGS:
    python -m workbench.bench.synergy {{ARGS}}

# memory, time and the loss's share of it against batch and micro-batch, of two modalities and three: a CSV, a plot, a table; ten minutes of a core
bench-memory *ARGS:
    python -m workbench.bench.memory {{ARGS}}

# which batch fits in 8, 24 and 80 GB for three models of open_clip: a table and a CSV; --check measures steps on this CPU
bench-fits *ARGS:
    python -m workbench.bench.batch_fits {{ARGS}}

# samples/s of `wb pretrain` against open_clip's own trainer, in alternating rounds: a table and a CSV; ten minutes on two cores
bench-train *ARGS:
    python -m workbench.bench.train {{ARGS}}

# CPU seconds of commands before they do anything, beside `import torch`: a table and a CSV; a minute and a half
bench-start *ARGS:
    python -m workbench.bench.start {{ARGS}}

# milliseconds of a small run's step, here and in `--other CHECKOUT`: a table and a CSV; a minute a round
bench-small-steps *ARGS:
    python -m workbench.bench.small_steps {{ARGS}}

# CPU seconds of a step of open_clip's towers, whole and with what nothing reads left out: a table and a CSV; a minute
bench-left-out *ARGS:
    python -m workbench.bench.left_out {{ARGS}}

# on a GPU, in nine minutes: check, tune, compare and profile the kernels; writes a report to DIR
bench-gpu DIR="bench-gpu" *ARGS:
    python -m kernels.bench.gpu --out {{DIR}} {{ARGS}}

# registers, spills and shared memory of every kernel configuration, compiled with no GPU
kernel-report *ARGS:
    python -m kernels.tiles.report {{ARGS}}

fmt:
    ruff check --fix .
    ruff format .

# TensorBoard on the runs
board DIR="runs":
    wb board {{DIR}}

# the documentation as a site in site/: a warning or a link to nothing fails; `mkdocs serve` shows it while one writes
docs *ARGS:
    NO_MKDOCS_2_WARNING=1 mkdocs build {{ARGS}}

# the picture of the house in docs, from the imports as they are
house:
    python docs/draw_house.py

# the verdicts, tables and pictures of docs/findings.md, from the values that `wb claim --keep docs/measured/claims` wrote
findings:
    python docs/draw_findings.py

# recalls of a sweep over tux, one-to-one and two-to-one, each arm against CLIP, as a CSV
compare-tux SWEEP CSV:
    #!/usr/bin/env bash
    set -euo pipefail
    metrics=(--metric test/mean_recall_1_to_1 --metric test/mean_recall_2_to_1)
    for k in 1 10; do
        for query in image_to_text text_to_image speech_to_text speech_to_image text_to_speech image_to_speech \
            image+speech_to_text text+speech_to_image image+text_to_speech; do
            metrics+=(--metric "test/${query}_r$k")
        done
        for query in speech_to_text text_to_speech speech_to_image image_to_speech; do
            metrics+=(--metric "voice/${query}_r$k")
        done
    done
    wb compare {{SWEEP}} --anyway --against clip3 "${metrics[@]}" --csv {{CSV}}
