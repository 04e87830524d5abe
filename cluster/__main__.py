"""`python -m cluster` is the `loyalty` program."""

INTERRUPTED = 130  # as shells say it: 128 and SIGINT


def main() -> None:
    """Import and run it. Ctrl-C while it is imported, half a second, ends it without a word, as it does later."""
    try:
        from cluster.cli import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    run()


if __name__ == "__main__":
    main()
