"""`torchrun --standalone --nproc-per-node=2 -m workbench ARGUMENTS`, whose two processes are forked from this one.

The agent, its rendezvous and the variables that it gives its processes are torchrun's own.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch.distributed.run as torchrun
from forked import call
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(config: LaunchConfig, entrypoint: object) -> Callable[..., object]:
    """Stand in for `elastic_launch`, which is given Python and its words: -u -m workbench ARGUMENTS."""
    return lambda *words: elastic_launch(replace(config, start_method="fork"), call)(words[2], words[3:])


if __name__ == "__main__":
    torchrun.elastic_launch = launch  # type: ignore[assignment, misc]
    torchrun.run(torchrun.parse_args(["--standalone", "--nproc-per-node=2", "-m", "--", "workbench", *sys.argv[1:]]))
