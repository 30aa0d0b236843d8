"""``python -m memroute_cli``."""

from memroute_cli.main import main

if __name__ == "__main__":
    main()
