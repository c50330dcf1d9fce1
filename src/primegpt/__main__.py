"""`python -m primegpt` is `primegpt`."""

from primegpt.cli.main import main

if __name__ == "__main__":
    main()
