"""The command line: flags, messages, exit codes, what is printed."""
