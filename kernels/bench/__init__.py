"""Time, memory and errors of the contrastive losses against their peers, and the lower bound that all of them face.

python -m kernels.bench                  the comparison: a table, rows in results.csv, a plot
python -m kernels.bench.gpu --out DIR    a session on a GPU: check, tune, compare, profile, within some minutes
"""
