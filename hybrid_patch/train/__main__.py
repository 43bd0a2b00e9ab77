"""Train one run: `python -m hybrid_patch.train [overrides]`, or several with `-m`.

Exit code: 0 done · 75 stopped by a signal with its state saved (start it again and it goes on) · 2 bad input ·
76 another attempt has taken the run over · 1 other (130: a second Ctrl-C, which does not wait for the end of the step).
"""

if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: Ctrl-C ends the imports without a word
    from hybrid_patch.config.hydra_main import check_command_line
    from hybrid_patch.config.options import wait_briefly

    check_command_line()  # bad input ends here, before anything heavy is imported
    wait_briefly()


def main() -> None:
    """The command."""
    from hybrid_patch.config.hydra_main import run_hydra
    from hybrid_patch.train.attempt import train

    run_hydra(train)


if __name__ == "__main__":
    main()
