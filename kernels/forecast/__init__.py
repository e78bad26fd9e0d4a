"""How long a kernel should take, from its machine code and a GPU's published rates: a forecast for a day without a GPU.

`machine_code` reads what a kernel executes for a tile, `gpus` holds rates and where they were published, `cycles` says
what a tile costs on each part of a multiprocessor, `published` holds the measurements of others that the one factor of
efficiency comes from.
"""
