"""`python -m workbench` and `torchrun -m workbench` are the `wb` command."""

from workbench.cli import main

if __name__ == "__main__":
    main()
